//! `orchestrator simulate`: a year in advance, with what beat would do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::process::{Command, Output};

use serde_json::Value;

const JOBS: &str = r#"
[job.nightly]
cron = "30 2 * * *"
timezone = "Asia/Shanghai"
queue = "low"
shell = "true"

[job.often]
every = "10m"
shell = "true"
"#;

fn simulate(args: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.toml"), JOBS).unwrap();
    Command::new(env!("CARGO_BIN_EXE_orchestrator"))
        .arg("simulate")
        .arg("--schedules")
        .arg(directory.path())
        .args(args)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

const DAY: [&str; 4] = [
    "--from",
    "2026-11-23T00:00:00Z",
    "--to",
    "2026-11-24T00:00:00Z",
];

#[test]
fn every_tick_is_printed_with_its_verdict() {
    let all = [&DAY[..], &["nightly"]].concat();
    let told = text(&simulate(&all));
    let mut lines = told.lines();
    assert_eq!(
        lines.next().unwrap(),
        "2026-11-24T02:30:00+08:00  nightly  fired"
    );
    assert_eq!(
        lines.nth(1).unwrap(),
        "fired 1, coalesced 0, skipped 0, missed 0"
    );
    let block: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    assert!(block[0].starts_with("queue low:"), "{told}");
    assert!(block[1].trim_start().starts_with("18:00"), "{told}");
}

#[test]
fn json_holds_ticks_totals_and_load() {
    let down = "2026-11-23T02:00:00Z..2026-11-23T05:05:00Z";
    let all = [&DAY[..], &["-o", "json", "--down", down, "often"]].concat();
    let told: Value = serde_json::from_str(&text(&simulate(&all))).unwrap();
    let ticks = told["ticks"].as_array().unwrap();
    assert_eq!(ticks.len(), 144);
    // 02:10 … 04:00 are older than the window of an hour at 05:05, 04:10 … 04:50 stand behind 05:00.
    let totals = &told["totals"];
    assert_eq!(
        (
            totals["fired"].as_u64(),
            totals["coalesced"].as_u64(),
            totals["missed"].as_u64()
        ),
        (Some(127), Some(5), Some(12))
    );
    let late = ticks
        .iter()
        .find(|tick| tick["utc"] == "2026-11-23T05:00:00Z");
    assert_eq!(late.unwrap()["starts_at"], "2026-11-23T05:05:00+00:00");
    let load = told["load"].as_array().unwrap();
    let starts: u64 = load.iter().map(|row| row["starts"].as_u64().unwrap()).sum();
    assert_eq!(starts, 127);
}

#[test]
fn a_duration_makes_ticks_overlap() {
    let all = [&DAY[..], &["--summary", "--duration", "often=15m", "often"]].concat();
    let told = text(&simulate(&all));
    assert!(
        told.starts_with("fired 72, coalesced 0, skipped 72, missed 0"),
        "{told}"
    );
}

#[test]
fn wrong_arguments_are_named() {
    let code = |more: &[&str]| {
        let output = simulate(&[&DAY[..], more].concat());
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(code(&["--down", "soon"]).0, Some(2));
    assert_eq!(code(&["--duration", "often=long"]).0, Some(2));
    let (exit, said) = code(&["oftn"]);
    assert_eq!(exit, Some(4));
    assert!(said.contains("`often`"), "{said}");
    let swapped = [
        "--from",
        "2026-11-24T00:00:00Z",
        "--to",
        "2026-11-23T00:00:00Z",
    ];
    assert_eq!(simulate(&swapped).status.code(), Some(2));
}
