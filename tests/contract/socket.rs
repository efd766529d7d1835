//! The embedded broker as other processes of the machine see it, through the socket of `up`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use orchestrator::broker::{
    SharedBroker,
    embedded::{EmbeddedBroker, EmbeddedOptions},
    socket::{SocketBroker, SocketServer, serve},
};
use tempfile::TempDir;

use super::harness::{Backend, Harness};

pub struct Socket;

struct Served {
    directory: TempDir,
    options: EmbeddedOptions,
    served: Option<(Arc<EmbeddedBroker>, SocketServer)>,
    broker: SharedBroker,
}

async fn start(
    directory: &TempDir,
    options: EmbeddedOptions,
) -> (Arc<EmbeddedBroker>, SocketServer, SharedBroker) {
    let embedded = EmbeddedBroker::open(directory.path(), options).unwrap();
    let server = serve(directory.path(), Arc::clone(&embedded) as SharedBroker).unwrap();
    let client = SocketBroker::connect(directory.path())
        .await
        .unwrap()
        .unwrap();
    (embedded, server, Arc::new(client))
}

#[async_trait]
impl Backend for Socket {
    async fn start(&self, lease: Duration) -> Box<dyn Harness> {
        let directory = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            lease,
            ..EmbeddedOptions::default()
        };
        let (embedded, server, broker) = start(&directory, options).await;
        Box::new(Served {
            directory,
            options,
            served: Some((embedded, server)),
            broker,
        })
    }
}

#[async_trait]
impl Harness for Served {
    fn broker(&self) -> SharedBroker {
        self.broker.clone()
    }

    async fn reopen(&mut self) {
        if let Some((embedded, server)) = self.served.take() {
            server.shutdown().await;
            embedded.shutdown().await;
        }
        let (embedded, server, broker) = start(&self.directory, self.options).await;
        self.served = Some((embedded, server));
        self.broker = broker;
    }
}
