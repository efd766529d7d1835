//! The broker on NATS JetStream: the only importer of async-nats.
//!
//! Owns the connection and the names of streams, consumers and buckets, and creates what it needs
//! on first use. Speaks the JetStream API directly, with nothing that a 2.9 server lacks. What a
//! run means is not its business.
//!
//! JetStream does not fence: a stale holder's acknowledgement is accepted. See the semantics of
//! [`super::Broker`] for what callers do about it.

mod api;
mod asking;
mod begun;
mod burst;
mod connect;
mod consumer;
mod create;
mod credentials;
mod disturbed;
mod names;
mod pace;
mod publish;
mod pull;
mod refused;
mod remarks;
mod room;
mod settings;
mod setup;
mod stored;
mod streams;
mod values;
mod violations;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::Client;
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use begun::Begun;
use burst::Burst;
pub use connect::{
    NatsOptions, check_url, is_namespace, is_on_loopback, is_there, without_secrets,
};
pub use credentials::{Credentials, check_seed, new_nkey};
use disturbed::Disturbed;
use names::Names;
pub use pace::Batches;
pub use setup::Missing;
use setup::Setup;
use violations::Violations;

use super::{
    Broker, BrokerError, Bucket, Cas, Changes, DeadLetter, Delivery, Durability, Entry, LogChunk,
    Outgoing, Pending, Published, PullRequest, QueueDepth, Receipt, Remark, Revision, Slot,
};
use crate::{
    job::QueueName,
    run::{Authority, RunId},
};

/// How long a call may take before the server counts as out of reach.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection to JetStream. Reconnects by itself, without limit.
#[derive(Debug)]
pub struct NatsBroker {
    client: Client,
    url: String,
    lease: Duration,
    names: Names,
    setup: Setup,
    burst: Burst,
    violations: Arc<Violations>,
    disturbed: Arc<Disturbed>,
    begun: Begun,
    authority: Option<Authority>,
}

#[async_trait]
impl Broker for NatsBroker {
    fn describe(&self) -> String {
        format!("NATS at {}", self.url)
    }

    fn servers(&self) -> Option<&str> {
        Some(&self.url)
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    fn undisturbed_for(&self) -> Duration {
        self.disturbed.ago()
    }

    fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    fn address(&self, bucket: Bucket, key: &str) -> String {
        self.names.key(bucket, key)
    }

    async fn remarks(&self) -> Result<Vec<Remark>, BrokerError> {
        remarks::remarks(self).await
    }

    async fn make_everything(&self) -> Result<(), BrokerError> {
        Self::make_everything(self).await
    }

    async fn publish(&self, run: Outgoing) -> Result<Published, BrokerError> {
        publish::publish(self, run).await
    }

    async fn pull(
        &self,
        request: PullRequest,
        stop: &CancellationToken,
    ) -> Result<Vec<Delivery>, BrokerError> {
        pull::pull(self, request, stop).await
    }

    async fn renew(&self, receipt: &Receipt) -> Result<(), BrokerError> {
        self.settle("renew a lease", receipt, "+WPI".to_owned())
            .await
    }

    async fn is_of_before(&self, receipt: &Receipt) -> Result<bool, BrokerError> {
        self.is_receipt_of_before(receipt).await
    }

    async fn begun_anew_at(&self) -> Result<Option<Instant>, BrokerError> {
        Self::begun_anew_at(self).await
    }

    async fn ack(&self, receipt: &Receipt) -> Result<(), BrokerError> {
        self.settle("acknowledge a run", receipt, "+ACK".to_owned())
            .await
    }

    async fn release(&self, receipt: &Receipt, delay: Duration) -> Result<(), BrokerError> {
        self.settle("give a run back", receipt, pull::nak(delay))
            .await
    }

    async fn pending(&self, from: u64, limit: usize) -> Result<Vec<Pending>, BrokerError> {
        stored::pending(self, from, limit).await
    }

    async fn occupant(
        &self,
        queue: &QueueName,
        run_id: &RunId,
        slot: Slot,
    ) -> Result<Option<Pending>, BrokerError> {
        let found = stored::occupant(self, queue, run_id, slot).await?;
        Ok(found
            .filter(|found| found.forged().is_none())
            .map(|found| found.stored))
    }

    async fn remove(&self, pending: &Pending) -> Result<bool, BrokerError> {
        stored::remove(self, pending).await
    }

    async fn queues(&self) -> Result<Vec<QueueDepth>, BrokerError> {
        stored::queues(self).await
    }

    async fn create(
        &self,
        bucket: Bucket,
        key: &str,
        value: Vec<u8>,
        _durability: Durability,
    ) -> Result<Cas, BrokerError> {
        values::create(self, bucket, key, value).await
    }

    async fn was_removed(&self, bucket: Bucket, key: &str) -> Result<bool, BrokerError> {
        values::was_removed(self, bucket, key).await
    }

    async fn get(&self, bucket: Bucket, key: &str) -> Result<Option<Entry>, BrokerError> {
        values::get(self, bucket, key).await
    }

    async fn latest(&self, bucket: Bucket, prefix: &str) -> Result<Option<Entry>, BrokerError> {
        values::latest(self, bucket, prefix).await
    }

    async fn put(
        &self,
        bucket: Bucket,
        key: &str,
        value: Vec<u8>,
    ) -> Result<Revision, BrokerError> {
        values::put(self, bucket, key, value).await
    }

    async fn compare_and_set(
        &self,
        bucket: Bucket,
        key: &str,
        expected: Option<Revision>,
        value: Vec<u8>,
        _durability: Durability,
    ) -> Result<Cas, BrokerError> {
        values::compare_and_set(self, bucket, key, expected, value).await
    }

    async fn delete(&self, bucket: Bucket, key: &str) -> Result<(), BrokerError> {
        values::delete(self, bucket, key).await
    }

    async fn watch(&self, bucket: Bucket, prefix: &str) -> Result<Changes, BrokerError> {
        values::watch(self, bucket, prefix).await
    }

    async fn append_log(&self, run_id: &RunId, chunk: LogChunk) -> Result<u64, BrokerError> {
        streams::append_log(self, run_id, &chunk).await
    }

    async fn trim_log(&self, run_id: &RunId, sequence: u64) -> Result<(), BrokerError> {
        streams::trim_log(self, run_id, sequence).await
    }

    async fn read_log(
        &self,
        run_id: &RunId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, LogChunk)>, BrokerError> {
        streams::read_log(self, run_id, after, limit).await
    }

    async fn dead_letter(&self, letter: DeadLetter) -> Result<(), BrokerError> {
        streams::dead_letter(self, &letter).await
    }

    async fn dead_letters(
        &self,
        below: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, DeadLetter)>, BrokerError> {
        streams::dead_letters(self, below, limit).await
    }

    async fn discard(&self, sequence: u64) -> Result<bool, BrokerError> {
        streams::discard(self, sequence).await
    }
}
