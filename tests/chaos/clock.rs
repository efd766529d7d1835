//! The clock of the machine is set forward and back while `up` runs, and daylight saving ends.

use std::{collections::BTreeSet, fs, path::Path};

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde_json::Value;

use crate::beat_stopped::beat_killed_at;
use crate::support::{
    Installation, Service, checker,
    listener::{Heard, Listener},
    nats::NatsServer,
    probes::{ask, port},
    wait_for,
};

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

/// Where the states of jobs count from now, and the watermark does not yet.
pub const SET_BACK: &str = "beat-states-set-back";

fn set_clock(here: &Installation, offset: &str) {
    let whole = here.path("clock");
    fs::write(here.path("clock.new"), offset).unwrap();
    fs::rename(here.path("clock.new"), whole).unwrap();
}

/// Starts a service whose clock can be set.
fn start(here: &Installation, name: &str, args: &[&str]) -> Service {
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
    here.start_with(name, args, &env)
}

fn started(here: &Installation, args: &[&str]) -> Service {
    let up = start(here, "up", &[&["up"], args].concat());
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

/// The status and the text of `/readyz`.
fn readiness(port: u16) -> Option<(u16, String)> {
    ask(port, "GET /readyz")
}

/// The time until which beat waits, in what is said of it: to come, and not further away than the clock was ahead. How
/// it is mended is said, too.
fn until(who: &str, said: &str) -> DateTime<Utc> {
    assert!(said.contains("set the clock right"), "{who}: {said}");
    let (_, after) = said.split_once("until ").unwrap();
    let (until, _) = after.split_once(" UTC").unwrap();
    let until = NaiveDateTime::parse_from_str(until, "%F %T")
        .unwrap()
        .and_utc();
    let ahead = (until - now()).num_minutes();
    assert!((50..=60).contains(&ahead), "{who}: {said}");
    until
}

#[allow(
    clippy::disallowed_methods,
    reason = "the real clock, beside one that is set"
)]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// The clock is back from an hour ahead: that beat waits, until when, and how to mend it is in its log and that of a
/// worker, in `/readyz`, in the dead man's ping, and in what the commands say.
fn everybody_says_that_beat_waits(
    here: &Installation,
    up: &Service,
    listener: &Listener,
    port: u16,
) {
    let logged = |by: &str| {
        let by = format!("\"target\":\"orchestrator::{by}\"");
        let log = up.log();
        let mut lines = log.lines();
        let line = lines.find(|line| line.contains(&by) && line.contains("was set back"))?;
        assert!(line.contains("\"level\":\"ERROR\""), "{line}");
        Some(line.to_owned())
    };
    let expected = until("beat", &wait_for("beat's log", || logged("beat")));
    let of_worker = wait_for("the worker's log", || logged("worker"));
    let pinged = wait_for("the ping", || {
        let heard = listener.heard();
        let mut failed = heard.iter().filter(|heard| heard.path == "/beat/fail");
        failed.next().map(|Heard { body, .. }| body.clone())
    });
    let (status, ready) = readiness(port).unwrap();
    assert_eq!(status, 503, "{ready}");
    let doctor = here.run(&["doctor"]);
    assert_eq!(doctor.code, 1, "{}", doctor.stdout);
    let workers = wait_for("`workers` to say so", || {
        let said = here.run(&["workers"]).stderr;
        (!said.is_empty()).then_some(said)
    });
    for (who, said) in [
        ("the worker", of_worker),
        ("the ping", pinged),
        ("/readyz", ready),
        ("doctor", doctor.stdout),
        ("jobs", here.run(&["jobs"]).stderr),
        ("workers", workers),
        ("explain", here.run(&["explain", "second"]).stdout),
    ] {
        assert_eq!(until(who, &said), expected, "{who}: {said}");
    }
    // What has been decided on does not come next.
    let explained = here.json(&["explain", "second"]);
    for (who, next) in [
        ("jobs", &job(here, "second")["next"]),
        ("explain", &explained["next"]),
    ] {
        let next: DateTime<Utc> = next.as_str().unwrap().parse().unwrap();
        assert!(next > expected, "{who}: {next}");
    }
    // On a busy machine there may be others, of ticks by themselves.
    let notes = job(here, "second")["notes"].clone();
    let mut notes = notes.as_array().unwrap().iter();
    let hour = notes.find(|note| note["count"].as_u64() > Some(3_000));
    let missed = hour.unwrap()["last"].as_str().unwrap();
    let said = here.run(&["explain", "second", "--at", missed]);
    assert!(said.stdout.contains("it was ahead"), "{}", said.stdout);
}

#[test]
fn a_step_forward_is_a_gap_and_a_step_back_fires_nothing_twice() {
    let here = Installation::new();
    here.schedule("a.toml", JOBS);
    set_clock(&here, "+0");
    let listener = Listener::start(|_, _| "200 OK");
    let (ping, port) = (format!("{}/beat", listener.url), port());
    let listen = format!("127.0.0.1:{port}");
    let up = started(&here, &["--beat-ping", &ping, "--listen", &listen]);
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
    everybody_says_that_beat_waits(&here, &up, &listener, port);
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
    wait_for("everybody to say that it goes on", || {
        let is_well = listener.heard().last()?.path == "/beat" && readiness(port)?.0 == 200;
        let is_told = up.log().contains("the clock is at the watermark again")
            && up.log().contains("beat is there again");
        (is_well && is_told && here.run(&["workers"]).stderr.is_empty()).then_some(())
    });
    let ran = here.lines("ran");
    let distinct: BTreeSet<_> = ran.iter().collect();
    assert_eq!(distinct.len(), ran.len(), "a tick was run twice");
}

#[test]
fn a_step_forward_is_no_standstill() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", "[job.by-hand]\nshell = \"true\"\n");
    set_clock(&here, "+0");
    let _beat = start(&here, "beat", &["beat", "--leader-lease", "300ms"]);
    // Asleep for seconds, but for its sign of life.
    let renewed_at = || -> Option<DateTime<Utc>> {
        let renewed_at = nats.state("leader")["renewed_at"].clone();
        renewed_at.as_str()?.parse().ok()
    };
    wait_for("the definition", || {
        here.try_json(&["jobs"])?.get(0).cloned()
    });
    set_clock(&here, "+1h");
    wait_for("a sign of life an hour ahead", || {
        (renewed_at()? > now() + TimeDelta::minutes(50)).then_some(())
    });
    let said = here.run(&["jobs"]).stderr;
    assert_eq!(said, "", "its loop comes round");
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
    let up = started(&here, &[]);
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

/// Beat ran by a clock that was ahead by hours, and dies in the middle of taking back what it remembers of that: the next
/// one does it again, and goes on at once.
#[test]
fn killed_while_it_takes_back_what_was_ahead_it_goes_on_at_once() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    set_clock(&here, "+8h");
    let ahead = start(&here, "beat", &["beat"]);
    wait_for("a run", || (!here.lines("ran").is_empty()).then_some(()));
    ahead.kill9();
    set_clock(&here, "+0");
    beat_killed_at(&here, SET_BACK, "");
    let before = here.lines("ran").len();
    let _beat = here.start("beat", &["beat"]);
    wait_for("runs of now", || {
        (here.lines("ran").len() > before + 2).then_some(())
    });
    let runs = here.lines("ran");
    let each: BTreeSet<_> = runs.iter().collect();
    assert_eq!(each.len(), runs.len(), "{runs:?}");
}
