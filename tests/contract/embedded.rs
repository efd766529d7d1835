//! The embedded broker as a backend of the suite, and what only it promises.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use orchestrator::broker::{
    Broker, BrokerError, SharedBroker,
    embedded::{EmbeddedBroker, EmbeddedOptions},
};
use tempfile::TempDir;

use super::harness::{Backend, Harness, SHORT, SOON, next, outgoing};

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
