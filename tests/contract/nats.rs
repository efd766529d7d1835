//! NATS as a backend of the suite: a real server for each test.

use std::time::Duration;

use async_trait::async_trait;
use orchestrator::broker::{
    SharedBroker,
    nats::{Batches, NatsBroker, NatsOptions},
};

use super::{
    harness::{Backend, Harness},
    server::NatsServer,
};

pub struct Nats;

struct Connected {
    _server: NatsServer,
    options: NatsOptions,
    broker: SharedBroker,
}

#[async_trait]
impl Backend for Nats {
    async fn start(&self, lease: Duration) -> Box<dyn Harness> {
        let server = NatsServer::start();
        let options = NatsOptions {
            url: server.url(),
            lease,
            // What is published at once is what these tests are about.
            batches: Batches::Always,
            ..NatsOptions::default()
        };
        let broker = NatsBroker::connect(options.clone()).await.unwrap();
        Box::new(Connected {
            _server: server,
            options,
            broker,
        })
    }
}

#[async_trait]
impl Harness for Connected {
    fn broker(&self) -> SharedBroker {
        self.broker.clone()
    }

    async fn reopen(&mut self) {
        self.broker = NatsBroker::connect(self.options.clone()).await.unwrap();
    }
}
