//! What deciding costs, without any broker: `cargo bench --bench planning`.
//!
//! * The next occurrence of every cron expression of the corpus, a hundred in a row of each, every
//!   call timed alone; and of those that fire rarest.
//! * 1,000,000 jobs loaded from TOML, with the memory that this takes; planning a second in which
//!   10,000 of them are due.
//! * A year of 1,000 jobs simulated by the command.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

use std::{
    fmt::Write,
    fs,
    hint::black_box,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, FixedOffset, Utc};
use orchestrator::{
    job::cron::CronTrigger,
    plan::{JobState, Scheduled, Timeline},
    schedules,
};
use serde::Deserialize;

const ROUNDS: usize = 5;
const IN_A_ROW: usize = 100;
const JOBS: usize = 1_000_000;
const FILES: usize = 100;
/// So many of the jobs are due every second.
const DUE: usize = 10_000;
const SIMULATED: usize = 1_000;

#[derive(Deserialize)]
struct Entry {
    expr: String,
    tz: chrono_tz::Tz,
    after: DateTime<FixedOffset>,
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

fn trigger(expression: &str, zone: chrono_tz::Tz) -> CronTrigger {
    let expressions = vec![expression.to_owned()];
    CronTrigger::new(expressions, zone, Default::default(), Default::default()).unwrap()
}

/// How long each of the next occurrences takes.
fn walk(trigger: &CronTrigger, mut after: DateTime<Utc>, calls: usize) -> Vec<Duration> {
    let mut took = Vec::with_capacity(calls);
    for _ in 0..calls {
        let start = Instant::now();
        let next = black_box(trigger.next_after(black_box(after)));
        took.push(start.elapsed());
        match next {
            Some(next) => after = next,
            None => break,
        }
    }
    took
}

fn cron() {
    let corpus = include_str!("../tests/data/cron/corpus_public.jsonl");
    let entries: Vec<Entry> = corpus
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (mut medians, mut slowest) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut all = Vec::new();
        for entry in &entries {
            let trigger = trigger(&entry.expr, entry.tz);
            all.extend(walk(&trigger, entry.after.to_utc(), IN_A_ROW));
        }
        all.sort_unstable();
        medians.push(all[all.len() / 2]);
        slowest.push(all[all.len() * 999 / 1000]);
    }
    println!(
        "cron: {} expressions, {IN_A_ROW} in a row: median {:?}, 99.9 % within {:?}",
        entries.len(),
        median(medians),
        median(slowest)
    );
    let after: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
    // Days are AND-ed where one of the fields starts with a star: 1 or 29 February on a Monday,
    // 29 February on a Sunday.
    for rare in [
        "0 0 */28 2 1",
        "0 0 29 2 */7",
        "0 0 29 2 *",
        "59 59 23 29 2 */7",
    ] {
        let trigger = trigger(rare, chrono_tz::Asia::Shanghai);
        let rounds = (0..ROUNDS).map(|_| walk(&trigger, after, 3).into_iter().max().unwrap());
        println!(
            "cron: {rare}: slowest of three {:?}",
            median(rounds.collect())
        );
    }
}

fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    kib / 1024
}

/// Intervals of 90 s, every second's share of them shifted by another offset; a tenth are cron jobs
/// with as many different expressions as there are minutes in a day.
fn write_jobs(dir: &Path) {
    // A tenth of the jobs have no share in that.
    let period = JOBS * 9 / 10 / DUE;
    for file in 0..FILES {
        let mut text = String::from("[defaults]\nqueue = \"pages\"\ntimeout = \"10m\"\n");
        for n in (file..JOBS).step_by(FILES) {
            let when = match n % 10 {
                0 => format!("cron = \"{} {} * * *\"", n / 10 % 60, n / 600 % 24),
                _ => format!("every = \"{period}s\"\noffset = \"{}s\"", n / 10 % period),
            };
            writeln!(
                text,
                "[job.job-{n}]\n{when}\ncommand = [\"python3\", \"crawl.py\", \"--site\", \"{n}\"]"
            )
            .unwrap();
        }
        fs::write(dir.join(format!("{file:03}.toml")), text).unwrap();
    }
}

fn a_million_jobs() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    write_jobs(dir.path());
    let now: DateTime<Utc> = "2026-11-23T10:00:00Z".parse().unwrap();
    let start = Instant::now();
    let loaded = schedules::load(&[dir.path().to_path_buf()], now).unwrap();
    assert_eq!(loaded.set.len(), JOBS);
    println!(
        "{JOBS} jobs in {FILES} files: loaded in {:.1?}; memory {} MB, at most {} MB",
        start.elapsed(),
        memory("VmRSS:"),
        memory("VmHWM:")
    );
    let start = Instant::now();
    let scheduled = loaded
        .set
        .iter()
        .map(|job| Scheduled::new(Arc::clone(job), &JobState::first_seen(job, now, now)));
    let mut timeline = Timeline::new(scheduled.collect(), now);
    println!(
        "{JOBS} jobs: lined up in {:.1?}; memory {} MB, at most {} MB",
        start.elapsed(),
        memory("VmRSS:"),
        memory("VmHWM:")
    );
    let (mut took, mut due, mut watermark) = (Vec::new(), Vec::new(), now);
    for _ in 0..ROUNDS {
        let until = watermark + chrono::Duration::seconds(1);
        let start = Instant::now();
        let step = timeline.plan(watermark, until);
        timeline.advance(&step);
        took.push(start.elapsed());
        due.push(step.jobs.len());
        watermark = until;
    }
    println!(
        "planning a second in which {due:?} of them are due: {:.1?}",
        median(took)
    );
}

fn simulation() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut text = String::new();
    for n in 0..SIMULATED {
        let when = match n % 10 {
            0 => "every = \"10m\"".to_owned(),
            1..=3 => format!(
                "cron = \"{} * * * *\"\ntimezone = \"Asia/Shanghai\"",
                n % 60
            ),
            4..=6 => format!("cron = \"*/30 {}-20 * * MON-FRI\"", n % 8),
            7 | 8 => format!("every = \"20h\"\noffset = \"{n}m\"\njitter = \"45m\""),
            _ => format!(
                "cron = \"{} 2 * * *\"\ntimezone = \"Europe/Berlin\"",
                n % 60
            ),
        };
        writeln!(
            text,
            "[job.j{n}]\n{when}\nqueue = \"q{}\"\nshell = \"true\"",
            n % 4
        )
        .unwrap();
    }
    fs::write(dir.path().join("jobs.toml"), text).unwrap();
    for more in [&["--summary"][..], &["-o", "json"]] {
        let mut took = Vec::new();
        let mut totals = String::new();
        for _ in 0..ROUNDS {
            let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
            command
                .args(["simulate", "--from", "2026-01-01T00:00:00Z"])
                .args(["--to", "2027-01-01T00:00:00Z"])
                .args(["--down", "2026-05-01T00:00:00Z..2026-05-02T00:00:00Z"])
                .arg("--schedules")
                .arg(dir.path())
                .args(more);
            let start = Instant::now();
            if more == ["--summary"] {
                let output = command.output().unwrap();
                took.push(start.elapsed());
                let text = String::from_utf8(output.stdout).unwrap();
                totals = text.lines().next().unwrap_or_default().to_owned();
            } else {
                assert!(command.stdout(Stdio::null()).status().unwrap().success());
                took.push(start.elapsed());
            }
        }
        println!(
            "a year of {SIMULATED} jobs, {}: {:.1?} {totals}",
            more.join(" "),
            median(took)
        );
    }
}

fn main() {
    a_million_jobs();
    cron();
    simulation();
}
