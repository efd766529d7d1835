//! Runs a second of `/bin/true` through both brokers, beside spawning the same number of `/bin/true`
//! with `tokio::process` and piped output in the same process: `cargo bench --bench throughput`.
//!
//! The three are interleaved, five rounds, and compared by the median of the rounds' ratios. NATS is
//! the server that `tests/tools/nats-server` installs, once with its default `sync_interval` and
//! once with `always`. Needs no network beyond loopback and ends by itself.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

#[path = "../tests/support/nats.rs"]
mod nats;
mod support;

use std::{process::Stdio, sync::Arc, time::Instant};

use futures::{StreamExt, stream};
use orchestrator::{
    broker::{
        Bucket, SharedBroker,
        embedded::{EmbeddedBroker, EmbeddedOptions},
        nats::{NatsBroker, NatsOptions},
    },
    exec::Cgroup,
    worker::WorkerOptions,
};
use support::{QUEUE, median, publish, work_off};

const RUNS: usize = 2_000;
const CONCURRENCY: usize = 8;
const ROUNDS: usize = 5;
/// How many are published at once.
const IN_FLIGHT: usize = 256;

/// `ORCHESTRATOR_CGROUP`, as for a worker.
fn cgroup() -> Cgroup {
    let wanted = std::env::var("ORCHESTRATOR_CGROUP");
    wanted.map_or(Cgroup::Auto, |text| text.parse().unwrap())
}

/// Spawns as many processes as the others run jobs, as many at once.
async fn raw() -> f64 {
    let start = Instant::now();
    stream::iter(0..RUNS)
        .map(|_| async {
            let child = tokio::process::Command::new("/bin/true")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            tokio::spawn(child.wait_with_output())
                .await
                .unwrap()
                .unwrap();
        })
        .buffer_unordered(CONCURRENCY)
        .for_each(|()| async {})
        .await;
    RUNS as f64 / start.elapsed().as_secs_f64()
}

/// Publishes, then measures from the worker's start to the last record and acknowledgement.
async fn through(broker: SharedBroker) -> f64 {
    publish(&broker, RUNS, IN_FLIGHT).await;
    let options = WorkerOptions {
        concurrency: CONCURRENCY,
        cgroup: cgroup(),
        ..WorkerOptions::new("bench-worker".to_owned(), vec![QUEUE.parse().unwrap()])
    };
    let took = work_off(&broker, options).await;
    let record = broker.latest(Bucket::Runs, "true.").await;
    assert!(record.unwrap().is_some());
    RUNS as f64 / took.as_secs_f64()
}

#[tokio::main]
async fn main() {
    let plain = nats::NatsServer::start();
    let synced = nats::NatsServer::start_with("jetstream { sync_interval: always }");
    let mut rows: Vec<[f64; 4]> = Vec::new();
    for round in 0..ROUNDS {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let embedded = EmbeddedBroker::open(dir.path(), EmbeddedOptions::default()).unwrap();
        let base = raw().await;
        let on_embedded = through(Arc::clone(&embedded) as SharedBroker).await;
        embedded.shutdown().await;
        let mut row = [base, on_embedded, 0.0, 0.0];
        for (at, server) in [(2, &plain), (3, &synced)] {
            let options = NatsOptions {
                url: server.url(),
                namespace: format!("round{round}"),
                ..NatsOptions::default()
            };
            row[at] = through(NatsBroker::connect(options).await.unwrap()).await;
        }
        println!(
            "round {round}: raw {:.0}/s, embedded {:.0}/s, NATS {:.0}/s, NATS with sync always {:.0}/s",
            row[0], row[1], row[2], row[3]
        );
        rows.push(row);
    }
    for (at, name) in [(1, "embedded"), (2, "NATS"), (3, "NATS, sync always")] {
        let mut ratios: Vec<_> = rows.iter().map(|row| row[at] / row[0]).collect();
        let mut rates: Vec<_> = rows.iter().map(|row| row[at]).collect();
        let (ratio, rate) = (median(&mut ratios), median(&mut rates));
        println!("{name}: {rate:.0} runs/s, {ratio:.2} of raw spawning");
    }
}
