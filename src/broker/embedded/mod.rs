//! The broker inside `orchestrator up`: in-process, on [`crate::store`].
//!
//! Bodies lie in the store; which run is where is decided by a small pure index in memory
//! (`index/`), rebuilt when the store is opened. Every decision and the queueing of its write
//! happen under one lock, and the store applies writes in the order of queueing: so what is on
//! disk is always the result of a prefix of the decisions, and no write waits for another one's
//! sync. Nothing is delivered, announced or confirmed before its write is as durable as promised.
//!
//! Leases live in memory alone: when the process dies, its workers die with it, so every lease is
//! void and what was held can be taken at once. The count of deliveries is on disk.

mod context;
mod counter;
mod dead;
mod index;
mod kv;
mod logs;
mod runs;
mod tasks;
mod watch;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{
    Broker, BrokerError, Bucket, Cas, Changes, DeadLetter, Delivery, Durability, Entry, LogChunk,
    Outgoing, Pending, Published, PullRequest, QueueDepth, Receipt, Revision, Slot,
};
use crate::{
    job::QueueName,
    run::RunId,
    store::{SetAside, Store, StoreError},
};
use context::Context;
use dead::DeadLetters;
use kv::{Expected, Values};
use logs::Logs;
use runs::Runs;
use tasks::Tasks;

/// What may be chosen about an embedded broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// How long a delivered run may go without renewal.
    pub lease: Duration,
    /// How much output of runs is kept in total; the oldest goes first.
    pub log_bytes: u64,
    /// How many dead letters are kept; the oldest goes first.
    pub dead_letters: usize,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            log_bytes: 256 << 20,
            dead_letters: 10_000,
        }
    }
}

/// How often it is looked whether the store still writes.
const LOOK_AT_STORE: Duration = Duration::from_millis(500);

/// A broker in this process, over one directory.
#[derive(Debug)]
pub struct EmbeddedBroker {
    store: Store,
    context: Arc<Context>,
    lease: Duration,
    runs: Arc<Runs>,
    values: Arc<Values>,
    logs: Arc<Logs>,
    dead: DeadLetters,
    tasks: Tasks,
}

impl EmbeddedBroker {
    /// Opens the broker in `directory`, creating it if needed. To be called within a tokio
    /// runtime; blocks while the stored runs are read.
    pub fn open(directory: &Path, options: EmbeddedOptions) -> Result<Arc<Self>, StoreError> {
        Self::load(Store::open(directory)?, directory, options)
    }

    /// The same; but what is damaged is moved to a directory beside it, and an empty broker is opened.
    pub fn open_or_set_aside(
        directory: &Path,
        options: EmbeddedOptions,
    ) -> Result<(Arc<Self>, Option<SetAside>), StoreError> {
        let (store, aside) = Store::open_or_set_aside(directory)?;
        Ok((Self::load(store, directory, options)?, aside))
    }

    fn load(
        store: Store,
        directory: &Path,
        options: EmbeddedOptions,
    ) -> Result<Arc<Self>, StoreError> {
        let context = Arc::new(Context::new(directory));
        let runs = Arc::new(Runs::load(store.clone(), &context, options.lease)?);
        let values = Arc::new(Values::load(store.clone(), &context)?);
        let logs = Arc::new(Logs::load(store.clone(), &context, options.log_bytes)?);
        let dead = DeadLetters::load(store.clone(), &context, options.dead_letters)?;
        let tasks = Tasks::start(&runs, &values, &logs);
        Ok(Arc::new(Self {
            store,
            context,
            lease: options.lease,
            runs,
            values,
            logs,
            dead,
            tasks,
        }))
    }

    /// Returns once the store has failed, with the reason: nothing is accepted any more, and what
    /// was accepted is found again by opening the broker anew.
    pub async fn broken(&self) -> StoreError {
        loop {
            if let Err(error) = self.store.check() {
                return error;
            }
            tokio::time::sleep(LOOK_AT_STORE).await;
        }
    }

    /// The first failure of the store, if it has failed.
    pub fn check(&self) -> Result<(), StoreError> {
        self.store.check()
    }

    /// Ends the tasks and watches, writes what is queued and ends the writing thread. Calls that
    /// come later are refused. The directory is free when the last handle is dropped.
    pub async fn shutdown(&self) {
        self.tasks.stop().await;
        self.store.close().await;
        self.values.end_watches();
    }
}

#[async_trait]
impl Broker for EmbeddedBroker {
    fn describe(&self) -> String {
        self.context.describe().to_owned()
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    async fn publish(&self, run: Outgoing) -> Result<Published, BrokerError> {
        self.runs.publish(run).await
    }

    async fn pull(
        &self,
        request: PullRequest,
        stop: &CancellationToken,
    ) -> Result<Vec<Delivery>, BrokerError> {
        self.runs.pull(&request, stop).await
    }

    async fn renew(&self, receipt: &Receipt) -> Result<(), BrokerError> {
        self.runs.renew(receipt)
    }

    async fn ack(&self, receipt: &Receipt) -> Result<(), BrokerError> {
        self.runs.ack(receipt).await
    }

    async fn release(&self, receipt: &Receipt, delay: Duration) -> Result<(), BrokerError> {
        self.runs.release(receipt, delay).await
    }

    async fn pending(&self, from: u64, limit: usize) -> Result<Vec<Pending>, BrokerError> {
        self.runs.pending(from, limit).await
    }

    async fn occupant(
        &self,
        queue: &QueueName,
        run_id: &RunId,
        slot: Slot,
    ) -> Result<Option<Pending>, BrokerError> {
        self.runs.occupant(queue, run_id, slot)
    }

    async fn remove(&self, pending: &Pending) -> Result<bool, BrokerError> {
        self.runs.remove(pending).await
    }

    async fn queues(&self) -> Result<Vec<QueueDepth>, BrokerError> {
        Ok(self.runs.queues())
    }

    async fn get(&self, bucket: Bucket, key: &str) -> Result<Option<Entry>, BrokerError> {
        self.values.get(bucket, key)
    }

    async fn latest(&self, bucket: Bucket, prefix: &str) -> Result<Option<Entry>, BrokerError> {
        self.values.latest(bucket, prefix)
    }

    async fn put(
        &self,
        bucket: Bucket,
        key: &str,
        value: Vec<u8>,
    ) -> Result<Revision, BrokerError> {
        self.values.put(bucket, key, value).await
    }

    async fn compare_and_set(
        &self,
        bucket: Bucket,
        key: &str,
        expected: Option<Revision>,
        value: Vec<u8>,
        durability: Durability,
    ) -> Result<Cas, BrokerError> {
        let expected = Expected::Revision(expected);
        self.values
            .set(bucket, key, expected, Some(value), durability)
            .await
    }

    async fn delete(&self, bucket: Bucket, key: &str) -> Result<(), BrokerError> {
        self.values.delete(bucket, key).await
    }

    async fn watch(&self, bucket: Bucket, prefix: &str) -> Result<Changes, BrokerError> {
        self.values.watch(bucket, prefix).await
    }

    async fn append_log(&self, run_id: &RunId, chunk: LogChunk) -> Result<u64, BrokerError> {
        self.logs.append(run_id, &chunk).await
    }

    async fn trim_log(&self, run_id: &RunId, sequence: u64) -> Result<(), BrokerError> {
        self.logs.trim(run_id, sequence).await
    }

    async fn read_log(
        &self,
        run_id: &RunId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, LogChunk)>, BrokerError> {
        self.logs.read(run_id, after, limit).await
    }

    async fn dead_letter(&self, letter: DeadLetter) -> Result<(), BrokerError> {
        self.dead.add(&letter).await
    }

    async fn dead_letters(
        &self,
        below: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, DeadLetter)>, BrokerError> {
        self.dead.newest(below, limit).await
    }

    async fn discard(&self, sequence: u64) -> Result<bool, BrokerError> {
        self.dead.remove(sequence).await
    }
}
