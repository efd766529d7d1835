use std::sync::Arc;

use super::*;
use crate::{
    job::{Blackout, Execute, Job, RunSpec, Seconds, Trigger, blackout::When, interval::Interval},
    plan::{JobState, MakeUp, Pause, Skipper},
};

fn at(text: &str) -> DateTime<Utc> {
    format!("2026-11-23T{text}Z").parse().unwrap()
}

fn with(seconds: u64, policy: Policy) -> Scheduled {
    let job = Job {
        name: "crawl".parse().unwrap(),
        description: None,
        tags: Vec::new(),
        enabled: true,
        trigger: Trigger::Every(Interval::new(seconds, 0).unwrap()),
        timezone: chrono_tz::UTC,
        queue: "default".parse().unwrap(),
        policy,
        unique: None,
        spec: RunSpec::new(Execute::Shell("true".to_owned())),
    };
    let state = JobState::first_seen(&job, at("00:00:00"), at("00:00:00"));
    Scheduled::new(Arc::new(job), &state)
}

fn every(seconds: u64, catch_up: CatchUp, window: u64) -> Scheduled {
    let policy = Policy {
        catch_up,
        catch_up_window: Seconds::from_secs(window),
        max_catch_up: 3,
        ..Policy::default()
    };
    with(seconds, policy)
}

fn pause(since: &str, until: Option<&str>) -> Pause {
    Pause {
        since: at(since),
        until: until.map(at),
        reason: None,
        catch_up: false,
    }
}

fn range(from: &str, to: &str) -> Blackout {
    Blackout {
        name: "fair".parse().unwrap(),
        when: When::Range {
            from: at(from),
            to: at(to),
        },
    }
}

/// `10:00 fires`, `05:10..09:00 24 missed`.
fn told(job: &Scheduled, after: &str, now: &str) -> Vec<String> {
    let decision = decide(job, at(after), at(now));
    let time = |at: DateTime<Utc>| at.format("%H:%M").to_string();
    let mut told: Vec<_> = decision
        .unfired
        .iter()
        .map(
            |Unfired {
                 verdict,
                 reason,
                 span,
             }| {
                let why = match reason {
                    Some(reason) => format!("{reason:?}"),
                    None => format!("{verdict:?}"),
                };
                let (first, last) = (time(span.first), time(span.last));
                format!("{first}..{last} {} {}", span.count, why.to_lowercase())
            },
        )
        .collect();
    told.extend(
        decision
            .fire
            .iter()
            .map(|tick| format!("{} fires", time(*tick))),
    );
    told.sort();
    told
}

#[test]
fn a_tick_on_time_fires_under_every_policy() {
    for catch_up in [CatchUp::Skip, CatchUp::Latest, CatchUp::All] {
        let job = every(600, catch_up, 3600);
        assert_eq!(told(&job, "10:00:00", "10:10:00.3"), ["10:10 fires"]);
    }
}

#[test]
fn after_a_downtime_the_newest_runs_and_the_rest_is_accounted_for() {
    let job = every(600, CatchUp::Latest, 3600);
    assert_eq!(
        told(&job, "05:00:00", "10:05:00"),
        [
            "05:10..09:00 24 missed",
            "09:10..09:50 5 coalesced",
            "10:00 fires"
        ]
    );
}

#[test]
fn nothing_older_than_the_window_runs() {
    let job = every(4 * 3600, CatchUp::Latest, 3600);
    assert_eq!(
        told(&job, "07:00:00", "09:30:00"),
        ["08:00..08:00 1 missed"]
    );
    assert_eq!(told(&job, "07:00:00", "09:00:00"), ["08:00 fires"]);
}

#[test]
fn all_is_bounded_and_oldest_first() {
    let job = every(600, CatchUp::All, 3600);
    assert_eq!(
        told(&job, "09:05:00", "10:05:00"),
        [
            "09:10..09:30 3 missed",
            "09:40 fires",
            "09:50 fires",
            "10:00 fires"
        ]
    );
    let decision = decide(&job, at("09:05:00"), at("10:05:00"));
    assert!(decision.fire.is_sorted());
}

#[test]
fn skip_misses_what_is_late() {
    let job = every(600, CatchUp::Skip, 3600);
    assert_eq!(
        told(&job, "09:05:00", "10:05:00"),
        ["09:10..10:00 6 missed"]
    );
}

#[test]
fn a_pause_skips_its_ticks_and_no_others() {
    let mut job = every(600, CatchUp::All, 3600);
    job.paused = Some(pause("09:15:00", Some("09:35:00")));
    assert_eq!(
        told(&job, "08:05:00", "10:05:00"),
        [
            "08:10..09:10 7 missed",
            "09:20..09:30 2 paused",
            "09:40 fires",
            "09:50 fires",
            "10:00 fires",
        ]
    );
    job.paused = Some(pause("07:00:00", None));
    assert_eq!(
        told(&job, "05:05:00", "10:05:00"),
        ["05:10..07:00 12 missed", "07:10..10:00 18 paused"]
    );
}

#[test]
fn what_was_paused_is_made_up_for_as_far_as_the_policy_has_it() {
    let resumed = |catch_up, decided: &str| {
        let mut job = every(600, catch_up, 3600);
        job.paused = Some(Pause {
            catch_up: true,
            ..pause("08:00:00", Some("10:05:00"))
        });
        // Beat had decided on everything up to `decided`, and has taken back what it said of it.
        job.to_make_up = Some(MakeUp {
            from: at("08:00:00"),
            until: at("10:05:00"),
            skipped_by: Skipper::Pause,
        });
        told(&job, decided, "10:15:00")
    };
    let latest = [
        "08:10..09:10 7 paused",
        "09:20..10:00 5 coalesced",
        "10:10 fires",
    ];
    assert_eq!(resumed(CatchUp::Latest, "10:05:00"), latest);
    assert_eq!(resumed(CatchUp::Latest, "09:05:00"), latest);
    assert_eq!(
        resumed(CatchUp::All, "10:05:00"),
        [
            "08:10..09:40 10 paused",
            "09:50 fires",
            "10:00 fires",
            "10:10 fires"
        ]
    );
    assert_eq!(
        resumed(CatchUp::Skip, "10:05:00"),
        ["08:10..10:00 12 paused", "10:10..10:10 1 missed"]
    );
    // What came before the pause and was not decided on is decided as ever.
    assert_eq!(
        resumed(CatchUp::All, "07:45:00")[0],
        "07:50..08:00 2 missed"
    );
}

#[test]
fn a_blackout_skips_what_would_start_in_it() {
    let policy = Policy {
        blackouts: vec![range("09:20:00", "09:50:00")],
        catch_up: CatchUp::All,
        ..Policy::default()
    };
    let job = with(600, policy.clone());
    assert_eq!(
        told(&job, "09:05:00", "10:05:00"),
        [
            "09:10 fires",
            "09:20..09:40 3 blackout",
            "09:50 fires",
            "10:00 fires"
        ]
    );
    // Late, and in the blackout by now.
    assert_eq!(
        told(&job, "09:05:00", "09:45:00"),
        ["09:10..09:40 4 blackout"]
    );
    // Long ago: counted, not walked through.
    assert_eq!(
        told(&job, "08:05:00", "20:05:00"),
        [
            "08:10..09:10 7 missed",
            "09:20..09:40 3 blackout",
            "09:50..19:00 56 missed",
            "19:10 fires",
            "19:20 fires",
            "19:30 fires",
            "19:40 fires",
            "19:50 fires",
            "20:00 fires",
        ]
    );
}

#[test]
fn a_blackout_counts_at_the_start_of_a_jittered_run() {
    let job = |from, to| {
        let policy = Policy {
            blackouts: vec![range(from, to)],
            jitter: Some(Seconds::from_secs(60)),
            ..Policy::default()
        };
        with(600, policy)
    };
    // The run of 10:00 starts at 10:00:15.744.
    let skipped = ["10:00..10:00 1 blackout"];
    assert_eq!(
        told(&job("10:00:10", "10:00:20"), "09:55:00", "10:00:00"),
        skipped
    );
    let fired = ["10:00 fires"];
    assert_eq!(
        told(&job("10:00:16", "10:00:20"), "09:55:00", "10:00:00"),
        fired
    );
}

#[test]
fn every_tick_is_in_exactly_one_place() {
    for catch_up in [CatchUp::Skip, CatchUp::Latest, CatchUp::All] {
        for (step, window) in [(7, 100), (60, 60), (600, 86_400), (3600, 1)] {
            let mut job = every(step, catch_up, window);
            job.paused = Some(pause("03:00:00", Some("04:00:00")));
            let mut blacked = Job::clone(&job.job);
            let blackouts = vec![range("02:30:00", "03:30:00"), range("09:00:01", "09:10:00")];
            blacked.policy.blackouts = blackouts;
            job.job = Arc::new(blacked);
            let (after, now) = (at("01:23:45"), at("10:00:00"));
            let decision = decide(&job, after, now);
            let unfired: u64 = decision.unfired.iter().map(|one| one.span.count).sum();
            let accounted = decision.fire.len() as u64 + unfired;
            assert_eq!(
                accounted,
                job.count_between(after, now),
                "{catch_up:?} {step}"
            );
            let spans = decision
                .unfired
                .iter()
                .map(|one| (one.span.first, one.span.last));
            let bounds: Vec<_> = spans.flat_map(|(first, last)| [first, last]).collect();
            assert!(
                bounds.is_sorted(),
                "{catch_up:?} {step}: {:?}",
                decision.unfired
            );
        }
    }
}
