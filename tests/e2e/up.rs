//! One machine: `up` on the embedded broker.

use rustix::process::Signal;

use crate::support::{Installation, is_alive, wait_for};

const TICKING: &str = r#"
[job.tick]
every = "1s"
overlap = "allow"
shell = "echo $ORCHESTRATOR_RUN_ID >> ticks; echo '{\"n\": 7}' > $ORCHESTRATOR_RESULT; echo hello"
working_dir = ".."

[job.by-hand]
command = ["sh", "-c", "echo got {arg.url}; cat; exit 3"]
"#;

#[test]
fn due_jobs_run_on_time_once_with_their_outcome_kept() {
    let here = Installation::new();
    here.schedule("a.toml", TICKING);
    let up = here.up(&[]);
    let run = wait_for("a run that succeeded", || {
        let runs = here.runs("tick");
        runs.into_iter().find(|run| run["state"] == "succeeded")
    });
    let attempt = &run["attempts"][0];
    assert_eq!(attempt["exit"]["code"], 0);
    assert_eq!(attempt["end"], "succeeded");
    assert_eq!(run["result"]["n"], 7);
    assert!(attempt["worker"].is_string() && run["finished_at"].is_string());
    let id = run["run_id"].as_str().unwrap();
    let logs = here.run(&["logs", id]);
    assert_eq!(
        (logs.code, logs.stdout.as_str()),
        (0, "hello\n"),
        "{}",
        logs.stderr
    );
    let shown = here.json(&["show", id]);
    assert_eq!(shown["run_id"], run["run_id"]);
    wait_for("five ticks", || {
        (here.lines("ticks").len() >= 5).then_some(())
    });
    assert!(up.stop().success());
    let mut ticks = here.lines("ticks");
    let fired = ticks.len();
    ticks.sort();
    ticks.dedup();
    assert_eq!(ticks.len(), fired, "a tick ran twice");
}

#[test]
fn a_run_by_hand_takes_arguments_and_propagates_its_exit_code() {
    let here = Installation::new();
    here.schedule("a.toml", TICKING);
    let _up = here.up(&[]);
    wait_for("the shared definition", || {
        here.try_json(&["jobs"])?.get(1).cloned()
    });
    let ended = here.run(&[
        "run",
        "by-hand",
        "--arg",
        "url=http://x/",
        "--wait",
        "--propagate-exit",
        "-o",
        "json",
    ]);
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    let run: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(run["state"], "failed");
    let logs = here.run(&["logs", run["run_id"].as_str().unwrap()]);
    assert!(
        logs.stdout.starts_with("got http://x/\n"),
        "{}",
        logs.stdout
    );
    assert!(
        logs.stdout.contains(r#""url":"http://x/""#),
        "{}",
        logs.stdout
    );

    let missing = here.run(&["run", "by-hand"]);
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("--arg url="), "{}", missing.stderr);
    let unknown = here.run(&["run", "by-hnd"]);
    assert_eq!(unknown.code, 4);
    assert!(unknown.stderr.contains("by-hand"), "{}", unknown.stderr);
    assert_eq!(here.run(&["show", "tick@20200101T000000Z"]).code, 4);
}

#[test]
fn killed_and_started_again_it_goes_on_and_fires_nothing_twice() {
    let here = Installation::new();
    here.schedule("a.toml", TICKING);
    for round in 1..=5 {
        let up = here.up(&[]);
        let before = here.lines("ticks").len();
        wait_for("new ticks", || {
            (here.lines("ticks").len() >= before + 2).then_some(())
        });
        assert!(round > 0);
        up.kill9();
    }
    let up = here.up(&[]);
    wait_for("every run to have ended", || {
        let open = here.json(&[
            "runs", "--state", "queued", "--state", "running", "--state", "retrying",
        ]);
        open.as_array().unwrap().len().le(&1).then_some(())
    });
    up.stop();
    // A kill may catch a run in the middle: then it is executed again, as a second attempt.
    let lines = here.lines("ticks");
    let up = here.up(&[]);
    let runs = here.runs("tick");
    up.stop();
    for run in &runs {
        let id = run["run_id"].as_str().unwrap();
        let executed = lines.iter().filter(|line| *line == id).count();
        let attempts = run["attempts"].as_array().unwrap().len();
        assert!(
            executed <= attempts,
            "{id} was executed {executed} times in {attempts} attempts"
        );
        assert!(
            run["state"] != "succeeded" || executed >= 1 || !lines.iter().any(|line| line == id)
        );
    }
    let mut ids: Vec<_> = runs.iter().map(|run| run["run_id"].to_string()).collect();
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all);
}

#[test]
fn a_second_up_says_who_holds_the_data_directory() {
    let here = Installation::new();
    here.schedule("a.toml", TICKING);
    let up = here.up(&[]);
    let second = here.run(&["up"]);
    assert_eq!(second.code, 7, "{}", second.stderr);
    assert!(
        second.stderr.contains(&up.pid().to_string()),
        "{}",
        second.stderr
    );
    assert!(
        here.try_json(&["queues"]).is_some(),
        "the first one goes on"
    );
    up.stop();
}

#[test]
fn sigterm_waits_for_running_jobs_and_the_rest_is_handed_back() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        r#"
[job.short]
shell = "touch short-started; until [ -e go ]; do :; done; touch short-ended"
working_dir = ".."
[job.long]
shell = "echo $$ >> long; while :; do sleep 1; done"
working_dir = ".."
kill = { signal = "SIGTERM", grace = "2s" }
"#,
    );
    let mut up = here.up(&["--drain-timeout", "3s"]);
    wait_for("the definitions", || {
        here.try_json(&["jobs"])?.get(1).cloned()
    });
    here.run(&["run", "short"]);
    let long = here.run(&["run", "long"]);
    wait_for("both to run", || {
        (here.path("short-started").exists() && here.path("long").exists()).then_some(())
    });
    up.signal(Signal::TERM);
    std::fs::write(here.path("go"), "").unwrap();
    assert!(up.wait().success());
    assert!(here.path("short-ended").exists());
    let pid: u32 = here.lines("long")[0].parse().unwrap();
    assert!(!is_alive(pid), "the long job's process is left over");

    let _up = here.up(&[]);
    let id = long.stdout.trim();
    let record = wait_for("the second execution", || {
        let record = here.json(&["show", id]);
        (here.lines("long").len() == 2).then_some(record)
    });
    assert_eq!(record["attempts"][0]["end"], "handed_back", "{record}");
    assert_eq!(record["attempts_used"], 0, "{record}");
    let cancelled = here.run(&["cancel", id, "--wait"]);
    assert_eq!(cancelled.code, 0, "{}", cancelled.stderr);
    assert_eq!(here.json(&["show", id])["state"], "cancelled");
    let pid: u32 = here.lines("long")[1].parse().unwrap();
    assert!(!is_alive(pid), "the cancelled job's process is left over");
}

#[test]
fn a_long_rhythm_is_kept_over_restarts() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        "[job.cookie]\nevery = \"20h\"\nshell = \"true\"\n",
    );
    let next = || here.json(&["jobs"])[0]["next"].clone();
    let first = here.up(&[]);
    let expected = next();
    first.kill9();
    for _ in 0..3 {
        let up = here.up(&[]);
        assert_eq!(next(), expected);
        up.stop();
    }
}

#[test]
fn a_jittered_run_starts_at_the_time_that_next_shows() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        "[job.spread]\nevery = \"1s\"\njitter = \"900ms\"\noverlap = \"allow\"\nshell = \"true\"\n",
    );
    let _up = here.up(&[]);
    let run = wait_for("a run that has ended", || {
        let runs = here.runs("spread");
        runs.into_iter().find(|run| run["state"] == "succeeded")
    });
    let time = |value: &serde_json::Value| {
        let text = value.as_str().unwrap();
        chrono::DateTime::parse_from_rfc3339(text).unwrap()
    };
    let tick = time(&run["scheduled_for"]);
    let after = (tick - chrono::Duration::seconds(1)).to_rfc3339();
    let next = here.json(&["next", "spread", "--after", &after, "-n", "1"]);
    assert_eq!(time(&next[0]["at"]), tick);
    let starts_at = time(&next[0]["starts_at"]);
    assert!(starts_at - tick < chrono::Duration::milliseconds(900));
    assert!(time(&run["started_at"]) >= starts_at, "{run} {next}");
}
