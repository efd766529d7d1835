//! All runs of a queue are held under the ack-wait of its one consumer.

use std::time::Duration;

use orchestrator::broker::Broker;

use super::{
    harness::{LONG, SOON, api, connect, eventually, next, publish, pull},
    server::NatsServer,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_worker_of_a_queue_sets_its_lease() {
    let server = NatsServer::start();
    let beat = connect(server.url(), LONG).await;
    publish(&*beat, "high", 1).await;
    let worker = connect(server.url(), Duration::from_secs(1)).await;
    let first = next(&*worker, "high").await;
    // Publishing does not change it back.
    publish(&*connect(server.url(), LONG).await, "high", 2).await;
    let mut again = next(&*worker, "high").await;
    while again.sequence != first.sequence {
        worker.ack(&again.receipt).await.unwrap();
        again = next(&*worker, "high").await;
    }
    assert_eq!(again.deliveries, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_shortens_the_lease_of_a_run_that_somebody_holds() {
    let server = NatsServer::start();
    let (first, second) = (
        connect(server.url(), LONG).await,
        connect(server.url(), Duration::from_secs(1)).await,
    );
    publish(&*first, "high", 1).await;
    let held = next(&*first, "high").await;
    assert_eq!(held.lease, LONG);
    publish(&*first, "high", 2).await;
    let other = next(&*second, "high").await;
    assert_eq!(other.lease, LONG, "it holds by the lease in force");
    let info = api(server.url(), "CONSUMER.INFO.ORCH_JOBS.high", "").await;
    assert_eq!(
        info["config"]["ack_wait"]
            .as_u64()
            .map(Duration::from_nanos),
        Some(LONG)
    );
    for run in [held, other] {
        first.ack(&run.receipt).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_shortens_the_lease_under_a_worker_that_waits() {
    let server = NatsServer::start();
    let (first, second) = (
        connect(server.url(), LONG).await,
        connect(server.url(), Duration::from_secs(1)).await,
    );
    publish(&*first, "high", 0).await;
    first
        .ack(&next(&*first, "high").await.receipt)
        .await
        .unwrap();
    let puller = first.clone();
    let waiting = tokio::spawn(async move { pull(&*puller, &["high"], 1, SOON).await });
    eventually("a waiting pull", async || {
        let info = api(server.url(), "CONSUMER.INFO.ORCH_JOBS.high", "").await;
        (info["num_waiting"] == 1).then_some(())
    })
    .await;
    assert!(
        pull(&*second, &["high"], 1, Duration::ZERO)
            .await
            .unwrap()
            .is_empty()
    );
    publish(&*second, "high", 1).await;
    let run = waiting.await.unwrap().unwrap().remove(0);
    assert_eq!(run.lease, LONG);
    let info = api(server.url(), "CONSUMER.INFO.ORCH_JOBS.high", "").await;
    assert_eq!(
        info["config"]["ack_wait"]
            .as_u64()
            .map(Duration::from_nanos),
        Some(LONG)
    );
}
