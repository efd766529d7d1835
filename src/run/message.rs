//! The wire contract: what beat publishes and workers in any language read. `docs/protocol.md`
//! specifies it with examples.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::RunId;
use crate::job::{QueueName, RunSpec};

/// The version of the message that this build writes and reads.
pub const VERSION: u32 = 1;

/// Largest message, in bytes: what a default NATS server accepts.
const MAX_BYTES: usize = 1 << 20;

/// One run, self-contained: definition, arguments, limits and retry policy as of publishing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunMessage {
    /// Always [`VERSION`] after decoding.
    pub version: u32,
    /// Also the message id under which the broker drops repeats.
    pub run_id: RunId,
    /// The route.
    pub queue: QueueName,
    /// The tick, or the time a run by hand was asked for.
    pub scheduled_for: DateTime<Utc>,
    /// When the message was made.
    pub published_at: DateTime<Utc>,
    /// Not to be started later than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// When the job's last successful run started, as known at publishing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<DateTime<Utc>>,
    /// The run that asked for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<RunId>,
    /// What to execute.
    pub spec: RunSpec,
}

/// Why bytes are not a message that this build can execute.
#[derive(Debug, Error)]
pub enum Malformed {
    /// More than 1 MiB.
    #[error("the message has {0} bytes, more than {MAX_BYTES}")]
    Oversize(usize),
    /// Not JSON, or not of the contract's form.
    #[error("the message is not understood: {0}")]
    Json(#[from] serde_json::Error),
    /// A version from another time.
    #[error("the message has version {0}; this build understands version {VERSION}")]
    Version(u64),
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

impl RunMessage {
    /// The message as bytes, at most 1 MiB.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        let bytes = serde_json::to_vec(self)?;
        if bytes.len() > MAX_BYTES {
            return Err(Malformed::Oversize(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads a message. Unknown fields are ignored, unknown versions refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_BYTES {
            return Err(Malformed::Oversize(bytes.len()));
        }
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if version != u64::from(VERSION) {
            return Err(Malformed::Version(version));
        }
        Ok(serde_json::from_slice(bytes)?)
    }
}
