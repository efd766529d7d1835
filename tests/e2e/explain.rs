//! What `explain` says of a tick.

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use serde_json::Value;

use crate::support::{Installation, wait_for};

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

fn text(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn explain(here: &Installation, at: DateTime<Utc>) -> Value {
    here.json(&["explain", "crawl", "--at", &text(at)])["account"].clone()
}

/// The account of a tick, once beat has decided on it.
fn decided(here: &Installation, at: DateTime<Utc>) -> Value {
    wait_for("a verdict", || {
        let account = explain(here, at);
        (account["verdict"] != "pending").then_some(account)
    })
}

#[test]
fn a_tick_that_ran_has_its_times_and_one_that_met_a_live_run_names_it() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        "[job.crawl]\nevery = \"1s\"\nshell = \"until [ -e end ]; do sleep 0.1; done\"\nworking_dir = \"..\"\n",
    );
    let _up = here.up(&[]);
    let run = wait_for("a run", || {
        here.runs("crawl")
            .into_iter()
            .find(|run| run["state"] == "running")
    });
    let tick = time(&run["scheduled_for"]);
    let fired = decided(&here, tick);
    assert_eq!(fired["verdict"], "fired");
    assert_eq!(fired["run"]["run_id"], run["run_id"]);
    assert!(fired["late_seconds"].as_f64().unwrap() >= 0.0);
    let skipped = decided(&here, tick + Duration::seconds(1));
    assert_eq!(
        (skipped["verdict"].as_str(), skipped["reason"].as_str()),
        (Some("skipped"), Some("overlap"))
    );
    assert_eq!(skipped["live"], run["run_id"]);
    let whole = here.json(&["explain", "crawl"]);
    assert!(time(&whole["next"]) > tick);
    let obstacles = whole["in_the_way"].as_array().unwrap();
    let live = obstacles.iter().find(|one| one["obstacle"] == "live");
    assert_eq!(live.unwrap()["run"], run["run_id"]);
    let said = here.run(&["explain", "crawl", "--at", &text(tick)]).stdout;
    assert!(said.contains("fired") && said.contains("late"), "{said}");
    std::fs::write(here.path("end"), "").unwrap();
}

#[test]
fn a_tick_during_a_downtime_says_from_when_to_when() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        "[job.crawl]\nevery = \"1s\"\ncatch_up_window = \"1s\"\nshell = \"true\"\n",
    );
    let up = here.up(&[]);
    wait_for("a run", || here.runs("crawl").first().cloned());
    up.kill9();
    let killed = orchestrator::clock::now();
    wait_for("some ticks to pass", || {
        (orchestrator::clock::now() > killed + Duration::seconds(4)).then_some(())
    });
    let _up = here.up(&[]);
    let tick = DateTime::from_timestamp(killed.timestamp() + 1, 0).unwrap();
    let missed = decided(&here, tick);
    assert_eq!(missed["verdict"], "missed", "{missed}");
    assert!(time(&missed["down_from"]) < tick && tick < time(&missed["down_to"]));
    assert!(time(&missed["down_from"]) <= killed);
    let said = here.run(&["explain", "crawl", "--at", &text(tick)]).stdout;
    assert!(said.contains("beat was down from"), "{said}");
}

#[test]
fn what_is_no_tick_or_lies_before_the_job_is_told() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        "[job.crawl]\ncron = \"0 3 * * *\"\nshell = \"true\"\n",
    );
    let _up = here.up(&["--queue", "other"]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    let none = here.run(&["explain", "crawl", "--at", "2026-01-01T04:00:00Z"]);
    assert_eq!(none.code, 4);
    assert!(
        none.stderr.contains("2026-01-02T03:00:00Z"),
        "{}",
        none.stderr
    );
    let before = here.json(&["explain", "crawl", "--at", "2026-01-01T03:00:00Z"]);
    assert_eq!(before["account"]["verdict"], "before_it_counted");
    let obstacles = before["in_the_way"].clone();
    assert_eq!(obstacles[0]["obstacle"], "no_worker", "{obstacles}");
    assert_eq!(here.run(&["explain", "craw"]).code, 4);
    assert_eq!(here.run(&["explain", "crawl", "--at", "soon"]).code, 2);
}

/// The first tick that comes after now, once beat has decided on it.
fn next_tick(here: &Installation) -> Value {
    let tick = DateTime::from_timestamp(orchestrator::clock::now().timestamp() + 1, 0).unwrap();
    decided(here, tick)
}

#[test]
fn a_tick_of_a_disabled_job_has_not_fired() {
    let here = Installation::new();
    // Without another job beat would say only now and then how far it has come.
    let job = "[job.other]\nevery = \"1s\"\nshell = \"true\"\n[job.crawl]\nevery = \"1s\"\nshell = \"true\"\n";
    here.schedule("a.toml", job);
    let _up = here.up(&[]);
    wait_for("a run", || here.runs("crawl").first().cloned());
    here.schedule("a.toml", &format!("{job}enabled = false\n"));
    wait_for("the job to be disabled", || {
        let obstacles = here.json(&["explain", "crawl"])["in_the_way"].clone();
        let mut obstacles = obstacles.as_array()?.clone().into_iter();
        obstacles.find(|one| one["obstacle"] == "disabled")
    });
    let account = next_tick(&here);
    assert_eq!(account["verdict"], "disabled", "{account}");
}
