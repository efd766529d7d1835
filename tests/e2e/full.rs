//! A broker that is full: submitters are told, beat waits, and no tick is lost or fired twice.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use orchestrator::{clock, run::RunId};
use serde_json::{Value, json};

use crate::support::{
    Installation, Service,
    nats::NatsServer,
    probes::{ask, port},
    wait_for,
};

/// `tick` is executed by nobody until somebody serves `ticks`.
const JOBS: &str = r#"
[job.tick]
every = "1s"
queue = "ticks"
overlap = "allow"
catch_up = "all"
catch_up_window = "1h"
max_catch_up = 1000
shell = "echo $ORCHESTRATOR_RUN_ID >> ticks"
working_dir = ".."

[job.page]
queue = "pages"
overlap = "allow"
shell = "true"
"#;

/// Each of its ticks but the first finds that run in its way.
const IN_THE_WAY: &str = r#"
[job.in-the-way]
every = "1s"
queue = "nobody"
shell = "true"
"#;

const HELD: &str = "beat holds its watermark";

fn waiting(here: &Installation) -> u64 {
    let queues = here.try_json(&["queues"]).unwrap_or_default();
    let queues = queues.as_array().into_iter().flatten();
    let ticks = queues.filter(|queue| queue["queue"] == "ticks");
    ticks.filter_map(|queue| queue["waiting"].as_u64()).sum()
}

/// What `doctor` says in a check, in words with this part.
fn finding(here: &Installation, check: &str, part: &str) -> Option<Value> {
    let ended = here.run(&["doctor", "-o", "json"]);
    let found: Value = serde_json::from_str(&ended.stdout).ok()?;
    let is = |finding: &&Value| {
        let message = finding["message"].as_str();
        finding["check"] == check && message.is_some_and(|text| text.contains(part))
    };
    found.as_array()?.iter().find(is).cloned()
}

fn beat(here: &Installation) -> Service {
    let beat = here.start("beat", &["beat"]);
    wait_for("ticks", || (waiting(here) > 1).then_some(()));
    beat
}

fn wait_until_it_waits(beat: &Service) {
    wait_for("beat to say that it waits", || {
        let log = beat.log();
        let told = |line: &&str| line.contains(HELD) && line.contains("has no room");
        log.lines().find(told).map(drop)
    });
}

/// What beat has told of ticks, a run id each time.
fn told_of_ticks(log: &str) -> Vec<RunId> {
    let told = log.lines().filter_map(|line| {
        let event: Value = serde_json::from_str(line).ok()?;
        let of_a_tick = ["tick not run", "run published"].contains(&event["message"].as_str()?);
        of_a_tick.then(|| event["run_id"].as_str().unwrap().parse().unwrap())
    });
    told.collect()
}

/// Lets a few more ticks be due: beat says nothing new of them.
fn is_told_once(beat: &Service) {
    let start = clock::now();
    wait_for("some ticks to be due", || {
        (clock::now() > start + chrono::Duration::seconds(4)).then_some(())
    });
    let log = beat.log();
    assert_eq!(log.matches(HELD).count(), 1, "{log}");
    let mut known = BTreeSet::new();
    for run_id in told_of_ticks(&log) {
        assert!(known.insert(run_id.clone()), "{run_id} again: {log}");
    }
}

/// Every tick from the first to the last has one run, which was executed once.
fn every_tick_has_its_run(here: &Installation, beat: Service) {
    let roomy = clock::now();
    let worker = here.start(
        "worker",
        &["worker", "--queue", "ticks", "--concurrency", "4"],
    );
    wait_for("the ticks that were due meanwhile", || {
        let newest = here.runs("tick").iter().filter_map(tick_of).max()?;
        (newest > roomy).then_some(())
    });
    wait_for("beat to say that it goes on", || {
        beat.log().contains("\"beat goes on\"").then_some(())
    });
    assert!(beat.stop().success());
    wait_for("every run to succeed", || {
        let runs = here.runs("tick");
        let all = waiting(here) == 0 && runs.iter().all(|run| run["state"] == "succeeded");
        (all && !runs.is_empty()).then_some(())
    });
    assert!(worker.stop().success());
    let runs = here.runs("tick");
    let ticks: BTreeSet<_> = runs.iter().filter_map(tick_of).collect();
    assert_eq!(ticks.len(), runs.len());
    let (first, last) = (ticks.first().unwrap(), ticks.last().unwrap());
    let expected = usize::try_from((*last - *first).num_seconds() + 1).unwrap();
    assert_eq!(ticks.len(), expected, "a tick is missing: {ticks:?}");
    let executed = here.lines("ticks");
    let ids: BTreeSet<_> = executed.iter().collect();
    assert_eq!((ids.len(), executed.len()), (expected, expected));
    let jobs = here.json(&["jobs"]);
    let tick = jobs
        .as_array()
        .unwrap()
        .iter()
        .find(|job| job["name"] == "tick");
    assert_eq!(tick.unwrap()["missed"], 0);
}

fn tick_of(run: &Value) -> Option<DateTime<Utc>> {
    run["scheduled_for"].as_str()?.parse().ok()
}

#[test]
fn a_stream_that_is_full_holds_beat_up_and_costs_no_tick() {
    let server = NatsServer::start();
    let here = Installation::on_nats(&server.url());
    here.schedule("a.toml", JOBS);
    here.schedule("b.toml", IN_THE_WAY);
    let beat = beat(&here);
    let probe = port();
    let (directory, listen) = (here.path("standby"), format!("127.0.0.1:{probe}"));
    let directory = directory.display().to_string();
    let args = ["beat", "--data-dir", &directory, "--listen", &listen];
    let standby = here.start("standby", &args);
    wait_for("a standby", || {
        standby.log().contains("\"standing by\"").then_some(())
    });
    server.edit_stream("ORCH_JOBS", &json!({ "max_msgs": 4 }));
    wait_until_it_waits(&beat);
    wait_for("`jobs` to say so", || {
        let said = here.run(&["jobs"]).stderr;
        (said.contains("beat is held up") && said.contains("has no room")).then_some(())
    });
    let explained = here.run(&["explain", "tick"]).stdout;
    let why = "  but beat is held up";
    assert!(explained.contains(why), "{explained}");
    let held = finding(&here, "beat", "has no room").unwrap();
    assert_eq!(held["state"], "failed", "{held}");
    wait_for("ticks without a verdict", || {
        finding(&here, "ticks", "have no verdict yet")
    });
    let room = finding(&here, "room", "ORCH_JOBS holds").unwrap();
    assert_eq!(room["state"], "warning", "{room}");
    let refused = here.run(&["run", "page"]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    let reason = "maximum messages exceeded";
    assert!(refused.stderr.contains(reason), "{}", refused.stderr);
    // Of the step that is tried again and again, something is told already: it could be told again.
    let decided = server.state("watermark")["at"].clone();
    let decided: DateTime<Utc> = decided.as_str().unwrap().parse().unwrap();
    let told = told_of_ticks(&beat.log());
    let is_repeated =
        |run: &RunId| run.job().as_str() == "in-the-way" && run.tick() > Some(decided);
    assert!(told.iter().any(is_repeated), "{decided}: {told:?}");
    is_told_once(&beat);
    // It could do no better, and says nothing that is not so of itself.
    let (status, body) = ask(probe, "GET /readyz").unwrap();
    assert!(status == 200 && body.contains("standing by"), "{body}");
    assert!(standby.stop().success());
    let log = here.read("standby.log");
    let says = ["held up", HELD, "\"leading\""];
    assert!(!says.iter().any(|it| log.contains(it)), "{log}");
    server.edit_stream("ORCH_JOBS", &json!({ "max_msgs": -1 }));
    every_tick_has_its_run(&here, beat);
}

/// All that the installation stores, records included, may take so much.
fn limited(megabytes: u32) -> String {
    format!(
        "jetstream {{}}\naccounts {{ A {{ users: [{{ user: a, password: a }}], jetstream: {{ max_file: {megabytes}MB }} }} }}\nno_auth_user: a"
    )
}

#[test]
fn an_account_that_is_full_refuses_submitters_and_costs_no_tick() {
    let server = NatsServer::start_with(&limited(4));
    let here = Installation::on_nats(&server.url());
    here.schedule("a.toml", JOBS);
    let beat = beat(&here);
    let text = "x".repeat(100_000);
    let lines: Vec<_> = (0..100)
        .map(|n| json!({ "n": n, "text": text }).to_string())
        .collect();
    let file = here.path("lines");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let file = file.display().to_string();
    let refused = here.run(&["run", "page", "--batch", &file]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    for expected in [
        "has no room",
        "resource limits exceeded",
        "orchestrator doctor",
        "accepted ",
    ] {
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    }
    // What is left would take some more ticks.
    for n in 0..300 {
        server.publish(&format!("orch.jobs.pages.page.{n}"), &[b'x'; 400]);
    }
    wait_until_it_waits(&beat);
    let room = finding(&here, "room", " MB are stored").unwrap();
    assert_eq!(room["state"], "warning", "{room}");
    // No dead letter can be kept: its stream could not be made, which does not take away what was found before.
    let letters = finding(&here, "streams", "ORCH_DEAD").unwrap();
    assert_eq!(letters["state"], "failed", "{letters}");
    assert!(
        letters["help"].as_str().unwrap().contains("2 GB"),
        "{letters}"
    );
    is_told_once(&beat);
    server.reconfigure(&limited(400));
    every_tick_has_its_run(&here, beat);
}

/// What waits must not take the room that the records of runs need: then nobody could ever make room again.
#[test]
fn what_waits_leaves_room_for_those_who_execute_it() {
    let server = NatsServer::start_with("jetstream { max_file_store: 20MB }");
    let here = Installation::on_nats(&server.url());
    here.schedule("a.toml", JOBS);
    let beat = here.start("beat", &["beat"]);
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(1).cloned());
    assert!(beat.stop().success());
    let text = "x".repeat(90_000);
    // Behind those that do not fit come some that do.
    let long = (0..390).map(|n| json!({ "n": n, "text": text }).to_string());
    let short = (390..400).map(|n| json!({ "n": n }).to_string());
    let lines: Vec<_> = long.chain(short).collect();
    let file = here.path("lines");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let file = file.display().to_string();
    let refused = here.run(&["run", "page", "--batch", &file, "-o", "name"]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("has no room"), "{}", refused.stderr);
    let mut accepted: BTreeSet<_> = refused.stdout.lines().map(str::to_owned).collect();
    // Also those that were on their way beside the first one that was refused are told: as many as are there.
    assert!(!accepted.is_empty(), "{}", refused.stderr);
    let not_taken = refused.stderr.lines();
    let not_taken = not_taken.filter_map(|line| line.strip_prefix("not taken: lines "));
    let not_taken = not_taken
        .flat_map(|ranges| ranges.split(", "))
        .map(|range| {
            let ends: Vec<usize> = range.split('-').map(|n| n.parse().unwrap()).collect();
            ends[ends.len() - 1] - ends[0] + 1
        });
    assert_eq!(
        not_taken.sum::<usize>() + accepted.len(),
        400,
        "{}",
        refused.stderr
    );
    let queues = here.json(&["queues"]);
    let mut queues = queues.as_array().unwrap().iter();
    let pages = queues.find(|queue| queue["queue"] == "pages").unwrap();
    assert_eq!(pages["waiting"], accepted.len(), "{}", refused.stderr);
    let cancelled = accepted.pop_last().unwrap();
    let cancelling = here.run(&["cancel", &cancelled]);
    assert_eq!(cancelling.code, 0, "{}", cancelling.stderr);
    let more = here.run(&["run", "page"]);
    assert_eq!(more.code, 0, "there is room again: {}", more.stderr);

    let worker = here.start("worker", &["worker", "--queue", "pages"]);
    wait_for("everything to be executed", || {
        let runs = here.json(&["runs", "--job", "page", "--limit", "1000"]);
        let done = runs.as_array()?.iter();
        let done = done.filter(|run| run["state"] == "succeeded");
        let done: BTreeSet<_> = done.filter_map(|run| run["run_id"].as_str()).collect();
        let is_done = |id: &String| done.contains(id.as_str());
        (accepted.iter().all(is_done) && done.len() > 20).then_some(())
    });
    wait_for("an empty queue", || {
        let queues = here.json(&["queues"]);
        let mut queues = queues.as_array()?.iter();
        let pages = queues.find(|queue| queue["queue"] == "pages")?;
        (pages["waiting"] == 0 && pages["running"] == 0).then_some(())
    });
    assert!(worker.stop().success());
}
