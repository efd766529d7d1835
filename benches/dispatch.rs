//! How late runs are published: `cargo bench --bench dispatch`.
//!
//! A beat process on NATS with 10,000 jobs of `every = "60s"`: their offsets spread over the minute,
//! then all due at the same instant.
//! Lag: from a tick to the arrival of its message at a subscriber on the same machine, which the
//! server serves after it has stored it. CPU: that of the beat process over the same time. The
//! stored runs are acknowledged here, so that the next ticks find their slots free.

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
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use orchestrator::{
    broker::{
        Broker, PullRequest,
        nats::{NatsBroker, NatsOptions},
    },
    clock,
    run::RunMessage,
};
use tokio_util::sync::CancellationToken;

const JOBS: usize = 10_000;
const PERIOD: usize = 60;
/// Beat is at work for so long before anything is measured.
const WARM_UP: Duration = Duration::from_secs(20);
/// A second in the units of /proc on Linux.
const CLOCK_TICKS: f64 = 100.0;
const MEASURED: Duration = Duration::from_secs(60);

fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: f64 = [11, 12]
        .iter()
        .map(|&at| fields[at].parse::<f64>().unwrap())
        .sum();
    ticks / CLOCK_TICKS
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Acknowledges everything, so that every slot is free for its next tick.
async fn settle_all(broker: Arc<NatsBroker>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let request = PullRequest {
            shares: vec![("default".parse().unwrap(), 500)],
            max: 500,
            wait: Duration::from_secs(1),
        };
        let Ok(taken) = broker.pull(request, &stop).await else {
            continue;
        };
        let acks = taken.iter().map(|delivery| broker.ack(&delivery.receipt));
        futures::future::join_all(acks).await;
    }
}

#[tokio::main]
async fn main() {
    measure("spread over the minute", PERIOD).await;
    measure("all at once", 1).await;
}

/// The offsets take `offsets` values.
async fn measure(name: &str, offsets: usize) {
    let server = nats::NatsServer::start();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::create_dir(dir.path().join("schedules")).unwrap();
    let mut text = String::new();
    for n in 0..JOBS {
        let offset = n % offsets;
        writeln!(
            text,
            "[job.j{n}]\nevery = \"{PERIOD}s\"\noffset = \"{offset}s\"\nshell = \"true\""
        )
        .unwrap();
    }
    fs::write(dir.path().join("schedules/jobs.toml"), text).unwrap();
    let beat = Command::new(env!("CARGO_BIN_EXE_orchestrator"))
        .arg("beat")
        .env("NATS_URL", server.url())
        .env("ORCHESTRATOR_DATA_DIR", dir.path().join("data"))
        .env("ORCHESTRATOR_SCHEDULES", dir.path().join("schedules"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let beat = Killed(beat);
    let options = NatsOptions {
        url: server.url(),
        ..NatsOptions::default()
    };
    let broker = NatsBroker::connect(options).await.unwrap();
    let stop = CancellationToken::new();
    let settling = tokio::spawn(settle_all(broker, stop.clone()));
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut published = client.subscribe("orch.jobs.>").await.unwrap();
    let start = Instant::now();
    let (mut lags, mut cpu) = (Vec::new(), None);
    while start.elapsed() < WARM_UP + MEASURED {
        let next = tokio::time::timeout(Duration::from_secs(2), published.next()).await;
        let Ok(Some(message)) = next else { continue };
        let now = clock::now();
        if start.elapsed() < WARM_UP {
            continue;
        }
        cpu.get_or_insert_with(|| (Instant::now(), cpu_seconds(beat.0.id())));
        let run = RunMessage::decode(&message.payload).unwrap();
        lags.push((now - run.scheduled_for).to_std().unwrap_or_default());
    }
    let (since, used) = cpu.unwrap();
    let share = (cpu_seconds(beat.0.id()) - used) / since.elapsed().as_secs_f64();
    stop.cancel();
    settling.await.unwrap();
    lags.sort_unstable();
    let at = |share: f64| lags[((lags.len() - 1) as f64 * share) as usize];
    println!(
        "{name}: {} runs of {JOBS} jobs every {PERIOD} s: lag median {:.1?}, p99 {:.1?}, most {:.1?}; beat used {:.1} % of a core",
        lags.len(),
        at(0.5),
        at(0.99),
        at(1.0),
        share * 100.0
    );
}
