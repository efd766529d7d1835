//! What goes into a broker and comes out of it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use crate::store::Durability;
use crate::{
    job::QueueName,
    run::{Authority, Refusal, RunId, RunMessage, Standing},
};

/// A run to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// Also the message id.
    pub run_id: RunId,
    /// The route.
    pub queue: QueueName,
    /// What the run occupies while the broker stores it.
    pub slot: Slot,
    /// The encoded [`crate::run::RunMessage`].
    #[serde(with = "base64_bytes")]
    pub payload: Vec<u8>,
}

/// What a stored run occupies within its queue and job; an occupied slot refuses a second run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// The one slot of a job whose runs may not overlap.
    Job,
    /// The second slot of a job of which one run may wait while another one is live.
    Next,
    /// A slot of its own.
    Run,
}

/// What became of a publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Published {
    /// Stored now.
    Stored,
    /// The broker has or had this run already.
    Duplicate,
    /// The slot is occupied by this run, another one. Nothing was stored.
    Occupied(RunId),
}

/// Which runs a worker wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequest {
    /// The queues in order of preference, each with the part of `max` that is its share.
    pub shares: Vec<(QueueName, usize)>,
    /// How many runs can be started now.
    pub max: usize,
    /// How long to wait for the first run if there is none.
    pub wait: Duration,
}

/// A run handed to a worker under a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Settles or renews this delivery.
    pub receipt: Receipt,
    /// Identifies the stored run within the broker.
    pub sequence: u64,
    /// Where it came from.
    pub queue: QueueName,
    /// How often it was delivered, this time included.
    pub deliveries: u64,
    /// How long it may go without renewal. All workers of a queue share one lease, which need not
    /// be the one that was asked for.
    pub lease: Duration,
    /// How long ago it came, when the pull returned: its lease has run for so long at least.
    #[serde(default)]
    pub held_for: Duration,
    /// The bytes that were published, by whomever.
    #[serde(with = "base64_bytes")]
    pub payload: Vec<u8>,
    /// What a signature is for beside the payload: where it was published. Empty where none is needed.
    #[serde(default)]
    pub subject: String,
    /// The header [`crate::run::SIGNATURE_HEADER`], as it came.
    #[serde(default)]
    pub signature: Option<String>,
}

/// The right to settle one delivery. Opaque outside the broker that made it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Receipt(pub(super) String);

/// A stored run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Identifies the stored run within the broker.
    pub sequence: u64,
    /// Its route.
    pub queue: QueueName,
    /// The bytes that were published, by whomever.
    #[serde(with = "base64_bytes")]
    pub payload: Vec<u8>,
    /// Where it was published; see [`Delivery::subject`].
    #[serde(default)]
    pub subject: String,
    /// Its signature, as it came.
    #[serde(default)]
    pub signature: Option<String>,
}

/// How full a queue is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueDepth {
    /// The queue.
    pub queue: QueueName,
    /// Runs that can be taken now; with most brokers also those that are put off.
    pub waiting: u64,
    /// Runs that a worker holds; NATS counts those that are put off here, it does not tell them
    /// apart.
    pub running: u64,
}

/// How long unique keys are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// Seven days.
    Week,
    /// 31 days.
    Month,
}

impl Lifetime {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Hour, Self::Day, Self::Week, Self::Month];

    /// The shortest that is long enough.
    pub fn of(lasts: Duration) -> Self {
        let enough = |span: &Self| span.length() >= lasts;
        Self::ALL.into_iter().find(enough).unwrap_or(Self::Month)
    }

    /// How long it is.
    pub const fn length(self) -> Duration {
        Duration::from_secs(match self {
            Self::Hour => 3600,
            Self::Day => 86_400,
            Self::Week => 7 * 86_400,
            Self::Month => 31 * 86_400,
        })
    }
}

/// A group of keys with a life span of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bucket {
    /// Watermark, definitions, per-job state, requests to workers. Kept.
    State,
    /// Run records, by [`RunId::key`]. Kept for seven days after their last change.
    Runs,
    /// Locks, places and rates that runs share. Kept for thirty days after their last change.
    Locks,
    /// Unique keys, by how long they are needed at most.
    Unique(Lifetime),
    /// What workers say of themselves. Forgotten after a minute.
    Workers,
}

impl Bucket {
    /// How long a value is kept after its last change.
    pub const fn max_age(self) -> Option<Duration> {
        match self {
            Self::State => None,
            Self::Runs => Some(Duration::from_secs(7 * 86_400)),
            Self::Locks => Some(Duration::from_secs(30 * 86_400)),
            Self::Unique(lifetime) => Some(lifetime.length()),
            Self::Workers => Some(Duration::from_secs(60)),
        }
    }
}

/// The version of a value; grows with every change of the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revision(pub(super) u64);

/// A value with its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The key, dot-separated tokens of `[A-Za-z0-9_-]`.
    pub key: String,
    /// The version to compare with.
    pub revision: Revision,
    /// The value.
    #[serde(with = "base64_bytes")]
    pub value: Vec<u8>,
}

/// What became of a compare-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cas {
    /// Done; this is the new version.
    Done(Revision),
    /// Somebody else changed it first; nothing was done.
    Conflict,
}

/// Something a watcher sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A value was there or was set.
    Put(Entry),
    /// A key was removed. Not told of keys that expire.
    Deleted {
        /// The key.
        key: String,
    },
    /// Everything that was there when the watch began has been seen. Exactly once.
    Current,
}

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output of the job.
    Stdout,
    /// Standard error of the job.
    Stderr,
    /// The worker's own remarks on the run.
    Worker,
}

/// A piece of a run's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogChunk {
    /// The attempt that wrote it.
    pub attempt: u32,
    /// Where it came from.
    pub stream: LogStream,
    /// When it was read.
    pub at: DateTime<Utc>,
    /// How many bytes the attempt wrote before this piece, all streams together. A gap to the end
    /// of the piece before means that so many bytes were dropped.
    pub offset: u64,
    /// The bytes; not necessarily text, nor whole lines.
    #[serde(with = "base64_bytes")]
    pub bytes: Vec<u8>,
}

/// What nobody can execute, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The run, if it could be understood that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// Where it came from.
    pub queue: QueueName,
    /// When it was given up.
    pub at: DateTime<Utc>,
    /// Why, in words.
    pub reason: String,
    /// The original message, cut to 512 KiB.
    #[serde(with = "base64_bytes")]
    pub payload: Vec<u8>,
    /// Who refused it, unless it was understood and executed in vain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// Where it was published, if it was signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Its signature, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

impl DeadLetter {
    /// How much of a message is kept, in bytes.
    pub const KEPT_PAYLOAD: usize = 512 * 1024;

    /// The letter of a stored message that is refused because of its signature.
    pub fn refusing(stored: Pending, why: &Refusal, at: DateTime<Utc>) -> Self {
        let mut payload = stored.payload;
        let run_id = RunMessage::run_id_in(&payload);
        payload.truncate(Self::KEPT_PAYLOAD);
        Self {
            run_id,
            queue: stored.queue,
            at,
            reason: why.to_string(),
            payload,
            refused: Some(Refused::by_signature(why)),
            subject: Some(stored.subject),
            signature: stored.signature,
        }
    }
}

impl Pending {
    /// Whose it is, as far as a publisher can tell.
    pub fn judged_by(&self, authority: &Authority) -> Standing {
        authority.judge(&self.subject, self.signature.as_deref(), &self.payload)
    }
}

impl Refused {
    /// Because of its signature, or the lack of one.
    pub fn by_signature(why: &Refusal) -> Self {
        Self {
            by: RefusedBy::Signature,
            rule: why.rule().to_owned(),
        }
    }
}

/// Why a message was not even tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// By what.
    pub by: RefusedBy,
    /// The name of the rule.
    pub rule: String,
}

/// What may refuse a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedBy {
    /// Its signature is none of a trusted key, or too old.
    Signature,
    /// The worker's policy does not allow it.
    Policy,
}

/// Something to say about a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// What was looked at.
    pub check: &'static str,
    /// How it is.
    pub kind: RemarkKind,
    /// What was found.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RemarkKind {
    /// It is well.
    Ok,
    /// It works, but should be looked at.
    Warning,
    /// It does not work.
    Failed,
}

/// Bytes as base64 text, for JSON.
mod base64_bytes {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(D::Error::custom)
    }
}
