use super::*;
use crate::{
    job::{Execute, FirstRun, Policy, RunSpec, Seconds, Trigger, interval::Interval},
    plan::{Load, LoadRow},
};

fn at(text: &str) -> DateTime<Utc> {
    format!("2026-11-23T{text}Z").parse().unwrap()
}

fn job(name: &str, seconds: u64, policy: Policy) -> Arc<Job> {
    Arc::new(Job {
        name: name.parse().unwrap(),
        description: None,
        tags: Vec::new(),
        enabled: true,
        trigger: Trigger::Every(Interval::new(seconds, 0).unwrap()),
        timezone: chrono_tz::UTC,
        queue: "default".parse().unwrap(),
        policy,
        unique: None,
        spec: RunSpec::new(Execute::Shell("true".to_owned())),
    })
}

fn scenario(jobs: Vec<Arc<Job>>) -> Scenario {
    Scenario {
        jobs,
        from: at("10:00:00"),
        to: at("12:00:00"),
        down: Vec::new(),
        duration: Duration::from_secs(1),
        durations: HashMap::new(),
    }
}

fn told(scenario: &Scenario) -> Vec<String> {
    let mut told = Vec::new();
    simulate(scenario, |tick| {
        told.push(format!("{} {:?}", tick.tick.format("%H:%M"), tick.verdict));
    });
    told
}

#[test]
fn a_downtime_coalesces_and_misses_as_beat_would() {
    let mut scenario = scenario(vec![job("crawl", 1200, Policy::default())]);
    scenario.to = at("14:00:00");
    scenario.down = vec![Downtime {
        from: at("10:30:00"),
        to: at("13:10:00"),
    }];
    assert_eq!(
        told(&scenario),
        [
            "10:20 Fired",
            "10:40 Missed",
            "11:00 Missed",
            "11:20 Missed",
            "11:40 Missed",
            "12:00 Missed",
            "12:20 Coalesced",
            "12:40 Coalesced",
            "13:00 Fired",
            "13:20 Fired",
            "13:40 Fired",
            "14:00 Fired",
        ]
    );
}

#[test]
fn long_runs_skip_ticks_and_short_ones_do_not() {
    let mut scenario = scenario(vec![job("crawl", 1800, Policy::default())]);
    scenario.duration = Duration::from_secs(2400);
    let skipping = [
        "10:30 Fired",
        "11:00 Skipped",
        "11:30 Fired",
        "12:00 Skipped",
    ];
    assert_eq!(told(&scenario), skipping);
    let name = scenario.jobs[0].name.clone();
    scenario.durations.insert(name, Duration::from_secs(1800));
    assert_eq!(told(&scenario).len(), 4);
    assert!(told(&scenario).iter().all(|tick| tick.ends_with("Fired")));
}

fn starts(scenario: &Scenario) -> Vec<String> {
    let mut told = Vec::new();
    simulate(scenario, |tick| {
        let at = |at: DateTime<Utc>| at.format("%H:%M").to_string();
        told.push(match tick.starts_at {
            Some(start) => format!("{} {}", at(tick.tick), at(start)),
            None => format!("{} {:?}", at(tick.tick), tick.verdict),
        });
    });
    told
}

#[test]
fn one_run_waits_for_the_live_one_or_takes_its_place() {
    let overlapping = |overlap| {
        let policy = Policy {
            overlap,
            ..Policy::default()
        };
        let mut scenario = scenario(vec![job("crawl", 1200, policy)]);
        scenario.duration = Duration::from_secs(3000);
        starts(&scenario)
    };
    assert_eq!(
        overlapping(Overlap::Queue),
        [
            "10:20 10:20",
            "10:40 11:10",
            "11:00 Skipped",
            "11:20 12:00",
            "11:40 Skipped",
            "12:00 12:50",
        ]
    );
    let ticks = ["10:20", "10:40", "11:00", "11:20", "11:40", "12:00"];
    let at_once = ticks.map(|tick| format!("{tick} {tick}"));
    assert_eq!(overlapping(Overlap::Replace), at_once);
}

#[test]
fn an_anchored_interval_counts_from_its_runs() {
    let anchored = |anchor| {
        let mut one = Job::clone(&job("cookie", 1200, Policy::default()));
        one.trigger = Trigger::Every(Interval::new(1200, 0).unwrap().with_anchor(anchor));
        let mut scenario = scenario(vec![Arc::new(one)]);
        scenario.duration = Duration::from_secs(300);
        starts(&scenario)
    };
    assert_eq!(
        anchored(Anchor::LastSuccess),
        [
            "10:20 10:20",
            "10:45 10:45",
            "11:10 11:10",
            "11:35 11:35",
            "12:00 12:00"
        ]
    );
    assert_eq!(anchored(Anchor::LastStart).len(), 6);
}

#[test]
fn a_first_run_has_no_jitter_and_the_others_have() {
    let policy = Policy {
        first_run: FirstRun::Now,
        jitter: Some(Seconds::from_secs(1200)),
        ..Policy::default()
    };
    let told = starts(&scenario(vec![job("cookie", 3600, policy)]));
    assert_eq!(told[0], "10:00 10:00");
    assert!(
        told[1].starts_with("11:00") && told[1] != "11:00 11:00",
        "{told:?}"
    );
}

#[test]
fn the_load_counts_what_starts_at_once() {
    let jobs = (0..3).map(|n| job(&format!("job-{n}"), 1800, Policy::default()));
    let mut load = Load::default();
    simulate(&scenario(jobs.collect()), |tick| load.count(tick));
    let rows = load.rows();
    let row = |hour, starts| LoadRow {
        hour,
        queue: "default".parse().unwrap(),
        starts,
        at_once: 3,
    };
    assert_eq!(rows, [row(10, 3), row(11, 6), row(12, 3)]);
}
