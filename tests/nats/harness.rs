//! What every test here needs.

use std::{sync::Arc, time::Duration};

use orchestrator::{
    broker::{
        Broker, BrokerError, Delivery, Outgoing, Published, PullRequest, Slot,
        nats::{NatsBroker, NatsOptions},
    },
    run::RunId,
};
use tokio_util::sync::CancellationToken;

/// A lease that does not run out within a test.
pub(super) const LONG: Duration = Duration::from_secs(600);

/// How long to wait for what must come.
pub(super) const SOON: Duration = Duration::from_secs(30);

/// How long to try. Generous: an election among busy servers takes what it takes, and a test that promises a time
/// measures it.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn options(url: String, lease: Duration) -> NatsOptions {
    NatsOptions {
        url,
        lease,
        ..NatsOptions::default()
    }
}

pub(super) async fn connect(url: String, lease: Duration) -> Arc<NatsBroker> {
    NatsBroker::connect(options(url, lease)).await.unwrap()
}

pub(super) fn run_id(job: &str, n: usize) -> RunId {
    let tick = 1_790_000_000 + i64::try_from(n).unwrap();
    let tick = chrono::DateTime::from_timestamp(tick, 0).unwrap();
    RunId::for_tick(job.parse().unwrap(), tick)
}

pub(super) fn outgoing(queue: &str, n: usize) -> Outgoing {
    let run_id = run_id("crawl", n);
    Outgoing {
        queue: queue.parse().unwrap(),
        slot: Slot::Run,
        payload: run_id.to_string().into_bytes(),
        run_id,
    }
}

pub(super) async fn publish(broker: &dyn Broker, queue: &str, n: usize) {
    let published = broker.publish(outgoing(queue, n)).await;
    assert_eq!(published, Ok(Published::Stored), "{queue} {n}");
}

pub(super) fn request(queues: &[&str], max: usize, wait: Duration) -> PullRequest {
    let shares = queues.iter().map(|name| (name.parse().unwrap(), max));
    PullRequest {
        shares: shares.collect(),
        max,
        wait,
    }
}

pub(super) async fn pull(
    broker: &dyn Broker,
    queues: &[&str],
    max: usize,
    wait: Duration,
) -> Result<Vec<Delivery>, BrokerError> {
    let stop = CancellationToken::new();
    broker.pull(request(queues, max, wait), &stop).await
}

/// The next run of a queue, which must come soon, however often the broker is away meanwhile.
pub(super) async fn next(broker: &dyn Broker, queue: &str) -> Delivery {
    eventually(&format!("a run of {queue}"), async || {
        let got = pull(broker, &[queue], 1, Duration::from_secs(1)).await;
        got.ok()?.pop()
    })
    .await
}

/// Tries until there is something.
pub(super) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let trying = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let tried = tokio::time::timeout(PATIENCE, trying).await;
    tried.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

/// Asks the JetStream API as any client could.
pub(super) async fn api(url: String, subject: &str, body: &str) -> serde_json::Value {
    let client = async_nats::connect(url).await.unwrap();
    let subject = format!("$JS.API.{subject}");
    let answer = client.request(subject, body.to_owned().into()).await;
    let answer = serde_json::from_slice(&answer.unwrap().payload).unwrap();
    let answer: serde_json::Value = answer;
    assert_eq!(answer.get("error"), None, "{answer}");
    answer
}
