//! Leases: kept by renewing, lost by silence.

use std::time::Duration;

use orchestrator::clock;

use super::harness::{
    Backend, SHORT, SOON, assert_nothing, exclusive, next, outgoing, publish, pull, since,
};

pub(super) async fn renewing_keeps_a_run(backend: &dyn Backend) {
    let lease = Duration::from_secs(1);
    let harness = backend.start(lease).await;
    let broker = harness.broker();
    assert_eq!(broker.lease(), lease);
    publish(&*broker, "default", "crawl", 0..1).await;
    let delivery = next(&*broker, "default").await;
    let renewing = async {
        let mut tick = tokio::time::interval(lease / 5);
        loop {
            tick.tick().await;
            broker.renew(&delivery.receipt).await.unwrap();
        }
    };
    let other = pull(&*broker, &[("default", 1)], 1, lease * 5 / 2);
    tokio::select! {
        stolen = other => assert!(stolen.is_empty(), "{stolen:?}"),
        () = renewing => {}
    }
    broker.ack(&delivery.receipt).await.unwrap();
    assert!(broker.pending(0, 10).await.unwrap().is_empty());
}

pub(super) async fn a_lost_lease_delivers_again(backend: &dyn Backend) {
    let harness = backend.start(SHORT).await;
    let broker = harness.broker();
    let run = exclusive("default", "crawl", 1);
    broker.publish(run.clone()).await.unwrap();
    let before = clock::monotonic();
    let first = next(&*broker, "default").await;
    let second = next(&*broker, "default").await;
    // The lease began after `before`, so this holds however slow the machine is.
    assert!(since(before) >= SHORT, "{:?}", since(before));
    assert!(since(before) < SOON);
    assert_eq!((first.deliveries, second.deliveries), (1, 2));
    assert_eq!(first.sequence, second.sequence);
    assert_eq!(second.payload, run.payload);
    let third = next(&*broker, "default").await;
    assert_eq!(third.deliveries, 3);
}

pub(super) async fn a_late_holder_cannot_take_the_run_from_the_new_one(backend: &dyn Backend) {
    let harness = backend.start(SHORT).await;
    let broker = harness.broker();
    broker
        .publish(outgoing("default", "crawl", 1))
        .await
        .unwrap();
    let first = next(&*broker, "default").await;
    let second = next(&*broker, "default").await;
    // A broker may take a late renewal for granted or refuse it. Either way the run is stored, and
    // whoever has it last can settle it.
    let _ = broker.renew(&first.receipt).await;
    assert_eq!(broker.pending(0, 10).await.unwrap().len(), 1);
    let mut last = second;
    while broker.ack(&last.receipt).await.is_err() {
        last = next(&*broker, "default").await;
    }
    assert_nothing(&*broker, "default").await;
}
