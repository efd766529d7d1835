//! The clock of the machine is set forward and back while `up` runs, and daylight saving ends.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use crate::support::{Installation, Service, checker, wait_for};

const JOBS: &str = "
[job.second]
every = \"1s\"
catch_up = \"skip\"
overlap = \"allow\"
shell = \"echo $ORCHESTRATOR_RUN_ID >> ran\"
working_dir = \"..\"

[job.ten-minutes]
every = \"10m\"
shell = \"true\"

[job.by-hand]
shell = \"true\"
";

fn set_clock(here: &Installation, offset: &str) {
    let whole = here.path("clock");
    fs::write(here.path("clock.new"), offset).unwrap();
    fs::rename(here.path("clock.new"), whole).unwrap();
}

fn started(here: &Installation) -> Service {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/libfaketimeMT.so.1");
    assert!(
        library.exists(),
        "run tests/tools/libfaketime, or tests/run"
    );
    let clock = here.path("clock");
    let env = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    let up = here.start_with("up", &["up"], &env);
    wait_for("a run", || (!here.lines("ran").is_empty()).then_some(()));
    up
}

fn job(here: &Installation, name: &str) -> Value {
    let jobs = here.json(&["jobs"]);
    let mut jobs = jobs.as_array().unwrap().iter();
    jobs.find(|job| job["name"] == name).unwrap().clone()
}

fn run_by_hand(here: &Installation) {
    let ended = here.run(&["run", "by-hand", "--wait"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

#[test]
fn a_step_forward_is_a_gap_and_a_step_back_fires_nothing_twice() {
    let here = Installation::new();
    here.schedule("a.toml", JOBS);
    set_clock(&here, "+0");
    let _up = started(&here);
    set_clock(&here, "+1h");
    let missed = wait_for("the ticks of the hour to be missed", || {
        let missed = job(&here, "second")["missed"].as_u64()?;
        (missed > 0).then_some(missed)
    });
    assert!((3_500..=3_600).contains(&missed), "{missed}");
    let ten = wait_for("the ticks of the ten minutes", || {
        let job = job(&here, "ten-minutes");
        (job["coalesced"] != 0).then_some(job)
    });
    // Of six ticks the newest was run and stands for the others; another one may have come since.
    let coalesced = ten["coalesced"].as_u64().unwrap();
    assert!((5..=6).contains(&coalesced), "{ten}");
    let into = &ten["notes"].as_array().unwrap().last().unwrap()["run_id"];
    let runs = here.runs("ten-minutes");
    assert!(
        runs.iter().any(|run| run["run_id"] == *into),
        "{ten} {runs:?}"
    );
    let before = here.lines("ran").len();
    wait_for("ticks of the new time", || {
        (here.lines("ran").len() > before + 1).then_some(())
    });
    set_clock(&here, "+0");
    run_by_hand(&here);
    wait_for("what was published before to end", || {
        let runs = here.runs("second");
        let mut states = runs.iter().map(|run| &run["state"]);
        states.all(|state| state == "succeeded").then_some(())
    });
    let quiet = here.lines("ran").len();
    run_by_hand(&here);
    assert_eq!(here.lines("ran").len(), quiet, "something ran an hour ago");
    set_clock(&here, "+1h");
    wait_for("ticks again", || {
        (here.lines("ran").len() > quiet + 1).then_some(())
    });
    let ran = here.lines("ran");
    let distinct: BTreeSet<_> = ran.iter().collect();
    assert_eq!(distinct.len(), ran.len(), "a tick was run twice");
}

/// The last ten seconds before three o'clock in Berlin, the first time of two in that night.
const BEFORE_THE_REPEATED_HOUR: &str = "@2026-10-25 00:59:50";

const NIGHT: &str = r#"
[defaults]
timezone = "Europe/Berlin"
overlap = "allow"
working_dir = ".."

[job.second]
every = "1s"
shell = "echo $ORCHESTRATOR_RUN_ID >> ran"

[job.fixed]
cron = "*/2 0,59 2 * * *"
shell = "echo $ORCHESTRATOR_RUN_ID >> fixed"
"#;

#[test]
fn an_hour_that_is_repeated_repeats_no_tick() {
    let mut here = Installation::new();
    here.set("TZ", "UTC");
    here.schedule("a.toml", NIGHT);
    set_clock(&here, BEFORE_THE_REPEATED_HOUR);
    let up = started(&here);
    wait_for("the second time of two o'clock", || {
        let last = here.lines("ran").pop()?;
        (last.as_str() > "second@20261025T010006Z").then_some(())
    });
    checker::every_second_once(&here.lines("ran"));
    let fixed = here.lines("fixed");
    assert!(
        !fixed.is_empty() && fixed.iter().all(|id| id.contains("T0059")),
        "only the first time: {fixed:?}"
    );
    drop(up);
}
