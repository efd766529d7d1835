//! Logs of runs.

use chrono::DateTime;
use orchestrator::broker::{Broker, LogChunk, LogStream};

use super::harness::{Backend, LONG, run_id};

fn chunk(n: u64) -> LogChunk {
    LogChunk {
        attempt: 1 + u32::try_from(n % 2).unwrap(),
        stream: match n % 3 {
            0 => LogStream::Stdout,
            1 => LogStream::Stderr,
            _ => LogStream::Worker,
        },
        at: DateTime::from_timestamp(1_790_000_000, 123_456_789).unwrap(),
        offset: n * 1_000,
        bytes: vec![u8::try_from(n % 256).unwrap(); 1 + usize::try_from(n).unwrap() * 50],
    }
}

async fn append(broker: &dyn Broker, job: &str, chunks: std::ops::Range<u64>) -> Vec<u64> {
    let id = run_id(job, 1);
    let mut sequences = Vec::new();
    for n in chunks {
        sequences.push(broker.append_log(&id, chunk(n)).await.unwrap());
    }
    sequences
}

pub(super) async fn chunks_come_back_in_order(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    let id = run_id("crawl", 1);
    assert!(broker.read_log(&id, 0, 10).await.unwrap().is_empty());
    let sequences = append(&*broker, "crawl", 0..50).await;
    assert!(sequences.is_sorted());
    let log = broker.read_log(&id, 0, 100).await.unwrap();
    let expected: Vec<_> = sequences.into_iter().zip((0..50).map(chunk)).collect();
    assert_eq!(log, expected);
}

pub(super) async fn logs_of_runs_are_apart(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    for n in 0..3 {
        append(&*broker, "crawl", n..n + 1).await;
        append(&*broker, "crawl-full", n + 10..n + 11).await;
    }
    let log = broker.read_log(&run_id("crawl", 1), 0, 10).await.unwrap();
    let chunks: Vec<_> = log.into_iter().map(|(_, chunk)| chunk).collect();
    assert_eq!(chunks, [chunk(0), chunk(1), chunk(2)]);
}

pub(super) async fn reading_goes_on_after_a_sequence(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    append(&*broker, "crawl", 0..25).await;
    let id = run_id("crawl", 1);
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = broker.read_log(&id, after, 10).await.unwrap();
        assert!(page.len() <= 10);
        let Some((last, _)) = page.last() else { break };
        after = *last;
        seen.extend(page.into_iter().map(|(_, chunk)| chunk));
    }
    assert_eq!(seen, (0..25).map(chunk).collect::<Vec<_>>());
}

pub(super) async fn trimming_drops_the_oldest(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    let sequences = append(&*broker, "crawl", 0..10).await;
    append(&*broker, "login", 0..2).await;
    let id = run_id("crawl", 1);
    broker.trim_log(&id, sequences[5]).await.unwrap();
    broker.trim_log(&id, sequences[2]).await.unwrap();
    let log = broker.read_log(&id, 0, 100).await.unwrap();
    let expected: Vec<_> = sequences
        .into_iter()
        .zip((0..10).map(chunk))
        .skip(6)
        .collect();
    assert_eq!(log, expected);
    let other = broker.read_log(&run_id("login", 1), 0, 9).await.unwrap();
    assert_eq!(other.len(), 2);
}
