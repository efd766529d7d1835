use super::{forms::MAX_AGE, *};
use crate::broker::LogStream;

const LIMIT: u64 = 100_000;

fn logs(directory: &std::path::Path) -> Logs {
    let store = Store::open(directory).unwrap();
    Logs::load(store, &Arc::new(Context::new(directory)), LIMIT).unwrap()
}

fn id(job: &str) -> RunId {
    format!("{job}@20261123T023000Z").parse().unwrap()
}

fn chunk(offset: u64) -> LogChunk {
    LogChunk {
        attempt: 1,
        stream: LogStream::Stdout,
        at: clock::now(),
        offset,
        bytes: vec![b'x'; 1_000],
    }
}

async fn offsets(logs: &Logs, job: &str) -> Vec<u64> {
    let chunks = logs.read(&id(job), 0, 10_000).await.unwrap();
    chunks.into_iter().map(|(_, chunk)| chunk.offset).collect()
}

/// The total as it should be.
fn counted(logs: &Logs) -> u64 {
    let size = |pair: Result<(_, Vec<u8>), _>| Place::decode(&pair.unwrap().1).unwrap().size;
    logs.store.scan(ORDER).map(size).sum()
}

#[tokio::test]
async fn the_total_is_bounded_and_the_oldest_go_first() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(directory.path());
    for n in 0..20 {
        logs.append(&id("old"), &chunk(n)).await.unwrap();
    }
    for n in 0..1_000 {
        logs.append(&id("new"), &chunk(n)).await.unwrap();
        assert!(logs.lock().total <= LIMIT);
    }
    assert!(offsets(&logs, "old").await.is_empty());
    let kept = offsets(&logs, "new").await;
    assert!(kept.len() > 70, "{}", kept.len());
    let oldest = 1_000 - kept.len() as u64;
    assert_eq!(kept, (oldest..1_000).collect::<Vec<_>>());
    assert_eq!(logs.store.scan(CHUNKS).count(), kept.len());
    assert_eq!(logs.lock().total, counted(&logs));
}

#[tokio::test]
async fn the_total_is_right_after_trimming_and_reopening() {
    let directory = tempfile::tempdir().unwrap();
    {
        let logs = logs(directory.path());
        let mut last = 0;
        for n in 0..10 {
            last = logs.append(&id("a"), &chunk(n)).await.unwrap();
            logs.append(&id("b"), &chunk(n)).await.unwrap();
        }
        let (run, other) = (id("a"), id("b"));
        let trims = [(&run, last), (&run, last), (&other, 6)];
        let trims = trims.map(|(run, sequence)| logs.trim(run, sequence));
        for trimmed in futures::future::join_all(trims).await {
            trimmed.unwrap();
        }
        logs.store.close().await;
    }
    let logs = logs(directory.path());
    assert!(offsets(&logs, "a").await.is_empty());
    assert_eq!(offsets(&logs, "b").await, (3..10).collect::<Vec<_>>());
    assert_eq!(logs.lock().total, counted(&logs));
}

#[tokio::test]
async fn old_output_goes() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(directory.path());
    logs.append(&id("a"), &chunk(0)).await.unwrap();
    let age = chrono::TimeDelta::from_std(MAX_AGE).unwrap();
    let now = clock::now();
    logs.evict_at(now + age / 2).await.unwrap();
    assert_eq!(offsets(&logs, "a").await, [0]);
    logs.evict_at(now + age * 2).await.unwrap();
    assert!(offsets(&logs, "a").await.is_empty());
    assert_eq!(logs.lock().total, 0);
}
