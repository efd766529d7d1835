//! What a backend must offer to be tested, and what every test needs.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::DateTime;
use orchestrator::{
    broker::{Broker, Delivery, Outgoing, PullRequest, SharedBroker, Slot},
    clock,
    job::QueueName,
    run::RunId,
};
use tokio_util::sync::CancellationToken;

/// Longer than any test takes on a slow machine.
pub(super) const TEST_LIMIT: Duration = Duration::from_secs(60);

/// A lease that does not run out within a test.
pub(super) const LONG: Duration = Duration::from_secs(120);

/// A lease that is meant to run out.
pub(super) const SHORT: Duration = Duration::from_millis(500);

/// How long to wait for what must come.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// How long to look for what must not come.
pub(super) const MOMENT: Duration = Duration::from_millis(150);

/// Starts brokers with empty storage.
#[async_trait]
pub(super) trait Backend: Sync {
    /// A broker with storage of its own and this lease.
    async fn start(&self, lease: Duration) -> Box<dyn Harness>;
}

/// A broker under test; its storage goes when this is dropped.
#[async_trait]
pub(super) trait Harness: Send {
    /// The broker. Not to be kept over [`Harness::reopen`].
    fn broker(&self) -> SharedBroker;

    /// Stops the broker in an orderly way and starts it again over the same storage.
    async fn reopen(&mut self);
}

pub(super) fn queue(name: &str) -> QueueName {
    name.parse().unwrap()
}

/// The id of the run of `job` for the `n`th tick.
pub(super) fn run_id(job: &str, n: usize) -> RunId {
    let tick = 1_790_000_000 + i64::try_from(n).unwrap();
    RunId::for_tick(
        job.parse().unwrap(),
        DateTime::from_timestamp(tick, 0).unwrap(),
    )
}

/// A run with a slot of its own; its payload is its id.
pub(super) fn outgoing(queue_name: &str, job: &str, n: usize) -> Outgoing {
    let run_id = run_id(job, n);
    Outgoing {
        queue: queue(queue_name),
        slot: Slot::Run,
        payload: run_id.to_string().into_bytes(),
        run_id,
    }
}

/// A run that occupies its job's only slot.
pub(super) fn exclusive(queue_name: &str, job: &str, n: usize) -> Outgoing {
    Outgoing {
        slot: Slot::Job,
        ..outgoing(queue_name, job, n)
    }
}

/// Publishes the runs `ticks` of `job`, which must all be stored.
pub(super) async fn publish(broker: &dyn Broker, queue_name: &str, job: &str, ticks: Range<usize>) {
    for n in ticks {
        let published = broker.publish(outgoing(queue_name, job, n)).await.unwrap();
        assert_eq!(published, orchestrator::broker::Published::Stored);
    }
}

pub(super) fn request(shares: &[(&str, usize)], max: usize, wait: Duration) -> PullRequest {
    PullRequest {
        shares: shares.iter().map(|(name, n)| (queue(name), *n)).collect(),
        max,
        wait,
    }
}

/// Pulls once.
pub(super) async fn pull(
    broker: &dyn Broker,
    shares: &[(&str, usize)],
    max: usize,
    wait: Duration,
) -> Vec<Delivery> {
    let stop = CancellationToken::new();
    broker
        .pull(request(shares, max, wait), &stop)
        .await
        .unwrap()
}

/// The next run of a queue, which must come soon.
pub(super) async fn next(broker: &dyn Broker, queue_name: &str) -> Delivery {
    let mut got = pull(broker, &[(queue_name, 1)], 1, SOON).await;
    assert_eq!(got.len(), 1, "a run should have been delivered");
    got.remove(0)
}

/// Asserts that nothing is to be had from a queue for a moment.
pub(super) async fn assert_nothing(broker: &dyn Broker, queue_name: &str) {
    let got = pull(broker, &[(queue_name, 1)], 1, MOMENT).await;
    assert!(got.is_empty(), "nothing should be delivered: {got:?}");
}

/// Pulls until `count` runs came, without settling them.
pub(super) async fn drain(broker: &dyn Broker, queue_name: &str, count: usize) -> Vec<Delivery> {
    let mut got = Vec::new();
    let deadline = clock::monotonic() + SOON;
    while got.len() < count && clock::monotonic() < deadline {
        let missing = count - got.len();
        got.extend(pull(broker, &[(queue_name, missing)], missing, SOON).await);
    }
    assert_eq!(got.len(), count);
    got
}

pub(super) fn payload(delivery: &Delivery) -> String {
    String::from_utf8(delivery.payload.clone()).unwrap()
}

pub(super) fn since(start: Instant) -> Duration {
    clock::monotonic() - start
}
