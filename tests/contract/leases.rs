//! Leases: kept by renewing, lost by silence.

use std::{cell::Cell, time::Duration};

use orchestrator::{
    broker::{Broker, Delivery},
    clock,
};

use super::harness::{
    Backend, SHORT, SOON, assert_nothing, exclusive, next, outgoing, publish, pull, since,
};

pub(super) async fn renewing_keeps_a_run(backend: &dyn Backend) {
    let lease = Duration::from_secs(1);
    let harness = backend.start(lease).await;
    let broker = harness.broker();
    assert_eq!(broker.lease(), lease);
    publish(&*broker, "default", "crawl", 0..1).await;
    let mut delivery = next(&*broker, "default").await;
    // A machine that stood still for a lease has renewed nothing: then it begins anew.
    while let Err(slow) = held(&*broker, &delivery, lease).await {
        assert!(slow, "renewed in time, and lost");
        delivery = next(&*broker, "default").await;
    }
    broker.ack(&delivery.receipt).await.unwrap();
    assert!(broker.pending(0, 10).await.unwrap().is_empty());
}

/// Renews a run for longer than two leases, while somebody else asks for it. If it is lost: whether that was for want of
/// a renewal in time.
async fn held(broker: &dyn Broker, delivery: &Delivery, lease: Duration) -> Result<(), bool> {
    let (last, late) = (Cell::new(clock::monotonic()), Cell::new(false));
    let is_late = || late.get() || since(last.get()) >= lease;
    let renewing = async {
        let mut tick = tokio::time::interval(lease / 5);
        loop {
            tick.tick().await;
            let asked = clock::monotonic();
            let renewed = broker.renew(&delivery.receipt).await;
            late.set(is_late());
            if renewed.is_err() {
                return;
            }
            last.set(asked);
        }
    };
    let other = pull(broker, &[("default", 1)], 1, lease * 5 / 2);
    tokio::select! {
        stolen = other => match stolen.is_empty() {
            true => Ok(()),
            false => Err(is_late()),
        },
        () = renewing => Err(is_late()),
    }
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
