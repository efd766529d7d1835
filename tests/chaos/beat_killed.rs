//! Beat killed with SIGKILL between any two of its steps: no tick fires twice, none is lost.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use crate::{
    beat_stopped::{BATCH, BRIEFED, WIPED, WORKER},
    clock::SET_BACK,
    seed,
    support::{Installation, Service, checker, nats::NatsServer, random::number, wait_for},
};

/// The steps of beat between "due" and "committed", and those of a start before it repeats a step.
pub const POINTS: [&str; 47] = [
    "beat-watermark-read",
    "beat-states-read",
    "beat-installation-read",
    "beat-installation-named",
    "beat-listening",
    "beat-repeating",
    "beat-begun-again",
    "beat-due",
    "beat-watermark-moved",
    "beat-announced",
    "beat-too-late",
    "beat-before-publish",
    "beat-asked",
    "publish-sought-record",
    "publish-sought-run",
    "publish-other-found",
    "publish-before-cancel",
    "publish-before-cancel-elsewhere",
    "publish-record-read",
    "publish-cancel-recorded",
    "publish-worker-told",
    "publish-before-removal",
    "publish-removed",
    "publish-cancelled",
    "publish-cancelled-elsewhere",
    "publish-looked-elsewhere",
    "publish-before-slot",
    "nats-before-store",
    "nats-stored",
    "publish-refused",
    "publish-vanished",
    "publish-in-the-way",
    "publish-ended",
    "publish-dead",
    "publish-freed",
    "beat-before-agreement",
    "beat-record-written",
    "beat-disagreed",
    "beat-agreed",
    "beat-occupied",
    "beat-sought-record",
    "beat-before-calling-off",
    "beat-looked-up",
    "beat-published",
    "beat-before-states",
    "beat-state-written",
    "beat-before-commit",
];

/// What follows a commit.
pub const AFTER: [&str; 2] = ["beat-committed", "beat-own-kept"];

/// Every step takes its time with this probability, in percent, and for so long.
pub fn each_takes_its_time(percent: u32, milliseconds: u32) -> String {
    let at = |point: &&str| format!("{point}={percent}%sleep({milliseconds})");
    let all: Vec<_> = POINTS.iter().chain(&AFTER).map(at).collect();
    all.join(";")
}

pub const EVERY_SECOND: &str = r#"
[job.tick]
every = "1s"
overlap = "allow"
shell = "echo $ORCHESTRATOR_RUN_ID >> ticks"
working_dir = ".."
"#;

/// Two more jobs meet their own live run at most ticks, so that beat has to look at what is in their way, and to write
/// a state, or to cancel it.
pub const ALWAYS_LIVE: &str = r#"
[job.live]
every = "1s"
shell = "sleep 3"

[job.replaced]
every = "1s"
overlap = "replace"
shell = "sleep 3"
"#;

/// Starts a last beat, and waits until it has fired ticks of its own: what those before it left half done is done.
/// Runs alone do not show that: they may have been published before.
pub fn fires_again(here: &Installation) -> Service {
    let before = here.read("beat.log").len();
    let beat = here.start("beat", &["beat"]);
    wait_for("ticks after the last restart", || {
        let log = beat.log();
        let published = |line: &&str| line.contains("run published") && line.contains("\"tick\"");
        let published = log.get(before..)?.lines().filter(published).count();
        (published >= 3).then_some(())
    });
    beat
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "faults have their time, nothing is waited for"
)]
fn at_any_step() {
    let mut random = seed();
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    here.schedule("b.toml", ALWAYS_LIVE);
    let worker = here.start("worker", &["worker", "--queue", "default"]);
    // Each step takes its time now and then, so that kills fall between any two.
    let slow = each_takes_its_time(15, 120);
    let slow = [("FAILPOINTS", &*slow)];
    for _ in 0..number("CHAOS_ROUNDS", 12) {
        let led = || here.read("beat.log").matches("\"leading\"").count();
        let before = led();
        let beat = here.start_with("beat", &["beat"], &slow);
        wait_for("beat to lead", || (led() > before).then_some(()));
        std::thread::sleep(Duration::from_millis(random.below(1_500)));
        beat.kill9();
    }
    let beat = fires_again(&here);
    assert!(beat.stop().success());
    checker::all_ended(&here);
    for job in ["tick", "live", "replaced"] {
        checker::one_verdict_each(&here, job);
    }
    checker::executed_once(&here, "tick", "ticks");
    assert!(worker.stop().success());
}

fn points_in(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            points_in(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let names = text.split("point!(\"").skip(1);
        found.extend(names.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
    }
}

/// Every point of the source is one that some test stops at, and the other way round.
#[test]
fn no_point_is_forgotten() {
    let mut there = BTreeSet::new();
    points_in(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut there,
    );
    let stopped_at = POINTS.iter().chain(&AFTER).chain(&BATCH).chain(&WIPED);
    let stopped_at = stopped_at
        .chain([&WORKER, &SET_BACK, &BRIEFED])
        .map(|point| (*point).to_owned());
    assert_eq!(there, stopped_at.collect());
}
