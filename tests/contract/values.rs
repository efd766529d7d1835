//! Keys and values: compare-and-set, revisions, prefixes.

use futures::future::join_all;
use orchestrator::broker::{Broker, Bucket, Cas, Durability, Revision, list};

use super::harness::{Backend, LONG};

async fn create(broker: &dyn Broker, key: &str, value: &str) -> Cas {
    set(broker, key, None, value).await
}

async fn set(broker: &dyn Broker, key: &str, expected: Option<Revision>, value: &str) -> Cas {
    broker
        .compare_and_set(Bucket::Runs, key, expected, value.into(), Durability::Crash)
        .await
        .unwrap()
}

async fn put(broker: &dyn Broker, key: &str, value: &str) -> Revision {
    broker.put(Bucket::Runs, key, value.into()).await.unwrap()
}

async fn value(broker: &dyn Broker, key: &str) -> Option<String> {
    let entry = broker.get(Bucket::Runs, key).await.unwrap()?;
    assert_eq!(entry.key, key);
    Some(String::from_utf8(entry.value).unwrap())
}

pub(super) async fn keys_are_put_read_and_deleted(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    assert_eq!(value(&*broker, "crawl.1").await, None);
    let first = put(&*broker, "crawl.1", "a").await;
    let second = put(&*broker, "crawl.1", "b").await;
    assert!(second > first);
    assert_eq!(value(&*broker, "crawl.1").await.as_deref(), Some("b"));
    broker.delete(Bucket::Runs, "crawl.1").await.unwrap();
    assert_eq!(value(&*broker, "crawl.1").await, None);
    broker.delete(Bucket::Runs, "crawl.1").await.unwrap();
    let large = "x".repeat(300_000);
    put(&*broker, "crawl.large", &large).await;
    assert_eq!(value(&*broker, "crawl.large").await, Some(large));
    put(&*broker, "crawl.large", "").await;
    assert_eq!(value(&*broker, "crawl.large").await.as_deref(), Some(""));
}

pub(super) async fn compare_and_set_creates_once(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    let Cas::Done(revision) = create(&*broker, "crawl.1", "a").await else {
        panic!("the key did not exist");
    };
    assert_eq!(create(&*broker, "crawl.1", "b").await, Cas::Conflict);
    let entry = broker.get(Bucket::Runs, "crawl.1").await.unwrap().unwrap();
    assert_eq!((entry.revision, &entry.value[..]), (revision, &b"a"[..]));
}

pub(super) async fn compare_and_set_needs_the_current_revision(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    let first = put(&*broker, "crawl.1", "a").await;
    let Cas::Done(second) = set(&*broker, "crawl.1", Some(first), "b").await else {
        panic!("nobody else changed it");
    };
    assert!(second > first);
    let stale = set(&*broker, "crawl.1", Some(first), "c").await;
    assert_eq!(stale, Cas::Conflict);
    let elsewhere = set(&*broker, "crawl.2", Some(second), "c").await;
    assert_eq!(elsewhere, Cas::Conflict, "a key that does not exist");
    assert_eq!(value(&*broker, "crawl.1").await.as_deref(), Some("b"));
    let power = broker
        .compare_and_set(
            Bucket::Runs,
            "crawl.1",
            Some(second),
            b"d".to_vec(),
            Durability::Power,
        )
        .await
        .unwrap();
    assert!(matches!(power, Cas::Done(third) if third > second));
}

/// Where it is remembered that a key was removed, it is not created as if it never was.
pub(super) async fn what_was_removed_is_created_only_where_it_is_forgotten(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    let create = || {
        let value = b"1".to_vec();
        broker.create(Bucket::Runs, "crawl.1", value, Durability::Crash)
    };
    let was_removed = || broker.was_removed(Bucket::Runs, "crawl.1");
    assert!(!was_removed().await.unwrap(), "it never was");
    assert!(matches!(create().await.unwrap(), Cas::Done(_)));
    assert_eq!(create().await.unwrap(), Cas::Conflict);
    assert!(!was_removed().await.unwrap(), "it is there");
    broker.delete(Bucket::Runs, "crawl.1").await.unwrap();
    let remembers = was_removed().await.unwrap();
    let again = create().await.unwrap();
    assert_eq!(again == Cas::Conflict, remembers);
}

pub(super) async fn a_deleted_key_can_be_created_again(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    let first = put(&*broker, "crawl.1", "a").await;
    broker.delete(Bucket::Runs, "crawl.1").await.unwrap();
    let stale = set(&*broker, "crawl.1", Some(first), "b").await;
    assert_eq!(stale, Cas::Conflict);
    let Cas::Done(second) = create(&*broker, "crawl.1", "c").await else {
        panic!("the key was deleted");
    };
    assert!(second > first);
}

pub(super) async fn of_many_writers_one_wins_each_round(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    let mut revision = put(&*broker, "crawl.1", "start").await;
    for round in 0..10 {
        let names: Vec<_> = (0..8).map(|n| format!("{round}-{n}")).collect();
        let tries = names
            .iter()
            .map(|name| set(&*broker, "crawl.1", Some(revision), name));
        let mut winners = Vec::new();
        for (name, outcome) in names.iter().zip(join_all(tries).await) {
            if let Cas::Done(new) = outcome {
                revision = new;
                winners.push(name.clone());
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(value(&*broker, "crawl.1").await.as_ref(), winners.first());
    }
}

pub(super) async fn latest_is_what_changed_last_under_the_prefix(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    let latest = async |prefix: &str| {
        let entry = broker.latest(Bucket::Runs, prefix).await.unwrap();
        entry.map(|entry| entry.key)
    };
    assert_eq!(latest("crawl.").await, None);
    for key in ["crawl.1", "crawl.2", "crawl-full.9", "crawl.3", "login.1"] {
        put(&*broker, key, "a").await;
    }
    assert_eq!(latest("crawl.").await.as_deref(), Some("crawl.3"));
    put(&*broker, "crawl.1", "b").await;
    assert_eq!(latest("crawl.").await.as_deref(), Some("crawl.1"));
    assert_eq!(latest("crawl-full.").await.as_deref(), Some("crawl-full.9"));
    assert_eq!(latest("log.").await, None);
}

pub(super) async fn list_sees_only_its_prefix(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    for n in 0..700 {
        put(&*broker, &format!("crawl.{n:04}"), "a").await;
    }
    for key in ["crawl-full.1", "crawl_2.1", "a.crawl.1", "crawl"] {
        put(&*broker, key, "b").await;
    }
    let keys = async |prefix: &str| -> Vec<String> {
        let entries = list(&*broker, Bucket::Runs, prefix).await.unwrap();
        entries.into_iter().map(|entry| entry.key).collect()
    };
    let crawl = keys("crawl.").await;
    assert_eq!(crawl.len(), 700);
    assert!(crawl.iter().all(|key| key.starts_with("crawl.")));
    assert_eq!(keys("").await.len(), 704);
    assert!(keys("none.").await.is_empty());
}

pub(super) async fn buckets_are_apart(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    for (bucket, value) in [
        (Bucket::State, "s"),
        (Bucket::Runs, "r"),
        (Bucket::Workers, "w"),
    ] {
        broker.put(bucket, "a.b", value.into()).await.unwrap();
    }
    broker.delete(Bucket::Runs, "a.b").await.unwrap();
    let get = async |bucket| broker.get(bucket, "a.b").await.unwrap().map(|e| e.value);
    assert_eq!(get(Bucket::State).await.as_deref(), Some(&b"s"[..]));
    assert_eq!(get(Bucket::Runs).await, None);
    assert_eq!(get(Bucket::Workers).await.as_deref(), Some(&b"w"[..]));
}
