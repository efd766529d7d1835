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

use std::{
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use orchestrator::{
    broker::{
        Broker, Bucket, Outgoing, SharedBroker, Slot,
        embedded::{EmbeddedBroker, EmbeddedOptions},
        nats::{NatsBroker, NatsOptions},
    },
    exec::Cgroup,
    job::{Execute, Job, Policy, RunSpec, Trigger},
    run::{RunId, RunMessage, RunRequest},
    worker::{QueueShare, Worker, WorkerOptions},
};
use tokio_util::sync::CancellationToken;

const RUNS: usize = 2_000;
const CONCURRENCY: usize = 8;
const ROUNDS: usize = 5;

fn job() -> Job {
    let command = vec!["/bin/true".parse().unwrap()];
    Job {
        name: "true".parse().unwrap(),
        description: None,
        tags: Vec::new(),
        enabled: true,
        trigger: Trigger::OnDemand,
        timezone: chrono_tz::UTC,
        queue: "bench".parse().unwrap(),
        policy: Policy::default(),
        unique: None,
        spec: RunSpec::new(Execute::Command(command)),
    }
}

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

async fn publish(broker: &SharedBroker) {
    let job = job();
    let sends = (0..RUNS).map(|_| {
        let run_id = RunId::manual(job.name.clone(), uuid::Uuid::now_v7());
        let now = orchestrator::clock::now();
        let request = RunRequest {
            run_id: run_id.clone(),
            scheduled_for: now,
            published_at: now,
            not_before: None,
            last_success: None,
            args: serde_json::Map::new(),
            parent: None,
        };
        let outgoing = Outgoing {
            run_id,
            queue: job.queue.clone(),
            slot: Slot::Run,
            payload: RunMessage::for_job(&job, request).encode().unwrap(),
        };
        let broker = Arc::clone(broker);
        async move { broker.publish(outgoing).await.unwrap() }
    });
    stream::iter(sends)
        .buffer_unordered(256)
        .for_each(|_| async {})
        .await;
}

/// Publishes, then measures from the worker's start to the last record and acknowledgement.
async fn through(broker: SharedBroker) -> f64 {
    publish(&broker).await;
    let share: QueueShare = "bench".parse().unwrap();
    let options = WorkerOptions {
        concurrency: CONCURRENCY,
        cgroup: cgroup(),
        ..WorkerOptions::new("bench-worker".to_owned(), vec![share])
    };
    let stop = CancellationToken::new();
    let worker = Worker::new(Arc::clone(&broker), options).unwrap();
    let start = Instant::now();
    let working = tokio::spawn(worker.run(stop.clone(), CancellationToken::new()));
    while left(broker.as_ref()).await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let rate = RUNS as f64 / start.elapsed().as_secs_f64();
    stop.cancel();
    working.await.unwrap();
    assert!(
        broker
            .latest(Bucket::Runs, "true.")
            .await
            .unwrap()
            .is_some()
    );
    rate
}

async fn left(broker: &dyn Broker) -> u64 {
    let queues = broker.queues().await.unwrap();
    queues
        .iter()
        .map(|queue| queue.waiting + queue.running)
        .sum()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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
        let ratio = median(rows.iter().map(|row| row[at] / row[0]).collect());
        let rate = median(rows.iter().map(|row| row[at]).collect());
        println!("{name}: {rate:.0} runs/s, {ratio:.2} of raw spawning");
    }
}
