//! What three copies cost: `cargo bench --bench cluster`, a minute.
//!
//! Bursts as beat publishes them, on one nats-server and on a cluster of three with `--replicas 3`, all on this
//! machine, in turns: runs stored a second, and the ratio of each pair. Medians of five rounds, with NATS's default
//! `sync_interval` and with `always`.

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
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use nats::NatsServer;
use orchestrator::{
    broker::{
        Broker, Outgoing, Published, Slot,
        nats::{NatsBroker, NatsOptions},
    },
    run::RunId,
};
use support::median;

const ROUNDS: usize = 5;
const RUNS: usize = 3_000;
/// As many as beat has on their way.
const IN_FLIGHT: usize = 1024;
/// As long as the message of a small job.
const BYTES: usize = 600;

async fn connect(servers: &[NatsServer], namespace: String) -> Arc<NatsBroker> {
    let urls: Vec<_> = servers.iter().map(NatsServer::url).collect();
    // The servers of a cluster find each other first.
    for _ in 0..300 {
        let options = NatsOptions {
            url: urls.join(","),
            namespace: namespace.clone(),
            replicas: servers.len(),
            ..NatsOptions::default()
        };
        if let Ok(broker) = NatsBroker::connect(options).await
            && broker.publish(run(RUNS)).await.is_ok()
        {
            return broker;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the servers do not come up");
}

fn run(n: usize) -> Outgoing {
    let tick = 1_790_000_000 + i64::try_from(n).unwrap();
    let tick = chrono::DateTime::from_timestamp(tick, 0).unwrap();
    Outgoing {
        run_id: RunId::for_tick("tick".parse().unwrap(), tick),
        queue: "default".parse().unwrap(),
        slot: Slot::Run,
        payload: vec![b'x'; BYTES],
    }
}

/// Runs stored a second.
async fn rate(servers: &[NatsServer], namespace: String) -> f64 {
    let broker = connect(servers, namespace).await;
    let start = Instant::now();
    stream::iter(0..RUNS)
        .map(|n| broker.publish(run(n)))
        .buffer_unordered(IN_FLIGHT)
        .for_each(async |published| assert_eq!(published, Ok(Published::Stored)))
        .await;
    let rate = RUNS as f64 / start.elapsed().as_secs_f64();
    broker.remove_namespace().await.unwrap();
    rate
}

#[tokio::main]
async fn main() {
    println!("{RUNS} runs a round, medians of {ROUNDS}:");
    for (how, more) in [
        ("NATS's default sync_interval", ""),
        ("`always`", "jetstream { sync_interval: always }"),
    ] {
        let one = [NatsServer::start_with(more)];
        let three = NatsServer::cluster_with(3, more);
        let (mut ones, mut threes, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let (of_one, of_three) = (
                rate(&one, format!("r{round}")).await,
                rate(&three, format!("r{round}")).await,
            );
            ones.push(of_one);
            threes.push(of_three);
            ratios.push(of_three / of_one);
        }
        println!(
            "  {how}: {:.0} a second on one server, {:.0} on three; ratio {:.2} ({:.2} to {:.2})",
            median(&mut ones),
            median(&mut threes),
            median(&mut ratios),
            ratios[0],
            ratios[ROUNDS - 1],
        );
    }
}
