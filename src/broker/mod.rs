//! What carries runs from beat to workers, keeps their records and logs, and shares state.
//!
//! One trait, [`Broker`], with its delivery semantics in prose; `nats/` (JetStream) and
//! `embedded/` (sled, in-process) implement it, and `socket/` reaches an embedded one from other
//! processes of the machine. The contract suite in `tests/contract/` runs against all of them.
//! Nothing above this module knows which one it has. This module decides nothing about jobs: it
//! stores, delivers and refuses.
//!
//! # Delivery semantics
//!
//! * **Publish** returns after the run is stored. A message id (the run id) that the broker
//!   remembers is a duplicate; it remembers for at least two minutes, not for ever, so the run
//!   record decides after that. A slot (see [`Slot`]) holds at most one stored run, whether it
//!   waits, is being executed or is put off: a second is refused, its id not remembered.
//! * **Pull** hands a run to one worker under a lease. Whoever neither renews nor settles it within
//!   the lease loses it, and it is delivered again, with `deliveries` one higher. A run that was
//!   put off ([`Broker::release`]) is not delivered before its delay is over and holds its slot.
//! * **Settling** is [`Broker::ack`] (the run leaves the broker, its slot is free) or
//!   [`Broker::release`]. A broker may accept either from a stale holder: brokers do not fence, run
//!   records do. Change the record by compare-and-set first, settle only after that succeeded, and
//!   never after the lease has run out.
//! * **Order** within a queue is that of publishing, repeats and runs put off aside.
//! * **Signatures.** A broker that others can write to signs what is published if it was given a key, and hands
//!   out the signature as it came: whoever pulls decides. With a key it does not take a stored run of
//!   nobody who may publish for a run: such a run is no duplicate, and holds no slot.
//!   So it is with the values that runs are made from ([`sealed`], [`opened`]).
//! * **Values** are changed by compare-and-set on their revision. Watchers see every last value,
//!   not every value between.

pub mod embedded;
pub mod nats;
pub mod permits;
mod publish;
pub mod socket;
pub mod types;
mod unique;
mod vouched;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::{
    job::QueueName,
    run::{Authority, RunId},
};
pub use permits::{
    Observer, Taken, clear_places, give_place_back, renew_place, reserve_start, take_place,
};
pub use publish::{Candidate, is_stored_in, older_run, publish, remove_if_ended, request_cancel};
pub use types::{
    Bucket, Cas, Change, DeadLetter, Delivery, Durability, Entry, Lifetime, LogChunk, LogStream,
    Outgoing, Pending, Published, PullRequest, QueueDepth, Receipt, Refused, RefusedBy, Remark,
    RemarkKind, Revision, Slot,
};
pub use unique::{Claimed, claim_key, give_key_back};
pub use vouched::{opened, sealed};

/// A broker that can be shared between tasks.
pub type SharedBroker = Arc<dyn Broker>;

/// The current values under a prefix, then every change, until dropped.
pub type Changes = BoxStream<'static, Result<Change, BrokerError>>;

/// Carries runs, keeps records, shares state. See the module for the semantics.
#[async_trait]
pub trait Broker: fmt::Debug + Send + Sync {
    /// The broker as a user knows it: `NATS at nats://127.0.0.1:4222`.
    fn describe(&self) -> String;

    /// The servers behind it, separated by commas; `None` if it has none.
    fn servers(&self) -> Option<&str> {
        None
    }

    /// How long a delivered run may go without renewal, as far as this handle may say so: each
    /// delivery names the lease in force.
    fn lease(&self) -> Duration;

    /// For how long this handle has not lost its connection. A broker that was away may have forgotten how
    /// long the leases are that it had given, and take them for over at once.
    fn undisturbed_for(&self) -> Duration {
        Duration::MAX
    }

    /// With whose key this handle signs what it publishes, if it does. A broker that only this user
    /// reaches needs none.
    fn authority(&self) -> Option<&Authority> {
        None
    }

    /// Where a value is stored, as a signature names it: a value that is good there is good nowhere else.
    fn address(&self, _bucket: Bucket, key: &str) -> String {
        key.to_owned()
    }

    /// What there is to say about the broker itself: its version, its room, its settings.
    async fn remarks(&self) -> Result<Vec<Remark>, BrokerError> {
        Ok(Vec::new())
    }

    /// Makes everything that an installation keeps here and that is missing. Whoever leads does so, for those
    /// who are not permitted to.
    async fn make_everything(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    /// Stores a run. What was stored survives the death of every process involved.
    async fn publish(&self, run: Outgoing) -> Result<Published, BrokerError>;

    /// Takes up to `request.max` runs. Returns at once with what is there, first by the shares of
    /// the queues and then whatever else waits; with nothing there it waits for the first, at most
    /// `request.wait`, and returns an empty list after that or as soon as `stop` is cancelled.
    /// Never loses a run: what arrived but exceeds `max` goes back at once.
    async fn pull(
        &self,
        request: PullRequest,
        stop: &CancellationToken,
    ) -> Result<Vec<Delivery>, BrokerError>;

    /// Starts the lease anew. `Ok` proves only that the broker was reached.
    async fn renew(&self, receipt: &Receipt) -> Result<(), BrokerError>;

    /// Whether the broker has lost its data since a run was delivered: nobody else is given it any more, and its receipt
    /// is good for nothing.
    async fn is_of_before(&self, _receipt: &Receipt) -> Result<bool, BrokerError> {
        Ok(false)
    }

    /// When it was seen that the broker has lost its data and was begun anew, if it was, as far as this process has
    /// lived through it.
    async fn begun_anew_at(&self) -> Result<Option<Instant>, BrokerError> {
        Ok(None)
    }

    /// Removes a run for good. Returns after the broker has confirmed it.
    async fn ack(&self, receipt: &Receipt) -> Result<(), BrokerError>;

    /// Gives a run back, to be delivered again after `delay`.
    async fn release(&self, receipt: &Receipt, delay: Duration) -> Result<(), BrokerError>;

    /// Up to `limit` stored runs with a sequence of at least `from`, by sequence, whether they wait
    /// or are being executed.
    async fn pending(&self, from: u64, limit: usize) -> Result<Vec<Pending>, BrokerError>;

    /// The stored run that occupies `slot` of `run_id`'s job in `queue`, if any.
    async fn occupant(
        &self,
        queue: &QueueName,
        run_id: &RunId,
        slot: Slot,
    ) -> Result<Option<Pending>, BrokerError>;

    /// Removes a stored run that must not be executed. Returns whether it was there.
    async fn remove(&self, pending: &Pending) -> Result<bool, BrokerError>;

    /// Every queue that the broker knows, by name.
    async fn queues(&self) -> Result<Vec<QueueDepth>, BrokerError>;

    /// The value of a key.
    async fn get(&self, bucket: Bucket, key: &str) -> Result<Option<Entry>, BrokerError>;

    /// The value that changed last among the keys under `prefix` (which ends with a dot).
    async fn latest(&self, bucket: Bucket, prefix: &str) -> Result<Option<Entry>, BrokerError>;

    /// Sets a key, whatever it holds.
    async fn put(&self, bucket: Bucket, key: &str, value: Vec<u8>)
    -> Result<Revision, BrokerError>;

    /// Sets a key if its revision is still `expected` (`None`: the key must not exist).
    async fn compare_and_set(
        &self,
        bucket: Bucket,
        key: &str,
        expected: Option<Revision>,
        value: Vec<u8>,
        durability: Durability,
    ) -> Result<Cas, BrokerError>;

    /// Sets a key that was never there. [`Cas::Conflict`] if it is there, and also if it was removed, where that is
    /// remembered (see [`Broker::was_removed`]).
    async fn create(
        &self,
        bucket: Bucket,
        key: &str,
        value: Vec<u8>,
        durability: Durability,
    ) -> Result<Cas, BrokerError> {
        self.compare_and_set(bucket, key, None, value, durability)
            .await
    }

    /// Whether a key is known to have been removed. A broker that only its own user reaches remembers no such thing,
    /// and nobody that of keys whose time was over.
    async fn was_removed(&self, _bucket: Bucket, _key: &str) -> Result<bool, BrokerError> {
        Ok(false)
    }

    /// Removes a key; no error if it is not there.
    async fn delete(&self, bucket: Bucket, key: &str) -> Result<(), BrokerError>;

    /// The values under `prefix` (empty: all, else ending with a dot), [`Change::Current`] once,
    /// then every change.
    async fn watch(&self, bucket: Bucket, prefix: &str) -> Result<Changes, BrokerError>;

    /// Adds output of a run.
    async fn append_log(&self, run_id: &RunId, chunk: LogChunk) -> Result<u64, BrokerError>;

    /// Drops the chunks of a run's log up to and including `sequence`.
    async fn trim_log(&self, run_id: &RunId, sequence: u64) -> Result<(), BrokerError>;

    /// Up to `limit` chunks of a run's log with a sequence above `after`, oldest first.
    async fn read_log(
        &self,
        run_id: &RunId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, LogChunk)>, BrokerError>;

    /// Keeps what nobody can execute, for a person to decide.
    async fn dead_letter(&self, letter: DeadLetter) -> Result<(), BrokerError>;

    /// Up to `limit` dead letters with a sequence below `below` (`None`: any), newest first, with
    /// their sequences.
    async fn dead_letters(
        &self,
        below: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, DeadLetter)>, BrokerError>;

    /// Removes a dead letter for good. Returns whether it was there.
    async fn discard(&self, sequence: u64) -> Result<bool, BrokerError>;
}

/// The current values under `prefix`, once.
pub async fn list(
    broker: &dyn Broker,
    bucket: Bucket,
    prefix: &str,
) -> Result<Vec<Entry>, BrokerError> {
    let mut changes = broker.watch(bucket, prefix).await?;
    let mut entries = std::collections::BTreeMap::new();
    while let Some(change) = changes.next().await {
        match change? {
            Change::Put(entry) => {
                entries.insert(entry.key.clone(), entry);
            }
            Change::Deleted { key } => {
                entries.remove(&key);
            }
            Change::Current => break,
        }
    }
    Ok(entries.into_values().collect())
}

/// What a broker could not do. Names the broker, the operation and its subject.
#[derive(Debug, Clone, PartialEq, Eq, Error, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BrokerError {
    /// Not reached, or no answer in time. Passing: try again.
    #[error("{broker} cannot be reached: {operation}: {reason}")]
    Unreachable {
        /// [`Broker::describe`].
        broker: String,
        /// What was tried, with its subject.
        operation: String,
        /// What the transport said.
        reason: String,
    },
    /// Full, or limited: nothing was stored. Passing, once somebody made room.
    #[error("{broker} has no room: {operation}: {reason}")]
    Full {
        /// [`Broker::describe`].
        broker: String,
        /// What was tried, with its subject.
        operation: String,
        /// What the broker said.
        reason: String,
    },
    /// Not allowed for this user.
    #[error("{broker} does not permit it: {operation}: {reason}")]
    NotPermitted {
        /// [`Broker::describe`].
        broker: String,
        /// What was tried, with its subject.
        operation: String,
        /// What the broker said.
        reason: String,
    },
    /// The broker answered with an error that trying again does not mend.
    #[error("{broker} failed: {operation}: {reason}")]
    Failed {
        /// [`Broker::describe`].
        broker: String,
        /// What was tried, with its subject.
        operation: String,
        /// What the broker said.
        reason: String,
    },
}

impl BrokerError {
    /// Whether the same call may succeed later without anybody changing anything here.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Full { .. } => true,
            Self::NotPermitted { .. } | Self::Failed { .. } => false,
        }
    }

    /// How to mend it, where the error does not say so itself.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Full { .. } => {
                Some("give the broker more room; `orchestrator doctor` shows what it lacks")
            }
            // Of others only one user may do anything at all.
            Self::NotPermitted { broker, .. } if broker.starts_with("NATS") => Some(
                "docs/nats.md says what each role may do: ask as one that may, or have the server's configuration changed",
            ),
            Self::Unreachable { .. } | Self::NotPermitted { .. } | Self::Failed { .. } => None,
        }
    }
}
