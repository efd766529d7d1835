//! What TLS costs: `cargo bench --bench tls`, two minutes.
//!
//! The same nats-server twice on this machine, without and with TLS (certificates of an authority made for the
//! occasion), by turns: bursts of runs as beat publishes them, runs published one after the other, and a worker's
//! runs, of a job that executes nothing and of `/bin/true`. A second, and the ratio of each pair; medians of the
//! rounds.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

#[allow(dead_code, reason = "it also signs what only tests need")]
#[path = "../tests/access/authority.rs"]
mod authority;
#[path = "../tests/support/nats.rs"]
mod nats;
mod support;

use std::sync::Arc;

use authority::{Authority, Validity};
use nats::NatsServer;
use orchestrator::{
    broker::{
        SharedBroker,
        nats::{Credentials, NatsBroker, NatsOptions},
    },
    exec::{Idle, Player},
    worker::WorkerOptions,
};
use support::{QUEUE, median, publish, work_off};

const ROUNDS: usize = 7;
/// As many as beat has on their way.
const IN_FLIGHT: usize = 1024;
const CONCURRENCY: usize = 8;

/// What is done in a round, and how many of it.
const KINDS: [(&str, Kind, usize); 4] = [
    ("runs published in bursts", Kind::Publish(IN_FLIGHT), 20_000),
    (
        "runs published one after the other",
        Kind::Publish(1),
        3_000,
    ),
    ("runs of nothing", Kind::Nothing, 6_000),
    ("runs of /bin/true", Kind::True, 2_000),
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Publish(usize),
    Nothing,
    True,
}

/// Runs a second, once they are published.
async fn work(broker: &SharedBroker, count: usize, player: Option<Arc<dyn Player>>) -> f64 {
    publish(broker, count, IN_FLIGHT).await;
    let options = WorkerOptions {
        concurrency: CONCURRENCY,
        player,
        ..WorkerOptions::new("bench".to_owned(), vec![QUEUE.parse().unwrap()])
    };
    count as f64 / work_off(broker, options).await.as_secs_f64()
}

async fn rate(options: NatsOptions, kind: Kind, count: usize) -> f64 {
    let nats = NatsBroker::connect(options).await.unwrap();
    let broker = Arc::clone(&nats) as SharedBroker;
    // All that is made on first use is there.
    publish(&broker, 1, 1).await;
    let rate = match kind {
        Kind::Publish(in_flight) => publish(&broker, count, in_flight).await,
        Kind::Nothing => work(&broker, count, Some(Arc::new(Idle))).await,
        Kind::True => work(&broker, count, None).await,
    };
    nats.remove_namespace().await.unwrap();
    rate
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "authority");
    let files = authority.sign("server", "127.0.0.1", Validity::Now);
    let plain = NatsServer::start();
    let secure = NatsServer::start_with(&authority.server(&files, ""));
    let options = |secured: bool, round: usize| NatsOptions {
        url: match secured {
            true => secure.url().replace("nats://", "tls://"),
            false => plain.url(),
        },
        credentials: Credentials {
            ca: secured.then(|| authority.ca.clone()),
            ..Credentials::default()
        },
        namespace: format!("r{round}"),
        ..NatsOptions::default()
    };
    println!("medians of {ROUNDS} rounds, a second:");
    for (what, kind, count) in KINDS {
        let (mut plains, mut secures, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            // Who is first is not always the same.
            let first = round % 2 == 1;
            let one = rate(options(first, round), kind, count).await;
            let other = rate(options(!first, round), kind, count).await;
            let (without, with) = match first {
                false => (one, other),
                true => (other, one),
            };
            plains.push(without);
            secures.push(with);
            ratios.push(with / without);
        }
        println!(
            "  {what}: {:.0} without TLS, {:.0} with; ratio {:.2} ({:.2} to {:.2})",
            median(&mut plains),
            median(&mut secures),
            median(&mut ratios),
            ratios[0],
            ratios[ROUNDS - 1],
        );
    }
}
