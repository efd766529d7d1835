//! Settling: acknowledged, given back, put off.

use std::time::Duration;

use orchestrator::clock;

use super::harness::{
    Backend, LONG, SHORT, SOON, assert_nothing, next, payload, publish, pull, run_id, since,
};

pub(super) async fn ack_removes_the_run(backend: &dyn Backend) {
    let harness = backend.start(SHORT).await;
    let broker = harness.broker();
    publish(&*broker, "default", "crawl", 0..1).await;
    let mut delivery = next(&*broker, "default").await;
    while broker.ack(&delivery.receipt).await.is_err() {
        delivery = next(&*broker, "default").await;
    }
    assert!(broker.pending(0, 10).await.unwrap().is_empty());
    let got = pull(&*broker, &[("default", 1)], 1, SHORT * 2).await;
    assert!(got.is_empty(), "not even after the lease: {got:?}");
}

pub(super) async fn ack_can_be_repeated(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    publish(&*broker, "default", "crawl", 0..2).await;
    let delivery = next(&*broker, "default").await;
    broker.ack(&delivery.receipt).await.unwrap();
    broker.ack(&delivery.receipt).await.unwrap();
    assert_eq!(broker.pending(0, 10).await.unwrap().len(), 1);
}

pub(super) async fn release_without_delay_delivers_at_once(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    publish(&*broker, "default", "crawl", 0..1).await;
    let first = next(&*broker, "default").await;
    broker
        .release(&first.receipt, Duration::ZERO)
        .await
        .unwrap();
    let second = next(&*broker, "default").await;
    assert_eq!(second.deliveries, 2);
    assert_eq!(second.payload, first.payload);
}

pub(super) async fn release_with_delay_delivers_not_before(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    publish(&*broker, "default", "crawl", 0..1).await;
    let first = next(&*broker, "default").await;
    let delay = Duration::from_millis(700);
    let before = clock::monotonic();
    broker.release(&first.receipt, delay).await.unwrap();
    let second = next(&*broker, "default").await;
    assert!(since(before) >= delay, "{:?} is too early", since(before));
    assert!(since(before) < SOON);
    assert_eq!(second.deliveries, 2);
    assert_eq!(second.sequence, first.sequence);
    broker.ack(&second.receipt).await.unwrap();
    assert_nothing(&*broker, "default").await;
}

pub(super) async fn a_run_put_off_does_not_hold_up_others(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    publish(&*broker, "default", "crawl", 0..2).await;
    let first = next(&*broker, "default").await;
    let delay = Duration::from_secs(100);
    broker.release(&first.receipt, delay).await.unwrap();
    let second = next(&*broker, "default").await;
    assert_eq!(payload(&second), run_id("crawl", 1).to_string());
}
