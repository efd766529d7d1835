//! `up` with 1,000 jobs, and idle memory: `cargo bench --bench footprint`.
//!
//! Starts the release binary: how long until the first tick is ready (the event "next tick"), and
//! how much memory (RSS) `up` and a worker on NATS hold once nothing happens.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

#[path = "../tests/support/nats.rs"]
mod nats;

use std::{
    fmt::Write,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const JOBS: usize = 1_000;
const ROUNDS: usize = 5;
/// How long nothing happens before memory is read.
const IDLE: Duration = Duration::from_secs(3);

fn start(dir: &Path, args: &[&str], nats: Option<&str>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
    if let Some(url) = nats {
        command.env("NATS_URL", url);
    }
    command
        .args(args)
        .env("ORCHESTRATOR_DATA_DIR", dir.join("data"))
        .env("ORCHESTRATOR_SCHEDULES", dir.join("schedules"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads events until one contains `word`.
fn until(child: &mut Child, word: &str) -> BufReader<std::process::ChildStdout> {
    let mut events = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(word) {
        line.clear();
        assert!(
            events.read_line(&mut line).unwrap() > 0,
            "it ended before {word}"
        );
    }
    events
}

fn rss_kib(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    rss.split_whitespace().next().unwrap().parse().unwrap()
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn main() {
    let (mut ready, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::create_dir(dir.path().join("schedules")).unwrap();
        let mut text = String::new();
        for n in 0..JOBS {
            writeln!(
                text,
                "[job.j{n}]\nevery = \"1h\"\noffset = \"{n}s\"\nshell = \"true\""
            )
            .unwrap();
        }
        fs::write(dir.path().join("schedules/jobs.toml"), text).unwrap();
        let begin = Instant::now();
        let mut up = start(dir.path(), &["up"], None);
        let _events = until(&mut up, "next tick");
        ready.push(begin.elapsed());
        std::thread::sleep(IDLE);
        memory.push(rss_kib(&up));
        end(up);
    }
    ready.sort();
    memory.sort();
    println!(
        "up with {JOBS} jobs: first tick ready {:?} after the start, idle memory {:.1} MB (medians of {ROUNDS})",
        ready[ROUNDS / 2],
        memory[ROUNDS / 2] as f64 / 1024.0
    );
    let server = nats::NatsServer::start();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut worker = start(
        dir.path(),
        &["worker", "--queue", "high"],
        Some(&server.url()),
    );
    let _events = until(&mut worker, "worker");
    std::thread::sleep(IDLE);
    println!(
        "worker on NATS: idle memory {:.1} MB",
        rss_kib(&worker) as f64 / 1024.0
    );
    end(worker);
}
