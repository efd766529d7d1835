//! Hours of steady work: `cargo bench --bench soak`, two hours; `SOAK_SECONDS` says otherwise.
//!
//! 200 jobs that are due every second and execute `/bin/true`, two beats and two workers on the nats-server that
//! `tests/tools/nats-server` installs. Warnings go to files in `SOAK_LOGS` if that is given. Every minute (`SOAK_LINE_SECONDS`) it prints what each process has in memory and how many runs
//! wait. At the end every tick of some of the jobs, from the first to the last, must have one run that succeeded,
//! and no job may have ticks that were missed or skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

#[path = "../tests/support/nats.rs"]
mod nats;

use std::{
    fmt::Write,
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use serde_json::Value;

const JOBS: usize = 200;
/// Whose runs are looked at one by one.
const LOOKED_AT: usize = 10;

struct Soak<'a> {
    dir: &'a Path,
    url: String,
}

struct Process {
    name: &'static str,
    child: Child,
}

impl Soak<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        command
            .args(args)
            .env("NATS_URL", &self.url)
            .env("ORCHESTRATOR_SCHEDULES", self.dir.join("schedules"))
            .stdin(Stdio::null());
        command
    }

    fn start(&self, name: &'static str, args: &[&str]) -> Process {
        let child = self
            .command(args)
            .env("ORCHESTRATOR_DATA_DIR", self.dir.join(name))
            .stdout(Stdio::null())
            .env("ORCHESTRATOR_LOG", "warn")
            .stderr(self.log(name))
            .spawn()
            .unwrap();
        Process { name, child }
    }

    /// Where a process says what is wrong: in `SOAK_LOGS`, a directory, if that is given.
    fn log(&self, name: &str) -> Stdio {
        match std::env::var_os("SOAK_LOGS") {
            None => Stdio::null(),
            Some(logs) => {
                let path = Path::new(&logs).join(format!("{name}.log"));
                fs::File::create(path).unwrap().into()
            }
        }
    }

    /// What a command prints as JSON.
    fn ask(&self, args: &[&str]) -> Value {
        let Output { stdout, stderr, .. } = self
            .command(args)
            .args(["-o", "json"])
            .output()
            .expect("the command runs");
        serde_json::from_slice(&stdout).unwrap_or_else(|error| {
            panic!("{args:?}: {error}: {}", String::from_utf8_lossy(&stderr))
        })
    }

    fn waiting(&self) -> u64 {
        let queues = self.ask(&["queues"]);
        let queues = queues.as_array().unwrap().iter();
        queues.map(|queue| queue["waiting"].as_u64().unwrap()).sum()
    }

    /// Every tick of `job` from the first run to the last has one run, and it succeeded.
    fn check(&self, job: &str, limit: &str) -> usize {
        let runs = self.ask(&["runs", "--job", job, "--limit", limit]);
        let runs = runs.as_array().unwrap();
        let mut ticks: Vec<DateTime<Utc>> = Vec::with_capacity(runs.len());
        for run in runs {
            assert_eq!(run["state"], "succeeded", "{run:#}");
            ticks.push(run["scheduled_for"].as_str().unwrap().parse().unwrap());
        }
        ticks.sort_unstable();
        for pair in ticks.windows(2) {
            assert_eq!((pair[1] - pair[0]).num_seconds(), 1, "{job}: {pair:?}");
        }
        ticks.len()
    }
}

impl Process {
    /// In megabytes.
    fn resident(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS"))
            .unwrap();
        let kilobytes: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes / 1024.0
    }

    fn terminate(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.name);
    }
}

fn seconds(name: &str, otherwise: u64) -> Duration {
    let given = std::env::var(name).ok();
    Duration::from_secs(given.map_or(otherwise, |text| text.parse().unwrap()))
}

fn main() {
    let (length, line) = (
        seconds("SOAK_SECONDS", 7200),
        seconds("SOAK_LINE_SECONDS", 60),
    );
    let server = nats::NatsServer::start();
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("schedules")).unwrap();
    let mut jobs =
        String::from("[defaults]\nevery = \"1s\"\noverlap = \"allow\"\ncommand = [\"true\"]\n");
    for number in 0..JOBS {
        writeln!(jobs, "[job.soak-{number:03}]").unwrap();
    }
    fs::write(dir.path().join("schedules/a.toml"), jobs).unwrap();
    let soak = Soak {
        dir: dir.path(),
        url: server.url(),
    };
    let worker = ["worker", "--queue", "default", "--concurrency", "4"];
    let mut processes = [
        soak.start("beat", &["beat"]),
        soak.start("standby", &["beat"]),
        soak.start("worker-1", &worker),
        soak.start("worker-2", &worker),
    ];
    let start = Instant::now();
    while start.elapsed() < length {
        thread::sleep(line.min(length - start.elapsed()));
        let mut sizes = String::new();
        for process in &mut processes {
            assert!(
                process.child.try_wait().unwrap().is_none(),
                "{} ended",
                process.name
            );
            write!(sizes, " {} {:.1} MB,", process.name, process.resident()).unwrap();
        }
        println!(
            "{:>5} s:{sizes} {} waiting",
            start.elapsed().as_secs(),
            soak.waiting()
        );
    }
    let (beats, workers) = processes.split_at_mut(2);
    beats.iter_mut().for_each(Process::terminate);
    while soak.waiting() > 0 {
        thread::sleep(Duration::from_millis(100));
    }
    workers.iter_mut().for_each(Process::terminate);

    let jobs = soak.ask(&["jobs"]);
    let not_run = |key: &str| -> u64 {
        let jobs = jobs.as_array().unwrap().iter();
        jobs.map(|job| job[key].as_u64().unwrap()).sum()
    };
    let not_run = ["missed", "skipped", "coalesced"].map(|key| (key, not_run(key)));
    assert!(
        not_run.iter().all(|(_, ticks)| *ticks == 0),
        "ticks that were not run: {not_run:?}"
    );
    let limit = (length.as_secs() + 600).to_string();
    let looked_at: usize = (0..LOOKED_AT)
        .map(|number| soak.check(&format!("soak-{:03}", number * JOBS / LOOKED_AT), &limit))
        .sum();
    println!(
        "{looked_at} runs of {LOOKED_AT} jobs looked at: each tick once, all succeeded; none missed or skipped of {JOBS}"
    );
}
