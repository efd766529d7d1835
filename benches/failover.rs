//! How soon a standby stands in for a beat that was killed: `cargo bench --bench failover`, two minutes.
//!
//! Two beat processes on the nats-server that `tests/tools/nats-server` installs, with the default lease of 3 s.
//! The one that leads is killed with SIGKILL; from there to the event "leading" of the other one. Twenty times.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

#[path = "../tests/support/nats.rs"]
mod nats;

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const ROUNDS: usize = 20;
const JOB: &str = "[job.tick]\nevery = \"1s\"\noverlap = \"allow\"\nshell = \"true\"\n";

struct Beat {
    child: Child,
    log: std::path::PathBuf,
}

impl Beat {
    fn start(dir: &Path, url: &str, count: usize) -> Self {
        let log = dir.join(format!("log-{count}"));
        let child = Command::new(env!("CARGO_BIN_EXE_orchestrator"))
            .arg("beat")
            .env("NATS_URL", url)
            .env("ORCHESTRATOR_DATA_DIR", dir.join(format!("data-{count}")))
            .env("ORCHESTRATOR_SCHEDULES", dir.join("schedules"))
            .stdin(Stdio::null())
            .stdout(File::create(&log).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn says(&self, event: &str) -> bool {
        fs::read_to_string(&self.log)
            .unwrap()
            .contains(&format!("\"{event}\""))
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn wait_for(beat: &Beat, event: &str) {
    let start = Instant::now();
    while !beat.says(event) {
        assert!(start.elapsed() < Duration::from_secs(60), "no {event}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn main() {
    let server = nats::NatsServer::start();
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("schedules")).unwrap();
    fs::write(dir.path().join("schedules/a.toml"), JOB).unwrap();
    let mut leader = Beat::start(dir.path(), &server.url(), 0);
    wait_for(&leader, "run published");
    let mut took = Vec::new();
    for round in 1..=ROUNDS {
        let standby = Beat::start(dir.path(), &server.url(), round);
        wait_for(&standby, "standing by");
        // Anywhere between two renewals.
        thread::sleep(Duration::from_millis(137 * round as u64 % 1000));
        let killed = Instant::now();
        leader.kill();
        wait_for(&standby, "leading");
        took.push(killed.elapsed());
        wait_for(&standby, "run published");
        leader = standby;
    }
    leader.kill();
    took.sort();
    println!(
        "failover after SIGKILL, lease 3 s: median {:.2} s, at most {:.2} s, of {ROUNDS}",
        took[ROUNDS / 2].as_secs_f64(),
        took[ROUNDS - 1].as_secs_f64()
    );
}
