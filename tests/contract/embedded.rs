//! The embedded broker as a backend of the suite, and what only it promises.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use orchestrator::{
    broker::{
        Broker, BrokerError, Published, SharedBroker,
        embedded::{EmbeddedBroker, EmbeddedOptions},
    },
    clock,
};
use tempfile::TempDir;

use super::harness::{
    Backend, Harness, LONG, SHORT, SOON, assert_nothing, next, outgoing, publish, since,
};

pub(super) struct Embedded;

struct Running {
    directory: TempDir,
    options: EmbeddedOptions,
    broker: Option<Arc<EmbeddedBroker>>,
}

#[async_trait]
impl Backend for Embedded {
    async fn start(&self, lease: Duration) -> Box<dyn Harness> {
        let directory = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            lease,
            ..EmbeddedOptions::default()
        };
        let broker = EmbeddedBroker::open(directory.path(), options).unwrap();
        Box::new(Running {
            directory,
            options,
            broker: Some(broker),
        })
    }
}

#[async_trait]
impl Harness for Running {
    fn broker(&self) -> SharedBroker {
        self.broker.clone().unwrap()
    }

    async fn reopen(&mut self) {
        if let Some(broker) = self.broker.take() {
            broker.shutdown().await;
        }
        let broker = EmbeddedBroker::open(self.directory.path(), self.options).unwrap();
        self.broker = Some(broker);
    }
}

#[tokio::test]
async fn a_stale_receipt_is_refused() {
    let harness = Embedded.start(SHORT).await;
    let broker = harness.broker();
    broker
        .publish(outgoing("default", "crawl", 1))
        .await
        .unwrap();
    let first = next(&*broker, "default").await;
    next(&*broker, "default").await;
    for refused in [
        broker.renew(&first.receipt).await,
        broker.ack(&first.receipt).await,
        broker.release(&first.receipt, Duration::ZERO).await,
    ] {
        let Err(BrokerError::Failed { reason, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert!(reason.contains("lease"), "{reason}");
    }
    let pending = broker.pending(0, 10).await.unwrap();
    assert_eq!(pending.len(), 1);
}

#[tokio::test]
async fn a_second_broker_is_told_who_holds_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions::default();
    let first = EmbeddedBroker::open(directory.path(), options).unwrap();
    let refused = EmbeddedBroker::open(directory.path(), options).unwrap_err();
    let text = refused.to_string();
    let holder = format!("process {}", std::process::id());
    assert!(text.contains(&holder), "{text}");
    let path = directory.path().display().to_string();
    assert!(text.contains(&path), "{text}");
    first.shutdown().await;
    drop(first);
    let again = tokio::time::timeout(SOON, async {
        EmbeddedBroker::open(directory.path(), options).unwrap()
    });
    again.await.unwrap().shutdown().await;
}

#[tokio::test]
async fn after_shutdown_everything_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let broker = EmbeddedBroker::open(directory.path(), EmbeddedOptions::default()).unwrap();
    broker.shutdown().await;
    let refused = broker.publish(outgoing("default", "crawl", 1)).await;
    assert!(refused.is_err(), "{refused:?}");
}

#[tokio::test]
async fn an_acknowledged_id_is_remembered_over_a_restart() {
    let mut harness = Embedded.start(LONG).await;
    let run = outgoing("default", "crawl", 1);
    let broker = harness.broker();
    broker.publish(run.clone()).await.unwrap();
    let delivery = next(&*broker, "default").await;
    broker.ack(&delivery.receipt).await.unwrap();
    drop(broker);
    harness.reopen().await;
    let again = harness.broker().publish(run).await.unwrap();
    assert_eq!(again, Published::Duplicate);
}

#[tokio::test]
async fn a_delay_outlives_a_restart_and_a_lease_does_not() {
    let mut harness = Embedded.start(LONG).await;
    let broker = harness.broker();
    publish(&*broker, "late", "crawl", 0..1).await;
    publish(&*broker, "soon", "login", 0..1).await;
    publish(&*broker, "held", "page", 0..1).await;
    let held = next(&*broker, "held").await;
    let late = next(&*broker, "late").await;
    let delay = Duration::from_secs(1_000);
    broker.release(&late.receipt, delay).await.unwrap();
    let soon = next(&*broker, "soon").await;
    let delay = Duration::from_secs(1);
    let start = clock::monotonic();
    broker.release(&soon.receipt, delay).await.unwrap();
    drop(broker);
    harness.reopen().await;
    let broker = harness.broker();
    let again = next(&*broker, "held").await;
    assert_eq!(again.deliveries, 2);
    let stale = broker.ack(&held.receipt).await;
    assert!(stale.is_err(), "a receipt of the earlier process");
    broker.ack(&again.receipt).await.unwrap();
    let soon = next(&*broker, "soon").await;
    // The wall clock, which had to tell, is read in milliseconds.
    assert!(since(start) + Duration::from_millis(50) >= delay);
    assert_eq!(soon.deliveries, 2);
    assert_nothing(&*broker, "late").await;
}
