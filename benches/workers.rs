//! What workers cost and how soon they stand in for each other: `cargo bench --bench workers`, some ten minutes.
//!
//! On the nats-server that `tests/tools/nats-server` installs:
//!
//! * Takeover: a worker process (lease 3 s) is killed with SIGKILL while it executes a job; from there to the start of
//!   the next attempt on another worker. Twenty times.
//! * 2,000 sleeping jobs on one worker process (lease 15 s): its CPU over 60 s, and its memory.
//! * 1,000,000 runs that execute nothing, through a worker in this process: its memory after every 100,000. The
//!   runs are published by this process, too.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

#[path = "../tests/support/nats.rs"]
mod nats;
mod support;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use orchestrator::{
    broker::{
        SharedBroker,
        nats::{NatsBroker, NatsOptions},
    },
    exec::Idle,
    worker::{Worker, WorkerOptions},
};
use support::{QUEUE, publish, until_empty};
use tokio_util::sync::CancellationToken;

const TAKEOVERS: usize = 20;
const SLEEPERS: usize = 2_000;
const MEASURED: Duration = Duration::from_secs(60);
const NOTHINGS: usize = 1_000_000;
const PORTION: usize = 20_000;
/// So many are made before they are published: they would count as memory of the worker.
const AT_ONCE: usize = 500;
const IN_FLIGHT: usize = 256;
/// A second in the units of /proc on Linux.
const CLOCK_TICKS: f64 = 100.0;

/// Processes of one installation.
struct Installation<'a> {
    dir: &'a Path,
    url: String,
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Installation<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        command
            .args(args)
            .env("NATS_URL", &self.url)
            .env("ORCHESTRATOR_DATA_DIR", self.dir.join("data"))
            .env("ORCHESTRATOR_SCHEDULES", self.dir.join("schedules"))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn service(&self, args: &[&str]) -> Killed {
        let log = fs::File::create(self.dir.join("log")).unwrap();
        Killed(self.command(args).stdout(log).spawn().unwrap())
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn lines(&self, name: &str) -> usize {
        let text = fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        text.lines().count()
    }
}

fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_there() {
        assert!(start.elapsed() < Duration::from_secs(120), "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn status_kib(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    let value = value.unwrap().split_whitespace().next().unwrap();
    value.parse().unwrap()
}

fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = [11, 12].map(|at: usize| fields[at].parse::<f64>().unwrap());
    ticks.iter().sum::<f64>() / CLOCK_TICKS
}

fn takeovers(here: &Installation<'_>) {
    let worker = ["worker", "--queue", "takeover", "--lease", "3s"];
    let mut took = Vec::new();
    let mut holder = here.service(&worker);
    for round in 0..TAKEOVERS {
        let _ = fs::remove_file(here.dir.join("go"));
        let before = here.lines("starts");
        here.run(&["run", "held"]);
        wait_for("the first attempt", || here.lines("starts") > before);
        let next = here.service(&worker);
        // At another moment of the lease each time.
        thread::sleep(Duration::from_millis(500 + 150 * round as u64));
        let killed = Instant::now();
        drop(holder);
        wait_for("the next attempt", || here.lines("starts") > before + 1);
        took.push(killed.elapsed().as_secs_f64());
        holder = next;
        fs::write(here.dir.join("go"), "").unwrap();
        wait_for("the end", || {
            here.run(&["runs", "--state", "running", "-o", "name"])
                .is_empty()
        });
    }
    took.sort_by(f64::total_cmp);
    println!(
        "takeover after SIGKILL, lease 3 s: median {:.2} s, at most {:.2} s, of {TAKEOVERS}",
        took[took.len() / 2],
        took[took.len() - 1]
    );
}

fn sleepers(here: &Installation<'_>) {
    let slots = SLEEPERS.to_string();
    let worker = ["worker", "--queue", "sleep", "--concurrency", &slots];
    let worker = here.service(&[&worker[..], &["--drain-timeout", "1s"]].concat());
    fs::write(here.dir.join("batch"), "{}\n".repeat(SLEEPERS)).unwrap();
    let batch = here.dir.join("batch").to_string_lossy().into_owned();
    let start = Instant::now();
    here.run(&["run", "asleep", "--batch", &batch]);
    wait_for("all to sleep", || here.lines("asleep") == SLEEPERS);
    println!(
        "{SLEEPERS} sleeping jobs: all started after {:.1} s",
        start.elapsed().as_secs_f64()
    );
    // Beyond the first renewals.
    thread::sleep(Duration::from_secs(20));
    let (pid, since, used) = (worker.0.id(), Instant::now(), cpu_seconds(worker.0.id()));
    thread::sleep(MEASURED);
    let share = (cpu_seconds(pid) - used) / since.elapsed().as_secs_f64();
    println!(
        "{SLEEPERS} sleeping jobs: {:.1} % of a core, {:.1} MB (RSS)",
        share * 100.0,
        status_kib(pid, "VmRSS:") as f64 / 1024.0
    );
    drop(worker);
}

async fn nothings(url: String) {
    let options = NatsOptions {
        url,
        namespace: "nothing".to_owned(),
        ..NatsOptions::default()
    };
    let broker: SharedBroker = NatsBroker::connect(options).await.unwrap();
    let options = WorkerOptions {
        concurrency: 64,
        player: Some(Arc::new(Idle)),
        ..WorkerOptions::new("w".to_owned(), vec![QUEUE.parse().unwrap()])
    };
    let worker = Worker::new(Arc::clone(&broker), options).unwrap();
    let stop = CancellationToken::new();
    let working = tokio::spawn(worker.run(stop.clone(), CancellationToken::new()));
    let start = Instant::now();
    for portion in 1..=NOTHINGS / PORTION {
        for _ in 0..PORTION / AT_ONCE {
            publish(&broker, AT_ONCE, IN_FLIGHT).await;
        }
        until_empty(&broker).await;
        if portion == 1 || (portion * PORTION).is_multiple_of(100_000) {
            println!(
                "{} runs that execute nothing, {:.0} a second: {:.1} MB (RSS)",
                portion * PORTION,
                (portion * PORTION) as f64 / start.elapsed().as_secs_f64(),
                status_kib(std::process::id(), "VmRSS:") as f64 / 1024.0
            );
        }
    }
    stop.cancel();
    working.await.unwrap();
}

const SCHEDULES: &str = "[defaults]\noverlap = \"allow\"\nworking_dir = \"..\"\n\
    [job.held]\nqueue = \"takeover\"\n\
    shell = \"echo >> starts; until [ -e go ]; do sleep 0.05; done\"\n\
    [job.asleep]\nqueue = \"sleep\"\nshell = \"echo >> asleep; exec sleep 600\"\n";

fn main() {
    let server = nats::NatsServer::start();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::create_dir(dir.path().join("schedules")).unwrap();
    fs::write(dir.path().join("schedules/jobs.toml"), SCHEDULES).unwrap();
    let here = Installation {
        dir: dir.path(),
        url: server.url(),
    };
    let beat = here.service(&["beat"]);
    wait_for("the definitions", || {
        here.run(&["jobs", "-o", "name"]).lines().count() == 2
    });
    drop(beat);
    takeovers(&here);
    sleepers(&here);
    tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(nothings(server.url()));
}
