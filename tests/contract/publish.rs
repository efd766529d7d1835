//! What `publish` accepts, and what it refuses.

use std::time::Duration;

use futures::future::join_all;
use orchestrator::broker::{Outgoing, Published, Slot};

use super::harness::{
    Backend, LONG, assert_nothing, drain, exclusive, next, outgoing, payload, queue, run_id,
};

pub(super) async fn a_stored_run_is_delivered_with_its_bytes(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    let mut run = outgoing("default", "crawl", 1);
    run.payload = (0..=255).collect();
    assert_eq!(
        broker.publish(run.clone()).await.unwrap(),
        Published::Stored
    );
    let delivery = next(&*broker, "default").await;
    assert_eq!(delivery.payload, run.payload);
    assert_eq!(delivery.queue, run.queue);
    assert_eq!(delivery.deliveries, 1);
}

pub(super) async fn a_message_id_is_accepted_once(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    for (slot, job) in [
        (Slot::Run, "many"),
        (Slot::Job, "single"),
        (Slot::Next, "waiting"),
    ] {
        let mut run = outgoing("default", job, 1);
        run.slot = slot;
        let first = broker.publish(run.clone()).await.unwrap();
        assert_eq!(first, Published::Stored);
        for _ in 0..3 {
            let again = broker.publish(run.clone()).await.unwrap();
            assert_eq!(again, Published::Duplicate, "{slot:?}");
        }
        let mut elsewhere = run.clone();
        elsewhere.queue = queue("high");
        let again = broker.publish(elsewhere).await.unwrap();
        assert_eq!(again, Published::Duplicate, "the id counts, not the queue");
    }
    drain(&*broker, "default", 3).await;
    assert_nothing(&*broker, "default").await;
}

pub(super) async fn an_acknowledged_id_is_still_a_duplicate(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    let run = exclusive("default", "crawl", 1);
    broker.publish(run.clone()).await.unwrap();
    let delivery = next(&*broker, "default").await;
    broker.ack(&delivery.receipt).await.unwrap();
    assert_eq!(broker.publish(run).await.unwrap(), Published::Duplicate);
    assert_nothing(&*broker, "default").await;
}

pub(super) async fn runs_of_other_jobs_and_queues_have_slots_of_their_own(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    for run in [
        exclusive("default", "crawl", 1),
        exclusive("default", "login", 1),
        exclusive("high", "crawl", 2),
        Outgoing {
            slot: Slot::Next,
            ..exclusive("default", "crawl", 3)
        },
    ] {
        assert_eq!(broker.publish(run).await.unwrap(), Published::Stored);
    }
}

pub(super) async fn an_occupied_slot_names_its_holder(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    broker
        .publish(exclusive("default", "crawl", 1))
        .await
        .unwrap();
    for n in 2..4 {
        let refused = broker
            .publish(exclusive("default", "crawl", n))
            .await
            .unwrap();
        assert_eq!(refused, Published::Occupied(run_id("crawl", 1)));
    }
    let delivery = next(&*broker, "default").await;
    assert_eq!(payload(&delivery), run_id("crawl", 1).to_string());
    assert_nothing(&*broker, "default").await;
}

pub(super) async fn a_refused_id_is_not_remembered(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    broker
        .publish(exclusive("default", "crawl", 1))
        .await
        .unwrap();
    let second = exclusive("default", "crawl", 2);
    let refused = broker.publish(second.clone()).await.unwrap();
    assert_eq!(refused, Published::Occupied(run_id("crawl", 1)));
    let delivery = next(&*broker, "default").await;
    broker.ack(&delivery.receipt).await.unwrap();
    assert_eq!(broker.publish(second).await.unwrap(), Published::Stored);
}

pub(super) async fn a_slot_is_held_while_leased_and_freed_by_ack(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    broker
        .publish(exclusive("default", "crawl", 1))
        .await
        .unwrap();
    let delivery = next(&*broker, "default").await;
    let refused = broker
        .publish(exclusive("default", "crawl", 2))
        .await
        .unwrap();
    assert_eq!(refused, Published::Occupied(run_id("crawl", 1)));
    broker.ack(&delivery.receipt).await.unwrap();
    let accepted = broker
        .publish(exclusive("default", "crawl", 3))
        .await
        .unwrap();
    assert_eq!(accepted, Published::Stored);
    let delivery = next(&*broker, "default").await;
    assert_eq!(payload(&delivery), run_id("crawl", 3).to_string());
}

pub(super) async fn a_slot_is_held_while_put_off(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    broker
        .publish(exclusive("default", "crawl", 1))
        .await
        .unwrap();
    let delivery = next(&*broker, "default").await;
    let delay = Duration::from_secs(100);
    broker.release(&delivery.receipt, delay).await.unwrap();
    let refused = broker
        .publish(exclusive("default", "crawl", 2))
        .await
        .unwrap();
    assert_eq!(refused, Published::Occupied(run_id("crawl", 1)));
    assert_nothing(&*broker, "default").await;
}

pub(super) async fn run_slots_let_runs_overlap(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    for n in 0..3 {
        let published = broker
            .publish(outgoing("default", "crawl", n))
            .await
            .unwrap();
        assert_eq!(published, Published::Stored);
    }
    let mut got: Vec<_> = drain(&*broker, "default", 3)
        .await
        .iter()
        .map(payload)
        .collect();
    got.sort();
    let expected: Vec<_> = (0..3).map(|n| run_id("crawl", n).to_string()).collect();
    assert_eq!(got, expected);
}

pub(super) async fn many_at_once_are_all_stored(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    let publishing = (0..200).map(|n| broker.publish(outgoing("default", "crawl", n)));
    for published in join_all(publishing).await {
        assert_eq!(published.unwrap(), Published::Stored);
    }
    let rivals = (0..50).map(|n| broker.publish(exclusive("high", "login", n)));
    let published: Vec<_> = join_all(rivals).await;
    let stored = published
        .iter()
        .filter(|p| matches!(p, Ok(Published::Stored)));
    assert_eq!(stored.count(), 1, "one slot, one run: {published:?}");
    let mut got: Vec<_> = drain(&*broker, "default", 200)
        .await
        .iter()
        .map(payload)
        .collect();
    got.sort();
    got.dedup();
    assert_eq!(got.len(), 200);
}

pub(super) async fn in_a_burst_each_run_fares_as_by_itself(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    broker
        .publish(exclusive("default", "held", 0))
        .await
        .unwrap();
    for n in [7, 77, 177] {
        broker
            .publish(outgoing("default", "crawl", n))
            .await
            .unwrap();
    }
    // Among many that are new: some that are stored already, one whose slot is occupied, and one twice.
    let mut burst: Vec<_> = (0..200).map(|n| outgoing("default", "crawl", n)).collect();
    burst.insert(120, exclusive("default", "held", 1));
    burst.insert(60, outgoing("high", "login", 1));
    burst.insert(150, outgoing("high", "login", 1));
    let published = join_all(burst.iter().map(|run| broker.publish(run.clone()))).await;
    let fared: Vec<_> = burst.iter().zip(published).collect();
    let of = |job: &str, n: usize| {
        let id = run_id(job, n);
        let own = fared.iter().filter(move |(run, _)| run.run_id == id);
        own.map(|(_, published)| published.clone().unwrap())
            .collect::<Vec<_>>()
    };
    for n in 0..200 {
        let expected = match n {
            7 | 77 | 177 => Published::Duplicate,
            _ => Published::Stored,
        };
        assert_eq!(of("crawl", n), [expected], "{n}");
    }
    assert_eq!(of("held", 1), [Published::Occupied(run_id("held", 0))]);
    let twice = of("login", 1);
    for expected in [Published::Stored, Published::Duplicate] {
        assert!(twice.contains(&expected), "{twice:?}");
    }
    drain(&*broker, "default", 201).await;
    assert_nothing(&*broker, "default").await;
    drain(&*broker, "high", 1).await;
    assert_nothing(&*broker, "high").await;
}
