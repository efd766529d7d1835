//! Beat's numbers: `cargo bench --bench beat`.
//!
//! * 1,000 ticks due in one second, published on NATS: from the first to the last publication, with NATS's
//!   default `sync_interval` and with `always`, each with atomic batches where they are quicker and without;
//!   medians of five, the ratio of each pair.
//! * 100,000 jobs loaded from TOML.

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
    path::PathBuf,
    time::{Duration, Instant},
};

use orchestrator::{
    beat::{Beat, BeatOptions},
    broker::{
        Broker,
        nats::{Batches, NatsBroker, NatsOptions},
    },
    schedules,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const TICKS: usize = 1_000;
const JOBS: usize = 100_000;
const ROUNDS: usize = 5;

/// Runs of `TICKS` jobs that are all due every ten seconds; returns how long after the second began
/// the last of them was stored.
async fn burst(url: String, namespace: String, batches: Batches) -> Duration {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut text = String::new();
    for n in 0..TICKS {
        writeln!(text, "[job.j{n}]\nevery = \"10s\"\nshell = \"true\"").unwrap();
    }
    fs::write(dir.path().join("jobs.toml"), text).unwrap();
    let sources = vec![dir.path().to_path_buf()];
    let loaded = schedules::load(&sources, orchestrator::clock::now()).unwrap();
    let options = NatsOptions {
        url,
        namespace,
        batches,
        ..NatsOptions::default()
    };
    let broker = NatsBroker::connect(options).await.unwrap();
    let beat_options = BeatOptions {
        id: "bench".to_owned(),
        schedules: sources,
        own: None,
        keep_verdicts: Duration::from_secs(7 * 86_400),
        leader_lease: None,
        ping: None,
        credentials: None,
        pulse: orchestrator::health::Pulse::unwatched("beat"),
    };
    let beat = Beat::start(broker.clone(), beat_options, loaded.set)
        .await
        .unwrap();
    let (tick, _) = beat.upcoming(1)[0].clone();
    let stop = CancellationToken::new();
    let (_keep, mut reload) = mpsc::channel(1);
    let stopped = stop.clone();
    let beating = tokio::spawn(async move { beat.run(&mut reload, &stopped).await });
    loop {
        let stored: u64 = broker
            .queues()
            .await
            .unwrap()
            .iter()
            .map(|q| q.waiting)
            .sum();
        if stored >= TICKS as u64 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = (orchestrator::clock::now() - tick).to_std().unwrap();
    stop.cancel();
    beating.await.unwrap();
    took
}

fn load() -> Duration {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let files = 10;
    for file in 0..files {
        let mut text = "[defaults]\nqueue = \"high\"\ntimeout = \"5m\"\n".to_owned();
        for n in 0..JOBS / files {
            let (minute, hour) = (n % 60, n % 24);
            writeln!(
                text,
                "[job.f{file}-{n}]\ncron = \"{minute} {hour} * * 1-5\"\ncommand = [\"python3\", \"crawl.py\", \"--site\", \"{n}\"]"
            )
            .unwrap();
        }
        fs::write(dir.path().join(format!("{file}.toml")), text).unwrap();
    }
    let sources: Vec<PathBuf> = vec![dir.path().to_path_buf()];
    let start = Instant::now();
    let loaded = schedules::load(&sources, orchestrator::clock::now()).unwrap();
    assert_eq!(loaded.set.jobs.len(), JOBS);
    start.elapsed()
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values[values.len() / 2]
}

#[tokio::main]
async fn main() {
    let loads = (0..ROUNDS).map(|_| load()).collect();
    println!(
        "{JOBS} jobs loaded from TOML in {:?} (median of {ROUNDS})",
        median(loads)
    );
    let plain = nats::NatsServer::start();
    let synced = nats::NatsServer::start_with("jetstream { sync_interval: always }");
    println!("{TICKS} ticks due in one second, until all are stored (medians of {ROUNDS}):");
    let kinds = [Batches::Never, Batches::WhereQuicker];
    for (server, how) in [
        (&plain, "NATS's default sync_interval"),
        (&synced, "`always`"),
    ] {
        let mut took = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            for (at, batches) in kinds.into_iter().enumerate() {
                let namespace = format!("round{round}-{at}");
                took[at].push(burst(server.url(), namespace, batches).await);
            }
        }
        let ratios = took[0].iter().zip(&took[1]);
        let ratios = ratios.map(|(single, batched)| batched.as_secs_f64() / single.as_secs_f64());
        let mut ratios: Vec<_> = ratios.collect();
        ratios.sort_by(f64::total_cmp);
        let [single, batched] = took.map(median);
        println!(
            "  {how}: {single:?} one by one, {batched:?} with batches where they are quicker, ratio {:.2}",
            ratios[ROUNDS / 2]
        );
    }
}
