//! A broker that refuses chosen operations, so many times, before it does them.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use orchestrator::{
    broker::{
        Broker, BrokerError, Bucket, Cas, Changes, DeadLetter, Delivery, Durability, Entry,
        LogChunk, Outgoing, Pending, Published, PullRequest, QueueDepth, Receipt, Revision,
        SharedBroker, Slot,
    },
    job::QueueName,
    run::{LAST_RUN_PREFIX, RunId},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Op {
    Renew,
    /// A change of a run record that exists.
    Record,
    /// A change of what is remembered of a job's last run.
    LastRun,
    DeadLetter,
    TrimLog,
    Watch,
    /// What the worker `w1` says of itself.
    Status,
}

#[derive(Debug)]
pub(super) struct Faulty {
    inner: SharedBroker,
    failures: Mutex<HashMap<Op, usize>>,
    /// While it is true renewals are not answered, and so many wait.
    silent: watch::Sender<bool>,
    unanswered: AtomicUsize,
}

impl Faulty {
    pub(super) fn new(inner: SharedBroker) -> Self {
        Self {
            inner,
            failures: Mutex::new(HashMap::new()),
            silent: watch::Sender::new(false),
            unanswered: AtomicUsize::new(0),
        }
    }

    /// From now on renewals wait for their answer, until [`Self::answer`].
    pub(super) fn fall_silent(&self) {
        self.silent.send_replace(true);
    }

    /// Those that waited are answered as by a server that grants every renewal, whoever has the run by now.
    pub(super) fn answer(&self) {
        self.silent.send_replace(false);
    }

    /// How many renewals have waited.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// From now on `op` fails so many times.
    pub(super) fn fail(&self, op: Op, times: usize) {
        self.failures().insert(op, times);
    }

    /// How many of the failures are still to come.
    pub(super) fn left(&self, op: Op) -> usize {
        self.failures().get(&op).copied().unwrap_or(0)
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<Op, usize>> {
        self.failures.lock().unwrap()
    }

    fn attempt(&self, op: Op) -> Result<(), BrokerError> {
        match self.failures().get_mut(&op) {
            Some(left) if *left > 0 => {
                *left -= 1;
                Err(BrokerError::Unreachable {
                    broker: self.inner.describe(),
                    operation: format!("{op:?}"),
                    reason: "made to fail".to_owned(),
                })
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Broker for Faulty {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn undisturbed_for(&self) -> Duration {
        self.inner.undisturbed_for()
    }

    fn lease(&self) -> Duration {
        self.inner.lease()
    }

    async fn publish(&self, run: Outgoing) -> Result<Published, BrokerError> {
        self.inner.publish(run).await
    }

    async fn pull(
        &self,
        request: PullRequest,
        stop: &CancellationToken,
    ) -> Result<Vec<Delivery>, BrokerError> {
        self.inner.pull(request, stop).await
    }

    async fn renew(&self, receipt: &Receipt) -> Result<(), BrokerError> {
        self.attempt(Op::Renew)?;
        let mut silent = self.silent.subscribe();
        if *silent.borrow() {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
            let answered = silent.wait_for(|silent| !silent).await;
            answered.expect("the sender is kept");
        }
        match self.inner.renew(receipt).await {
            Err(BrokerError::Failed { .. }) if self.unanswered() > 0 => Ok(()),
            answer => answer,
        }
    }

    async fn ack(&self, receipt: &Receipt) -> Result<(), BrokerError> {
        self.inner.ack(receipt).await
    }

    async fn release(&self, receipt: &Receipt, delay: Duration) -> Result<(), BrokerError> {
        self.inner.release(receipt, delay).await
    }

    async fn pending(&self, from: u64, limit: usize) -> Result<Vec<Pending>, BrokerError> {
        self.inner.pending(from, limit).await
    }

    async fn occupant(
        &self,
        queue: &QueueName,
        run_id: &RunId,
        slot: Slot,
    ) -> Result<Option<Pending>, BrokerError> {
        self.inner.occupant(queue, run_id, slot).await
    }

    async fn remove(&self, pending: &Pending) -> Result<bool, BrokerError> {
        self.inner.remove(pending).await
    }

    async fn queues(&self) -> Result<Vec<QueueDepth>, BrokerError> {
        self.inner.queues().await
    }

    async fn get(&self, bucket: Bucket, key: &str) -> Result<Option<Entry>, BrokerError> {
        self.inner.get(bucket, key).await
    }

    async fn latest(&self, bucket: Bucket, prefix: &str) -> Result<Option<Entry>, BrokerError> {
        self.inner.latest(bucket, prefix).await
    }

    async fn put(
        &self,
        bucket: Bucket,
        key: &str,
        value: Vec<u8>,
    ) -> Result<Revision, BrokerError> {
        if bucket == Bucket::Workers && key == "w1" {
            self.attempt(Op::Status)?;
        }
        self.inner.put(bucket, key, value).await
    }

    async fn compare_and_set(
        &self,
        bucket: Bucket,
        key: &str,
        expected: Option<Revision>,
        value: Vec<u8>,
        durability: Durability,
    ) -> Result<Cas, BrokerError> {
        match bucket {
            Bucket::Runs if expected.is_some() => self.attempt(Op::Record)?,
            Bucket::State if key.starts_with(LAST_RUN_PREFIX) => self.attempt(Op::LastRun)?,
            Bucket::Runs | Bucket::State | Bucket::Locks | Bucket::Unique(_) | Bucket::Workers => {}
        }
        self.inner
            .compare_and_set(bucket, key, expected, value, durability)
            .await
    }

    async fn delete(&self, bucket: Bucket, key: &str) -> Result<(), BrokerError> {
        self.inner.delete(bucket, key).await
    }

    async fn watch(&self, bucket: Bucket, prefix: &str) -> Result<Changes, BrokerError> {
        if bucket == Bucket::Workers {
            self.attempt(Op::Watch)?;
        }
        self.inner.watch(bucket, prefix).await
    }

    async fn append_log(&self, run_id: &RunId, chunk: LogChunk) -> Result<u64, BrokerError> {
        self.inner.append_log(run_id, chunk).await
    }

    async fn trim_log(&self, run_id: &RunId, sequence: u64) -> Result<(), BrokerError> {
        self.attempt(Op::TrimLog)?;
        self.inner.trim_log(run_id, sequence).await
    }

    async fn read_log(
        &self,
        run_id: &RunId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, LogChunk)>, BrokerError> {
        self.inner.read_log(run_id, after, limit).await
    }

    async fn dead_letter(&self, letter: DeadLetter) -> Result<(), BrokerError> {
        self.attempt(Op::DeadLetter)?;
        self.inner.dead_letter(letter).await
    }

    async fn dead_letters(
        &self,
        below: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, DeadLetter)>, BrokerError> {
        self.inner.dead_letters(below, limit).await
    }

    async fn discard(&self, sequence: u64) -> Result<bool, BrokerError> {
        self.inner.discard(sequence).await
    }
}
