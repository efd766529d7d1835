use std::time::Duration;

use futures::StreamExt;

use super::*;
use crate::broker::Change;

fn values(directory: &std::path::Path) -> Values {
    let store = Store::open(directory).unwrap();
    Values::load(store, &Arc::new(Context::new(directory))).unwrap()
}

fn seconds(n: u64) -> chrono::TimeDelta {
    chrono::TimeDelta::from_std(Duration::from_secs(n)).unwrap()
}

fn rows(values: &Values) -> (usize, usize) {
    let count = |tree| values.store.scan(tree).count();
    (count(VALUES), count(CHANGES))
}

#[tokio::test]
async fn old_values_go_and_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let values = values(directory.path());
    for n in 0..600 {
        let key = format!("job-{}.{n}", n % 3);
        values.put(Bucket::Runs, &key, b"x".to_vec()).await.unwrap();
    }
    values
        .put(Bucket::State, "kept", b"x".to_vec())
        .await
        .unwrap();
    values
        .put(Bucket::Workers, "w", b"x".to_vec())
        .await
        .unwrap();
    assert_eq!(rows(&values), (602, 602));
    let now = clock::now();
    let almost = now + seconds(7 * 86_400 - 3_600);
    values.expire_at(Bucket::Runs, almost).await.unwrap();
    assert_eq!(rows(&values), (602, 602));
    let later = now + seconds(7 * 86_400);
    for bucket in [Bucket::Runs, Bucket::Workers, Bucket::State] {
        values.expire_at(bucket, later).await.unwrap();
    }
    assert_eq!(rows(&values), (1, 1));
}

#[tokio::test]
async fn a_change_keeps_one_row_and_a_delete_none() {
    let directory = tempfile::tempdir().unwrap();
    let values = values(directory.path());
    for n in 0..5 {
        values.put(Bucket::Runs, "a.b", vec![n]).await.unwrap();
    }
    assert_eq!(rows(&values), (1, 1));
    // All under way at once.
    let puts = (0..20).map(|n| values.put(Bucket::Runs, "a.b", vec![n]));
    for put in futures::future::join_all(puts).await {
        put.unwrap();
    }
    assert_eq!(rows(&values), (1, 1));
    assert!(values.shared.lock().under_way.is_empty());
    values.delete(Bucket::Runs, "a.b").await.unwrap();
    assert_eq!(rows(&values), (0, 0));
}

#[test]
fn age_is_judged_by_bucket_and_survives_clock_steps() {
    let now = clock::now();
    for (bucket, age, live) in [
        (Bucket::State, 1_000_000_000, true),
        (Bucket::Workers, 59, true),
        (Bucket::Workers, 60, false),
        (Bucket::Runs, 7 * 86_400 - 1, true),
        (Bucket::Runs, 7 * 86_400, false),
    ] {
        assert_eq!(
            is_live(bucket, now - seconds(age), now),
            live,
            "{bucket:?} {age}"
        );
    }
    assert!(is_live(Bucket::Workers, now + seconds(9_999), now));
}

#[tokio::test]
async fn keys_that_other_brokers_cannot_carry_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let values = values(directory.path());
    for key in ["", ".", "a.", ".a", "a..b", "a b", "a*", "a>", "é", "a\0b"] {
        let refused = values.put(Bucket::State, key, Vec::new()).await;
        assert!(refused.is_err(), "{key:?}");
    }
    for key in ["a", "A-b_9.C"] {
        values.put(Bucket::State, key, Vec::new()).await.unwrap();
    }
}

#[tokio::test]
async fn the_latest_under_a_longer_prefix() {
    let directory = tempfile::tempdir().unwrap();
    let values = values(directory.path());
    for key in ["a.b.1", "a.b.2", "a.c.1", "ab.b.3"] {
        values.put(Bucket::State, key, Vec::new()).await.unwrap();
    }
    for (prefix, key) in [("a.b.", "a.b.2"), ("a.", "a.c.1"), ("ab.", "ab.b.3")] {
        let latest = values.latest(Bucket::State, prefix).unwrap().unwrap();
        assert_eq!(latest.key, key, "{prefix}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_never_goes_back_though_confirmations_overtake_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let values = values(directory.path());
    let mut changes = values.watch(Bucket::State, "").await.unwrap();
    assert_eq!(changes.next().await, Some(Ok(Change::Current)));
    let mut last_seen = Revision(0);
    for _ in 0..300 {
        let set = |durability| {
            let value = Some(b"x".to_vec());
            values.set(Bucket::State, "a", Expected::Anything, value, durability)
        };
        let (slow, fast) = tokio::join!(set(Durability::Power), set(Durability::Crash));
        let (Ok(Cas::Done(slow)), Ok(Cas::Done(fast))) = (slow, fast) else {
            panic!("an unconditional write was refused");
        };
        while last_seen < slow.max(fast) {
            let next = tokio::time::timeout(Duration::from_secs(20), changes.next());
            let Ok(Some(Ok(Change::Put(entry)))) = next.await else {
                panic!("the last value was never told");
            };
            assert!(entry.revision > last_seen, "{entry:?} after {last_seen:?}");
            last_seen = entry.revision;
        }
    }
}
