//! Three beats, of which one after the other is killed, frozen, stopped or cut off: every tick has one
//! run, whether one of them leads or all work at the same time.
//!
//! The order of events is always the same one unless `BEATS_SEED` gives another; `BEATS_ROUNDS` makes it
//! longer.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::support::{
    Installation, Service,
    nats::NatsServer,
    network::Network,
    random::{Random, number},
    wait_for,
};

const BEATS: usize = 3;
/// In a network of its own.
const REMOTE: usize = 2;

const EVERY_SECOND: &str = r#"
[job.tick]
every = "1s"
overlap = "allow"
catch_up = "all"
catch_up_window = "1h"
command = ["sh", "-c", "echo $ORCHESTRATOR_RUN_ID >> ticks"]
working_dir = ".."
"#;

/// At each of these a beat may stand still for longer than the lease.
const STANDSTILL: &str = "beat-due=4%sleep(1300);beat-announced=4%sleep(1300);\
    beat-before-publish=2%sleep(1300);beat-published=2%sleep(1300);\
    beat-before-states=4%sleep(1300);beat-before-commit=4%sleep(1300);beat-committed=4%sleep(1300)";

struct Beats {
    running: Vec<Option<Service>>,
    started: usize,
    lease: &'static str,
    network: Network,
    here: Installation,
}

impl Beats {
    fn start(&mut self, at: usize) {
        self.started += 1;
        let name = format!("beat-{}", self.started);
        let directory = self.here.path(&format!("beat-{at}")).display().to_string();
        let args = [
            "beat",
            "--data-dir",
            &directory,
            "--leader-lease",
            self.lease,
        ];
        let env = [("FAILPOINTS", STANDSTILL)];
        let service = match at {
            REMOTE => self.here.start_in(&self.network, &name, &args, &env),
            _ => self.here.start_with(&name, &args, &env),
        };
        // Before that a SIGTERM is not understood.
        wait_for("a sign of life", || {
            (!service.log().is_empty()).then_some(())
        });
        self.running[at] = Some(service);
    }

    /// The one that said last that it leads.
    fn leader(&self) -> Option<usize> {
        let led_at = |service: &Service| {
            let log = service.log();
            let line = log.lines().rfind(|line| line.contains("\"leading\""))?;
            let event: Value = serde_json::from_str(line).ok()?;
            Some(event["timestamp"].as_str()?.to_owned())
        };
        let led = self.running.iter().enumerate();
        let led = led.filter_map(|(at, service)| Some((led_at(service.as_ref()?)?, at)));
        Some(led.max()?.1)
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "faults have their time, nothing is waited for"
    )]
    fn trouble(&mut self, random: &mut Random) {
        let pause = |below: u64, random: &mut Random| {
            std::thread::sleep(Duration::from_millis(random.below(below)));
        };
        let anybody = random.below(BEATS as u64) as usize;
        let at = match random.below(3) {
            0 => anybody,
            _ => self.leader().unwrap_or(anybody),
        };
        match random.below(10) {
            0..=2 => {
                self.running[at].take().unwrap().kill9();
                pause(1_500, random);
                self.start(at);
            }
            3..=5 => {
                let frozen = self.running[at].as_ref().unwrap();
                frozen.signal(rustix::process::Signal::STOP);
                pause(2_500, random);
                frozen.signal(rustix::process::Signal::CONT);
            }
            6 => {
                assert!(self.running[at].take().unwrap().stop().success());
                self.start(at);
            }
            7 => {
                // As on another machine.
                self.running[at].take().unwrap().kill9();
                std::fs::remove_dir_all(self.here.path(&format!("beat-{at}"))).unwrap();
                self.start(at);
            }
            _ => {
                self.network.pull();
                pause(2_500, random);
                self.network.plug();
            }
        }
        pause(1_000, random);
    }
}

fn ticks(here: &Installation) -> Vec<DateTime<Utc>> {
    let runs = here.runs("tick");
    let tick = |run: &Value| run["scheduled_for"].as_str().unwrap().parse().unwrap();
    runs.iter().map(tick).collect()
}

fn every_tick_has_one_run(lease: &'static str) {
    let (seed, rounds) = (number("BEATS_SEED", 31), number("BEATS_ROUNDS", 12));
    println!("BEATS_SEED={seed} BEATS_ROUNDS={rounds}");
    let mut random = Random(seed);
    let network = Network::new();
    let nats = NatsServer::start_at(network.outside(), "");
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    let worker = here.start(
        "worker",
        &["worker", "--queue", "default", "--trust-broker"],
    );
    let mut beats = Beats {
        running: (0..BEATS).map(|_| None).collect(),
        started: 0,
        lease,
        network,
        here,
    };
    for at in 0..BEATS {
        beats.start(at);
    }
    wait_for("the first run", || {
        (!beats.here.lines("ticks").is_empty()).then_some(())
    });
    for _ in 0..rounds {
        beats.trouble(&mut random);
    }
    let here = &beats.here;
    let before = here.lines("ticks").len();
    wait_for("runs after the last trouble", || {
        (here.lines("ticks").len() > before + 3).then_some(())
    });
    for service in beats.running.iter_mut().flat_map(Option::take) {
        assert!(service.stop().success());
    }
    wait_for("the end of every run", || {
        let open = here.json(&["runs", "--state", "queued", "--state", "running"]);
        open.as_array().unwrap().is_empty().then_some(())
    });
    assert!(worker.stop().success());

    let fired = ticks(here);
    let distinct: BTreeSet<_> = fired.iter().copied().collect();
    assert_eq!(
        distinct.len(),
        fired.len(),
        "seed {seed}: a tick has two runs"
    );
    let (first, last) = (distinct.first().unwrap(), distinct.last().unwrap());
    let missing: Vec<_> = (0..=(*last - *first).num_seconds())
        .map(|second| *first + chrono::Duration::seconds(second))
        .filter(|tick| !distinct.contains(tick))
        .collect();
    assert!(missing.is_empty(), "seed {seed}: no run for {missing:?}");
    let executed = here.lines("ticks");
    let once: BTreeSet<_> = executed.iter().collect();
    assert_eq!(once.len(), executed.len(), "seed {seed}: executed twice");
    assert_eq!(once.len(), fired.len(), "seed {seed}: not executed");
}

/// The runs of a job were executed once each.
fn executed_once(here: &Installation, seconds_apart: i64) {
    let executed = here.lines("ticks");
    let once: BTreeSet<_> = executed.iter().collect();
    assert_eq!(once.len(), executed.len(), "executed twice: {executed:#?}");
    let at = |id: &String| {
        let tick = id.split_once('@').unwrap().1;
        chrono::NaiveDateTime::parse_from_str(tick, "%Y%m%dT%H%M%SZ").unwrap()
    };
    let ticks: BTreeSet<_> = executed.iter().map(at).collect();
    let whole = ticks
        .last()
        .unwrap()
        .signed_duration_since(*ticks.first().unwrap());
    let expected = whole.num_seconds() / seconds_apart + 1;
    assert_eq!(
        ticks.len() as i64,
        expected,
        "a tick has no run: {executed:#?}"
    );
}

/// A paused job, and one that counts from its last run: both are remembered by the broker.
const REMEMBERED: &str = r#"
[job.paused]
every = "1s"
shell = "echo no >> paused"
working_dir = ".."

[job.anchored]
every = "1h"
anchor = "last_start"
first_run = "now"
shell = "echo once >> anchored"
working_dir = ".."
"#;

/// Kills `which` of two beats together with a nats-server that loses all its data.
fn wiped(kill_the_leader: bool) {
    let mut nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    here.schedule("b.toml", REMEMBERED);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    let start = |name: &str| {
        let directory = here.path(name).display().to_string();
        here.start(name, &["beat", "--data-dir", &directory, "-v"])
    };
    let leader = start("leader");
    wait_for("the first runs", || {
        (here.lines("ticks").len() > 1 && here.lines("anchored").len() == 1).then_some(())
    });
    assert_eq!(here.run(&["pause", "paused", "--reason", "a test"]).code, 0);
    let standby = start("standby");
    wait_for("the standby's own copy of the pause", || {
        let is_paused = |job: &Value| job["paused"]["reason"] == "a test";
        here.json(&["jobs"])
            .as_array()?
            .iter()
            .find(|job| is_paused(job))?;
        standby
            .log()
            .contains("own copy brought up to date")
            .then_some(())
    });
    let silent = here.lines("paused").len();
    let copies = || standby.log().matches("own copy brought up to date").count();
    let before = copies();
    wait_for("another copy", || (copies() > before + 1).then_some(()));

    nats.kill9();
    let mut leader = Some(leader);
    if kill_the_leader {
        leader.take().unwrap().kill9();
    }
    nats.wipe();
    nats.restart();
    let before = here.lines("ticks").len();
    wait_for("runs on the empty server", || {
        (here.lines("ticks").len() > before + 3).then_some(())
    });
    let jobs = here.json(&["jobs"]);
    let job = |name: &str| {
        let mut jobs = jobs.as_array().unwrap().iter();
        jobs.find(|job| job["name"] == name).unwrap().clone()
    };
    assert_eq!(job("paused")["paused"]["reason"], "a test", "{jobs:#}");
    assert_eq!(
        here.lines("paused").len(),
        silent,
        "the pause was forgotten"
    );
    assert_eq!(
        here.lines("anchored").len(),
        1,
        "it counts from its last run"
    );
    executed_once(&here, 1);
    drop(leader);
}

#[test]
fn a_wiped_broker_is_refilled_by_the_leader() {
    wiped(false);
}

#[test]
fn a_wiped_broker_is_refilled_by_a_standby() {
    wiped(true);
}

#[test]
fn a_damaged_own_copy_is_set_aside_and_made_anew() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    for damage in ["nothing", "a cut", "zeros", "an empty file"] {
        let beat = here.start("beat", &["beat"]);
        let before = here.lines("ticks").len();
        wait_for("runs", || {
            (here.lines("ticks").len() > before + 1).then_some(())
        });
        let aside = beat
            .log()
            .matches("the store is damaged: it was set aside")
            .count();
        assert!(beat.stop().success());
        let database = here.path("data/beat/db");
        let file = std::fs::File::options()
            .write(true)
            .open(&database)
            .unwrap();
        let size = file.metadata().unwrap().len();
        match damage {
            "nothing" => {
                assert_eq!(aside, 0, "it is not damaged");
                file.set_len(size / 3).unwrap();
            }
            "a cut" => {
                assert_eq!(aside, 1, "the log grows");
                std::fs::write(&database, vec![0; size as usize]).unwrap();
            }
            "zeros" => {
                assert_eq!(aside, 2);
                file.set_len(0).unwrap();
            }
            _ => assert_eq!(aside, 3),
        }
    }
    let kept = std::fs::read_dir(here.path("data/beat")).unwrap();
    let is_aside = |name: std::ffi::OsString| name.to_string_lossy().starts_with("corrupt-");
    let kept = kept.filter(|entry| is_aside(entry.as_ref().unwrap().file_name()));
    assert_eq!(kept.count(), 3, "nothing is deleted");
    executed_once(&here, 1);
}

#[test]
fn a_beat_that_died_is_told_by_workers_and_by_jobs() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    let worker = here.start("worker", &["worker", "--queue", "default"]);
    let beat = here.start("beat", &["beat"]);
    wait_for("the first run", || {
        (!here.lines("ticks").is_empty()).then_some(())
    });
    let warning = || here.run(&["jobs"]).stderr;
    assert_eq!(warning(), "");
    beat.kill9();
    wait_for("the worker to notice", || {
        worker.log().contains("beat is silent for").then_some(())
    });
    wait_for("`jobs` to say it", || {
        let warning = warning();
        (warning.contains("beat is silent for") && warning.contains("start `orchestrator beat`"))
            .then_some(())
    });
    wait_for("`workers` to count it", || {
        let workers = here.json(&["workers"]);
        (workers[0]["beat"]["stalls"] == 1).then_some(())
    });
    let _beat = here.start("beat", &["beat"]);
    wait_for("the worker to see the new one", || {
        worker.log().contains("beat is there again").then_some(())
    });
    assert_eq!(warning(), "");
    executed_once(&here, 1);
}

#[test]
fn with_a_leader() {
    every_tick_has_one_run("900ms");
}

#[test]
fn all_at_the_same_time() {
    every_tick_has_one_run("off");
}
