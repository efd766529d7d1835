//! The requests that travel over the socket, and their framing. An answer is the serialised result
//! of the call of the same name.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::{
    broker::types::{
        Bucket, DeadLetter, Durability, LogChunk, Outgoing, Pending, PullRequest, Receipt,
        Revision, Slot,
    },
    job::QueueName,
    run::RunId,
};

/// Largest frame: a full pull of large messages.
const MAX_FRAME: usize = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub(super) enum Request {
    Describe,
    Publish {
        run: Outgoing,
    },
    Pull {
        request: PullRequest,
    },
    Renew {
        receipt: Receipt,
    },
    Ack {
        receipt: Receipt,
    },
    Release {
        receipt: Receipt,
        delay_ms: u64,
    },
    Pending {
        from: u64,
        limit: usize,
    },
    Occupant {
        queue: QueueName,
        run_id: RunId,
        slot: Slot,
    },
    Remove {
        pending: Pending,
    },
    Queues,
    Get {
        bucket: Bucket,
        key: String,
    },
    Latest {
        bucket: Bucket,
        prefix: String,
    },
    Put {
        bucket: Bucket,
        key: String,
        value: String,
    },
    CompareAndSet {
        bucket: Bucket,
        key: String,
        expected: Option<Revision>,
        value: String,
        durability: Durability,
    },
    Delete {
        bucket: Bucket,
        key: String,
    },
    Watch {
        bucket: Bucket,
        prefix: String,
    },
    AppendLog {
        run_id: RunId,
        chunk: LogChunk,
    },
    TrimLog {
        run_id: RunId,
        sequence: u64,
    },
    ReadLog {
        run_id: RunId,
        after: u64,
        limit: usize,
    },
    DeadLetter {
        letter: DeadLetter,
    },
    DeadLetters {
        below: Option<u64>,
        limit: usize,
    },
    Discard {
        sequence: u64,
    },
}

/// A connection that carries JSON values.
#[derive(Debug)]
pub(super) struct Wire(Framed<UnixStream, LengthDelimitedCodec>);

impl Wire {
    pub(super) fn new(stream: UnixStream) -> Self {
        let codec = LengthDelimitedCodec::builder()
            .max_frame_length(MAX_FRAME)
            .new_codec();
        Self(Framed::new(stream, codec))
    }

    pub(super) async fn send(&mut self, value: &impl Serialize) -> std::io::Result<()> {
        let frame = serde_json::to_vec(value)?;
        self.0.send(Bytes::from(frame)).await
    }

    /// The next value; `None` once the other side has closed.
    pub(super) async fn receive<T: DeserializeOwned>(&mut self) -> std::io::Result<Option<T>> {
        match self.0.next().await {
            Some(frame) => Ok(Some(serde_json::from_slice(&frame?)?)),
            None => Ok(None),
        }
    }
}
