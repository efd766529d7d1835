//! What is stored can be listed, found, removed and counted, and outlives the broker.

use std::time::Duration;

use chrono::DateTime;
use orchestrator::broker::{
    Bucket, DeadLetter, Durability, LogChunk, LogStream, Outgoing, Published, Refused, RefusedBy,
    Slot,
};

use super::harness::{
    Backend, LONG, assert_nothing, exclusive, next, outgoing, payload, publish, queue, run_id,
};

pub(super) async fn pending_lists_what_is_stored(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    assert!(broker.pending(0, 10).await.unwrap().is_empty());
    publish(&*broker, "default", "crawl", 0..3).await;
    publish(&*broker, "high", "login", 0..2).await;
    next(&*broker, "default").await;
    let all = broker.pending(0, 10).await.unwrap();
    assert_eq!(all.len(), 5, "leased ones count: {all:?}");
    assert!(all.is_sorted_by_key(|p| p.sequence));
    assert_eq!(all[4].queue, queue("high"));
    assert_eq!(all[4].payload, run_id("login", 1).to_string().into_bytes());
    let page = broker.pending(all[1].sequence, 2).await.unwrap();
    assert_eq!(page, all[1..3]);
    let past = broker.pending(all[4].sequence + 1, 10).await.unwrap();
    assert!(past.is_empty());
}

pub(super) async fn occupant_is_found_by_slot(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    broker
        .publish(exclusive("default", "crawl", 1))
        .await
        .unwrap();
    broker
        .publish(outgoing("default", "page", 1))
        .await
        .unwrap();
    let waiting = Outgoing {
        slot: Slot::Next,
        ..exclusive("default", "crawl", 2)
    };
    broker.publish(waiting).await.unwrap();
    let default = queue("default");
    let find = async |job: &str, n: usize, slot: Slot| {
        let id = run_id(job, n);
        let found = broker.occupant(&default, &id, slot).await.unwrap();
        found.map(|p| String::from_utf8(p.payload).unwrap())
    };
    let crawl = Some(run_id("crawl", 1).to_string());
    assert_eq!(find("crawl", 2, Slot::Job).await, crawl);
    let next = Some(run_id("crawl", 2).to_string());
    assert_eq!(find("crawl", 1, Slot::Next).await, next);
    assert_eq!(find("page", 1, Slot::Next).await, None);
    let page = Some(run_id("page", 1).to_string());
    assert_eq!(find("page", 1, Slot::Run).await, page);
    assert_eq!(find("page", 2, Slot::Run).await, None);
    assert_eq!(find("login", 1, Slot::Job).await, None);
    let elsewhere = broker
        .occupant(&queue("high"), &run_id("crawl", 1), Slot::Job)
        .await
        .unwrap();
    assert_eq!(elsewhere, None);
}

pub(super) async fn a_removed_run_is_not_delivered(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    broker
        .publish(exclusive("default", "crawl", 1))
        .await
        .unwrap();
    let pending = broker.pending(0, 1).await.unwrap().remove(0);
    assert!(broker.remove(&pending).await.unwrap());
    assert!(!broker.remove(&pending).await.unwrap(), "it is gone");
    assert_nothing(&*broker, "default").await;
    let next_run = exclusive("default", "crawl", 2);
    assert_eq!(broker.publish(next_run).await.unwrap(), Published::Stored);
}

pub(super) async fn queues_tell_their_depth(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    publish(&*broker, "default", "crawl", 0..4).await;
    publish(&*broker, "high", "login", 0..1).await;
    let first = next(&*broker, "default").await;
    next(&*broker, "default").await;
    let done = next(&*broker, "high").await;
    broker.ack(&done.receipt).await.unwrap();
    let depth = async |name: &str| -> Option<(u64, u64)> {
        let all = broker.queues().await.unwrap();
        assert!(all.is_sorted_by_key(|d| d.queue.clone()));
        let found = all.into_iter().find(|d| d.queue == queue(name))?;
        Some((found.waiting, found.running))
    };
    // Brokers may count a moment late.
    for (name, expected) in [("default", (2, 2)), ("high", (0, 0))] {
        while depth(name).await != Some(expected) {
            tokio::task::yield_now().await;
        }
    }
    let delay = Duration::from_secs(100);
    broker.release(&first.receipt, delay).await.unwrap();
    // One that is put off counts on one side or the other, never on none.
    let (waiting, running) = depth("default").await.unwrap();
    assert_eq!(waiting + running, 4);
    assert!((1..=2).contains(&running), "{running}");
}

fn letter(n: usize) -> DeadLetter {
    DeadLetter {
        run_id: (n > 0).then(|| run_id("crawl", n)),
        queue: queue("default"),
        at: DateTime::from_timestamp(1_790_000_000, 123_000_000).unwrap(),
        reason: format!("its worker died {n} times"),
        payload: vec![0, 159, 146, 150],
        refused: (n > 1).then(|| Refused {
            by: RefusedBy::Signature,
            rule: "altered".to_owned(),
        }),
        subject: (n > 1).then(|| "orch.jobs.default.crawl.slot".to_owned()),
        signature: (n > 1).then(|| "v1 0123456789abcdef AAAA".to_owned()),
    }
}

pub(super) async fn dead_letters_are_kept_newest_first(backend: &dyn Backend) {
    let mut harness = backend.start(LONG).await;
    let broker = harness.broker();
    assert!(broker.dead_letters(None, 10).await.unwrap().is_empty());
    for n in 0..4 {
        broker.dead_letter(letter(n)).await.unwrap();
    }
    drop(broker);
    harness.reopen().await;
    let broker = harness.broker();
    let kept = broker.dead_letters(None, 3).await.unwrap();
    let letters: Vec<_> = kept.iter().map(|(_, letter)| letter.clone()).collect();
    assert_eq!(letters, [letter(3), letter(2), letter(1)]);
    assert!(kept.is_sorted_by_key(|(sequence, _)| std::cmp::Reverse(*sequence)));
    let (oldest_seen, _) = kept[2];
    let older = broker.dead_letters(Some(oldest_seen), 10).await.unwrap();
    assert_eq!(older.len(), 1);
    assert_eq!(older[0].1, letter(0));
    let (middle, _) = kept[1];
    assert!(broker.discard(middle).await.unwrap());
    assert!(!broker.discard(middle).await.unwrap());
    assert!(!broker.discard(1_000_000).await.unwrap());
    drop(broker);
    harness.reopen().await;
    let left = harness.broker().dead_letters(None, 10).await.unwrap();
    let letters: Vec<_> = left.into_iter().map(|(_, letter)| letter).collect();
    assert_eq!(letters, [letter(3), letter(1), letter(0)]);
}

pub(super) async fn stored_runs_survive_reopening(backend: &dyn Backend) {
    let mut harness = backend.start(Duration::from_secs(2)).await;
    let broker = harness.broker();
    publish(&*broker, "default", "crawl", 0..3).await;
    broker.publish(exclusive("high", "login", 1)).await.unwrap();
    let done = next(&*broker, "default").await;
    broker.ack(&done.receipt).await.unwrap();
    let held = next(&*broker, "default").await;
    assert_eq!(payload(&held), run_id("crawl", 1).to_string());
    drop(broker);
    harness.reopen().await;
    let broker = harness.broker();
    assert_eq!(broker.pending(0, 10).await.unwrap().len(), 3);
    let refused = broker.publish(exclusive("high", "login", 2)).await.unwrap();
    assert_eq!(refused, Published::Occupied(run_id("login", 1)));
    // The held one comes back, with its count, once its lease is void.
    loop {
        let delivery = next(&*broker, "default").await;
        if payload(&delivery) == payload(&held) {
            assert!(delivery.deliveries >= 2, "{delivery:?}");
            break;
        }
        broker.ack(&delivery.receipt).await.unwrap();
    }
}

pub(super) async fn values_and_logs_survive_reopening(backend: &dyn Backend) {
    let mut harness = backend.start(LONG).await;
    let broker = harness.broker();
    let first = broker
        .put(Bucket::State, "watermark", b"1".to_vec())
        .await
        .unwrap();
    broker
        .put(Bucket::State, "gone", b"1".to_vec())
        .await
        .unwrap();
    broker.delete(Bucket::State, "gone").await.unwrap();
    let chunk = LogChunk {
        attempt: 1,
        stream: LogStream::Stdout,
        at: DateTime::from_timestamp(1_790_000_000, 0).unwrap(),
        offset: 0,
        bytes: b"hello".to_vec(),
    };
    let id = run_id("crawl", 1);
    broker.append_log(&id, chunk.clone()).await.unwrap();
    drop(broker);
    harness.reopen().await;
    let broker = harness.broker();
    let entry = broker
        .get(Bucket::State, "watermark")
        .await
        .unwrap()
        .unwrap();
    assert_eq!((entry.revision, &entry.value[..]), (first, &b"1"[..]));
    assert_eq!(broker.get(Bucket::State, "gone").await.unwrap(), None);
    let second = broker
        .compare_and_set(
            Bucket::State,
            "watermark",
            Some(first),
            b"2".to_vec(),
            Durability::Power,
        )
        .await
        .unwrap();
    assert!(matches!(second, orchestrator::broker::Cas::Done(r) if r > first));
    let log = broker.read_log(&id, 0, 10).await.unwrap();
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].1, chunk);
}
