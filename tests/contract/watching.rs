//! Watches: what is there, then what changes.

use futures::StreamExt;
use orchestrator::broker::{Broker, Bucket, Change, Changes};

use super::harness::{Backend, LONG, SOON};

async fn put(broker: &dyn Broker, key: &str, value: &str) {
    broker.put(Bucket::State, key, value.into()).await.unwrap();
}

/// The next change as `key=value`, `-key` or `current`.
async fn next(changes: &mut Changes) -> String {
    let change = tokio::time::timeout(SOON, changes.next()).await;
    match change.expect("a change should come").unwrap().unwrap() {
        Change::Put(entry) => {
            format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value))
        }
        Change::Deleted { key } => format!("-{key}"),
        Change::Current => "current".to_owned(),
    }
}

/// Everything up to and including `current`, the values sorted.
async fn initial(changes: &mut Changes) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let change = next(changes).await;
        if change == "current" {
            seen.sort();
            return seen;
        }
        seen.push(change);
    }
}

pub(super) async fn a_watch_starts_with_what_is_there(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    let mut empty = broker.watch(Bucket::State, "").await.unwrap();
    assert!(initial(&mut empty).await.is_empty());
    put(&*broker, "a.1", "x").await;
    put(&*broker, "a.2", "y").await;
    put(&*broker, "a.2", "z").await;
    put(&*broker, "a.3", "x").await;
    broker.delete(Bucket::State, "a.3").await.unwrap();
    let mut changes = broker.watch(Bucket::State, "").await.unwrap();
    assert_eq!(initial(&mut changes).await, ["a.1=x", "a.2=z"]);
}

pub(super) async fn a_watch_sees_changes_and_deletes(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    put(&*broker, "a.1", "x").await;
    let mut changes = broker.watch(Bucket::State, "").await.unwrap();
    assert_eq!(initial(&mut changes).await, ["a.1=x"]);
    put(&*broker, "a.1", "y").await;
    assert_eq!(next(&mut changes).await, "a.1=y");
    put(&*broker, "a.2", "z").await;
    assert_eq!(next(&mut changes).await, "a.2=z");
    broker.delete(Bucket::State, "a.1").await.unwrap();
    assert_eq!(next(&mut changes).await, "-a.1");
    put(&*broker, "a.1", "again").await;
    assert_eq!(next(&mut changes).await, "a.1=again");
}

pub(super) async fn a_watch_is_limited_to_its_prefix(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    put(&*broker, "cancel.1", "x").await;
    put(&*broker, "cancelled.1", "x").await;
    let mut changes = broker.watch(Bucket::State, "cancel.").await.unwrap();
    assert_eq!(initial(&mut changes).await, ["cancel.1=x"]);
    put(&*broker, "cancelled.1", "y").await;
    put(&*broker, "cancel", "y").await;
    broker
        .put(Bucket::Runs, "cancel.1", b"y".to_vec())
        .await
        .unwrap();
    put(&*broker, "cancel.2", "y").await;
    assert_eq!(next(&mut changes).await, "cancel.2=y");
}

pub(super) async fn a_slow_watcher_sees_the_last_value(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    let mut changes = broker.watch(Bucket::State, "").await.unwrap();
    assert!(initial(&mut changes).await.is_empty());
    for n in 0..2_000 {
        put(&*broker, &format!("a.{}", n % 7), &n.to_string()).await;
    }
    put(&*broker, "z", "end").await;
    let mut last = std::collections::BTreeMap::new();
    loop {
        let change = next(&mut changes).await;
        let (key, value) = change.split_once('=').unwrap();
        last.insert(key.to_owned(), value.to_owned());
        if last.contains_key("z") && last.len() == 8 {
            let finals: Vec<_> = (0..7).map(|k| last[&format!("a.{k}")].clone()).collect();
            let mut sorted: Vec<usize> = finals.iter().map(|v| v.parse().unwrap()).collect();
            sorted.sort_unstable();
            if sorted == (1_993..2_000).collect::<Vec<_>>() {
                return;
            }
        }
    }
}

pub(super) async fn no_change_is_lost_between_start_and_stream(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    for round in 0..30 {
        let key = format!("round.{round}.k");
        let prefix = format!("round.{round}.");
        put(&*broker, &key, "old").await;
        let (changes, ()) = tokio::join!(
            broker.watch(Bucket::State, &prefix),
            put(&*broker, &key, "new")
        );
        let mut changes = changes.unwrap();
        let new = format!("{key}=new");
        while next(&mut changes).await != new {}
    }
}
