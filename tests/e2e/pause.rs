//! Pausing and resuming jobs.

use crate::support::{Installation, Service, wait_for};

const JOB: &str = "[job.crawl]\nevery = \"1s\"\nshell = \"echo x >> ran\"\nworking_dir = \"..\"\n";

fn started(here: &Installation) -> Service {
    let up = here.up(&[]);
    wait_for("a run", || (!here.lines("ran").is_empty()).then_some(()));
    up
}

fn skipped(here: &Installation) -> u64 {
    here.json(&["jobs"])[0]["skipped"].as_u64().unwrap()
}

/// Waits until so many more ticks were skipped.
fn wait_for_skipped(here: &Installation, more: u64) {
    let before = skipped(here);
    wait_for("skipped ticks", || {
        (skipped(here) >= before + more).then_some(())
    });
}

/// Waits until a tick was skipped by the pause, and what was published before it has ended.
fn wait_until_quiet(here: &Installation) {
    wait_for("a paused tick", || {
        let notes = here.json(&["jobs"])[0]["notes"].clone();
        let last = notes.as_array()?.last()?["reason"].clone();
        (last == "paused").then_some(())
    });
    wait_for("the last run to end", || {
        let mut states = here
            .runs("crawl")
            .into_iter()
            .map(|run| run["state"].clone());
        states.all(|state| state == "succeeded").then_some(())
    });
}

#[test]
fn a_paused_job_has_no_runs_until_it_is_resumed_even_over_a_restart() {
    let here = Installation::new();
    here.schedule("a.toml", JOB);
    let up = started(&here);
    let paused = here.json(&["pause", "crawl", "--reason", "the site is down"]);
    assert_eq!(paused["pause"]["reason"], "the site is down");
    wait_until_quiet(&here);
    let ran = here.lines("ran").len();
    let job = here.json(&["jobs"])[0].clone();
    assert_eq!(job["paused"]["reason"], "the site is down");
    assert_eq!(job["next"], serde_json::Value::Null);
    let note = job["notes"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (note["verdict"].as_str(), note["reason"].as_str()),
        (Some("skipped"), Some("paused"))
    );
    assert!(here.run(&["jobs"]).stdout.contains("paused"));
    up.kill9();
    let _up = here.up(&[]);
    wait_for_skipped(&here, 2);
    assert_eq!(here.lines("ran").len(), ran, "nothing ran while paused");
    // By hand it still runs.
    assert_eq!(here.run(&["run", "crawl", "--wait"]).code, 0);
    assert_eq!(here.run(&["resume", "crawl"]).code, 0);
    wait_for("runs again", || {
        (here.lines("ran").len() > ran + 2).then_some(())
    });
    assert_eq!(here.json(&["jobs"])[0].get("paused"), None);
    assert_eq!(here.run(&["resume", "crawl"]).code, 7);
}

#[test]
fn a_pause_with_an_end_ends_by_itself() {
    let here = Installation::new();
    here.schedule("a.toml", JOB);
    let _up = started(&here);
    let until = orchestrator::clock::now() + chrono::Duration::seconds(4);
    let until = until.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    assert_eq!(here.run(&["pause", "crawl", "--until", &until]).code, 0);
    wait_until_quiet(&here);
    let ran = here.lines("ran").len();
    wait_for("runs again", || {
        (here.lines("ran").len() > ran).then_some(())
    });
    let notes = here.json(&["jobs"])[0]["notes"].clone();
    let paused = notes.as_array().unwrap().iter();
    let paused: Vec<_> = paused.filter(|note| note["reason"] == "paused").collect();
    assert_eq!(paused.len(), 1, "one note for all of it: {notes}");
    assert!(paused[0]["last"].as_str().unwrap() <= until.as_str());
}

#[test]
fn what_cannot_be_paused_is_told() {
    let here = Installation::new();
    here.schedule("a.toml", JOB);
    let _up = started(&here);
    let unknown = here.run(&["pause", "craw"]);
    assert_eq!(unknown.code, 4);
    assert!(unknown.stderr.contains("crawl"), "{}", unknown.stderr);
    let past = ["pause", "crawl", "--until", "2020-01-01T00:00:00Z"];
    assert_eq!(here.run(&past).code, 2);
    assert_eq!(here.run(&["pause", "crawl", "--until", "soon"]).code, 2);
}

#[test]
fn what_a_pause_skipped_is_made_up_for_on_request() {
    let here = Installation::new();
    let job = JOB.replace("shell", "catch_up = \"all\"\noverlap = \"allow\"\nshell");
    here.schedule("a.toml", &job);
    let up = started(&here);
    assert_eq!(here.run(&["pause", "crawl"]).code, 0);
    wait_for_skipped(&here, 3);
    up.kill9();
    let _up = here.up(&[]);
    let paused = skipped(&here);
    assert!(paused >= 3, "{paused}");
    assert_eq!(here.run(&["resume", "crawl", "--catch-up"]).code, 0);
    wait_for("no tick to be skipped any more", || {
        (skipped(&here) == 0).then_some(())
    });
    let ran = here.runs("crawl").len();
    wait_for("further runs", || {
        (here.runs("crawl").len() > ran).then_some(())
    });
    let runs = here.runs("crawl");
    let mut ticks: Vec<i64> = runs
        .iter()
        .map(|run| {
            let tick = run["scheduled_for"].as_str().unwrap();
            tick.parse::<chrono::DateTime<chrono::Utc>>()
                .unwrap()
                .timestamp()
        })
        .collect();
    ticks.sort_unstable();
    let every_second: Vec<i64> = (ticks[0]..=*ticks.last().unwrap()).collect();
    assert_eq!(ticks, every_second, "every tick ran once");
}
