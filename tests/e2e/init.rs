//! `init` writes what an installation begins with, and overwrites nothing.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::json;

use crate::support::{Installation, wait_for};

#[test]
fn the_first_schedule_is_right_and_up_runs_it() {
    let here = Installation::new();
    let ended = here.run(&["init", "."]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(
        ended.stdout.contains("wrote  ./schedules/first.toml"),
        "{}",
        ended.stdout
    );
    assert!(ended.stderr.contains("orchestrator up"), "{}", ended.stderr);
    let checked = here.json(&["check"]);
    assert_eq!(
        (&checked["ok"], &checked["jobs"], &checked["diagnostics"]),
        (&json!(true), &json!(1), &json!([]))
    );
    let _up = here.up(&[]);
    let run = wait_for("the first run", || {
        here.runs("hello")
            .into_iter()
            .find(|run| run["state"] == "succeeded")
    });
    let log = here.run(&["logs", run["run_id"].as_str().unwrap()]);
    assert!(log.stdout.contains("hello from hello"), "{}", log.stdout);
}

#[test]
fn the_commented_examples_are_right_too() {
    let here = Installation::new();
    assert_eq!(here.run(&["init", "--quiet"]).code, 0);
    let rules = [
        "worker",
        "--queue",
        "a",
        "--policy",
        "worker.toml",
        "--check",
    ];
    assert_eq!(here.run(&rules).code, 0);
    // A comment that is an example begins with `#` and no blank.
    let whole = |file: &str| -> String {
        let text = here.read(file);
        let lines = text.lines().map(|line| match line.strip_prefix('#') {
            Some(example) if !example.starts_with([' ', '#']) => format!("{example}\n"),
            _ => format!("{line}\n"),
        });
        lines.collect()
    };
    std::fs::write(here.path("worker.toml"), whole("worker.toml")).unwrap();
    let checked = here.run(&rules);
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    here.schedule("first.toml", &whole("schedules/first.toml"));
    let checked = here.json(&["check"]);
    assert_eq!(
        (&checked["jobs"], &checked["diagnostics"]),
        (&json!(4), &json!([]))
    );
}

#[test]
fn nothing_is_overwritten_and_more_can_be_added() {
    let here = Installation::new();
    here.schedule("first.toml", "[job.mine]\nshell = \"true\"\n");
    let ended = here.run(&["init", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        report,
        json!({ "written": ["./worker.toml"], "kept": ["./schedules/first.toml"] })
    );
    assert_eq!(
        here.read("schedules/first.toml"),
        "[job.mine]\nshell = \"true\"\n"
    );
    let more = here.run(&["init", "--nats"]);
    assert_eq!(more.code, 0, "{}", more.stderr);
    assert!(
        more.stdout.contains("kept   ./worker.toml"),
        "{}",
        more.stdout
    );
    assert!(
        here.read("nats-server.conf")
            .contains("sync_interval: always")
    );
}

/// What it writes where that is possible, and that it starts there: `tests/package`.
#[test]
fn no_unit_is_written_for_a_place_that_its_user_cannot_enter() {
    let here = Installation::new();
    let dir = here.path("mine");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    let refused = here.run(&["init", "--systemd", "mine"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("would not start")
            && refused.stderr.contains("init --systemd /etc/orchestrator"),
        "{}",
        refused.stderr
    );
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}
