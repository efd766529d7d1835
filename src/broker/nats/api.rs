//! What is asked of the JetStream API, and what its errors mean.

use std::sync::atomic::Ordering;

use async_nats::{Message, StatusCode, connection::State};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::warn;

use super::{NatsBroker, setup::answers_direct};
use crate::broker::{BrokerError, Receipt};

/// Error codes of the server that mean something to us.
pub(super) mod code {
    /// No servers of a cluster for all copies.
    pub(crate) const NO_PEERS: u64 = 10005;
    pub(crate) const NO_MESSAGE: u64 = 10037;
    pub(crate) const NO_STREAM: u64 = 10059;
    pub(crate) const NO_CONSUMER: u64 = 10014;
    pub(crate) const STREAM_EXISTS: u64 = 10058;
    pub(crate) const WRONG_LAST_SEQUENCE: u64 = 10071;
    pub(crate) const STORE_FAILED: u64 = 10077;
    pub(crate) const WRONG_LAST_SEQUENCE_CONSTANT: u64 = 10164;
    pub(crate) const CONSUMER_EXISTS: u64 = 10148;
    pub(crate) const NOT_DELETED: u64 = 10043;
    pub(crate) const DELETE_FAILED: u64 = 10057;
    pub(crate) const BATCH_HAS_DUPLICATE: u64 = 10201;
    /// Published already, and not stored yet.
    pub(crate) const ID_IN_PROCESS: u64 = 10158;
}

/// What the JetStream API answered instead of what was asked for.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ApiError {
    #[serde(default)]
    pub(super) code: u64,
    #[serde(default)]
    pub(super) err_code: u64,
    #[serde(default)]
    pub(super) description: String,
}

impl ApiError {
    /// Whether there is no room, and nothing else is in the way.
    fn is_about_room(&self) -> bool {
        match (self.code, self.err_code) {
            (503 | 504, code::STORE_FAILED) | (_, 10_002 | 10_023 | 10_028 | 10_047 | 10_122) => {
                true
            }
            (_, code::NO_PEERS) => {
                let is_told = |cause: &str| self.description.contains(cause);
                is_told("insufficient storage") && !is_told("offline")
            }
            _ => false,
        }
    }
}

/// A call that did not succeed: out of reach, or answered with an error.
#[derive(Debug)]
pub(super) enum CallError {
    Broker(BrokerError),
    /// Nobody listens on the subject: no such stream, or no JetStream at all.
    Nobody(BrokerError),
    Api(ApiError),
}

impl CallError {
    pub(super) fn is(&self, code: u64) -> bool {
        matches!(self, Self::Api(error) if error.err_code == code)
    }

    /// Whether there is no room, and nothing else is in the way.
    pub(super) fn is_about_room(&self) -> bool {
        matches!(self, Self::Api(error) if error.is_about_room())
    }

    /// Whether a message that was to be deleted is not there any more. If somebody else deletes it at the
    /// same moment, the server says so only in words.
    fn is_about_a_missing_message(&self) -> bool {
        match self {
            Self::Api(error) => match error.err_code {
                code::NO_MESSAGE | code::NOT_DELETED => true,
                code::DELETE_FAILED => error.description.contains("no message found"),
                _ => false,
            },
            Self::Broker(_) | Self::Nobody(_) => false,
        }
    }
}

/// A message as the server stores it.
#[derive(Debug, Deserialize)]
pub(super) struct StoredMessage {
    pub(super) subject: String,
    pub(super) seq: u64,
    #[serde(default)]
    data: String,
    #[serde(default)]
    hdrs: String,
}

/// What a marker bears in place of a value.
pub(super) const OPERATION_HEADER: &str = "KV-Operation";

/// What the server adds to a message that it hands out directly.
const PLACE_HEADERS: [&str; 4] = [
    "Nats-Stream",
    "Nats-Subject",
    "Nats-Sequence",
    "Nats-Time-Stamp",
];

/// Whether what is stored was handed out by a server before: somebody had its answer sent where it is now.
pub(super) fn is_an_answer(mut header: impl FnMut(&str) -> bool) -> bool {
    PLACE_HEADERS.iter().any(|name| header(name))
}

/// Whether what is stored is the marker of a removed key. One that is an answer is none: who may not write the key had it
/// sent there.
pub(super) fn is_a_marker(mut header: impl FnMut(&str) -> bool) -> bool {
    header(OPERATION_HEADER) && !is_an_answer(header)
}

/// What stands for a message that the server itself stored, on behalf of somebody who may not write there: whoever
/// reads it finds nothing that it understands.
pub(super) fn passed_over(subject: &str) -> Vec<u8> {
    warn!(target: "orchestrator::broker", subject,
        "a message was written by the answer to a request, as somebody does who may not write it: it is passed over");
    Vec::new()
}

impl StoredMessage {
    /// Reads the answer to a direct question, which is the message itself with its place in headers.
    fn direct(answer: &Message) -> Result<Option<Self>, &'static str> {
        const ODD: &str = "its answer is not understood: the place of the message is missing";
        match answer.status {
            None | Some(StatusCode::OK) => {}
            Some(StatusCode::NOT_FOUND) => return Ok(None),
            Some(_) => return Err("the server answers a direct question with an error"),
        }
        let headers = answer.headers.as_ref().ok_or(ODD)?;
        // The server adds its own after those of the message, which may have the same names.
        let header = |name: &str| {
            headers
                .get_last(name)
                .map(|value| value.as_str().to_owned())
        };
        let mut own = Vec::new();
        for (name, values) in headers.iter() {
            let added = usize::from(PLACE_HEADERS.contains(&name.as_ref()));
            for value in values.iter().rev().skip(added).rev() {
                own.extend(format!("{name}: {value}\r\n").into_bytes());
            }
        }
        Ok(Some(Self {
            subject: header("Nats-Subject").ok_or(ODD)?,
            seq: header("Nats-Sequence")
                .and_then(|sequence| sequence.parse().ok())
                .ok_or(ODD)?,
            data: STANDARD.encode(&answer.payload),
            hdrs: STANDARD.encode(own),
        }))
    }

    pub(super) fn payload(&self) -> Vec<u8> {
        STANDARD.decode(&self.data).unwrap_or_default()
    }

    /// The value of a header.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        let raw = STANDARD.decode(&self.hdrs).ok()?;
        let text = String::from_utf8(raw).ok()?;
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    }
}

#[derive(Deserialize)]
struct MessageAnswer {
    message: StoredMessage,
}

impl NatsBroker {
    /// Removes a message of a stream. Returns whether it was there.
    pub(super) async fn delete_message(
        &self,
        operation: &str,
        stream: &str,
        sequence: u64,
    ) -> Result<bool, BrokerError> {
        let subject = format!("STREAM.MSG.DELETE.{stream}");
        let which = json!({ "seq": sequence, "no_erase": true });
        match self.api_once::<Value>(operation, &subject, &which).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_about_a_missing_message() => Ok(false),
            Err(error) => Err(self.error(operation, error)),
        }
    }

    /// A stored message by the API's own way of asking; `None` if there is none.
    pub(super) async fn stored_message(
        &self,
        operation: &str,
        stream: &str,
        which: &Value,
    ) -> Result<Option<StoredMessage>, BrokerError> {
        let subject = format!("STREAM.MSG.GET.{stream}");
        match self.api::<MessageAnswer>(operation, &subject, which).await {
            Ok(answer) => Ok(Some(answer.message)),
            Err(error) if error.is(code::NO_MESSAGE) => Ok(None),
            // Somebody removed it, or the server lost its data: it is made again on the next write.
            Err(error) if error.is(code::NO_STREAM) => {
                self.setup.forget();
                Ok(None)
            }
            Err(error) => Err(self.error(operation, error)),
        }
    }

    /// The last message of a subject; `None` if there is none. Asked so that the subject is part of what is
    /// permitted, where the stream allows it.
    pub(super) async fn last_message(
        &self,
        operation: &str,
        stream: &str,
        subject: &str,
    ) -> Result<Option<StoredMessage>, BrokerError> {
        let answers = answers_direct(&self.client.server_info().version);
        if !answers || !self.setup.is_direct(stream) {
            let which = json!({ "last_by_subj": subject });
            return self.stored_message(operation, stream, &which).await;
        }
        let asked = format!("$JS.API.DIRECT.GET.{stream}.{subject}");
        match self.ask(operation, asked, None, Vec::new()).await {
            Ok(answer) => StoredMessage::direct(&answer)
                .map_err(|reason| self.failed(operation, reason.to_owned())),
            Err(CallError::Nobody(told)) => self.look_again(operation, stream, subject, told).await,
            Err(error) => Err(self.error(operation, error)),
        }
    }

    /// Nobody answers a direct question: the stream was removed, its setting was changed, or the server starts.
    async fn look_again(
        &self,
        operation: &str,
        stream: &str,
        subject: &str,
        told: BrokerError,
    ) -> Result<Option<StoredMessage>, BrokerError> {
        self.setup.forget();
        let info = format!("STREAM.INFO.{stream}");
        match self.api::<Value>(operation, &info, &Value::Null).await {
            Ok(found) => self.setup.note_direct(stream, &found["config"]),
            Err(error) if error.is(code::NO_STREAM) => return Ok(None),
            Err(error) => return Err(self.error(operation, error)),
        }
        if self.setup.is_direct(stream) {
            return Err(told);
        }
        let which = json!({ "last_by_subj": subject });
        self.stored_message(operation, stream, &which).await
    }

    /// Whether the server is there, as far as the client has noticed.
    pub(super) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// How often the client has connected, the first time included.
    pub(super) fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Settles a delivery and waits for the confirmation. While the server is away it fails at once:
    /// the client would keep the word and say it after it has reconnected, when the run may be
    /// somebody else's.
    pub(super) async fn settle(
        &self,
        operation: &str,
        receipt: &Receipt,
        word: String,
    ) -> Result<(), BrokerError> {
        if !self.is_connected() {
            let reason = "not connected".to_owned();
            return Err(self.out_of_reach(operation, reason));
        }
        if self.is_receipt_of_before(receipt).await? {
            let reason = "the server has lost its data since the run was delivered";
            return Err(self.failed(operation, reason.to_owned()));
        }
        let asked = self.ask(operation, receipt.0.clone(), None, word.into_bytes());
        match asked.await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.error(operation, error)),
        }
    }

    pub(super) fn out_of_reach(&self, operation: &str, reason: String) -> BrokerError {
        BrokerError::Unreachable {
            broker: super::Broker::describe(self),
            operation: operation.to_owned(),
            reason,
        }
    }

    pub(super) fn not_permitted(&self, operation: &str, reason: String) -> BrokerError {
        BrokerError::NotPermitted {
            broker: super::Broker::describe(self),
            operation: operation.to_owned(),
            reason,
        }
    }

    pub(super) fn failed(&self, operation: &str, reason: String) -> BrokerError {
        BrokerError::Failed {
            broker: super::Broker::describe(self),
            operation: operation.to_owned(),
            reason,
        }
    }

    pub(super) fn error(&self, operation: &str, error: CallError) -> BrokerError {
        let error = match error {
            CallError::Broker(error) | CallError::Nobody(error) => return error,
            CallError::Api(error) => error,
        };
        let (broker, operation) = (super::Broker::describe(self), operation.to_owned());
        let reason = format!("{} ({})", error.description, error.err_code);
        if error.is_about_room() {
            return BrokerError::Full {
                broker,
                operation,
                reason,
            };
        }
        match (error.code, error.err_code) {
            (_, code::NO_PEERS) => BrokerError::Unreachable {
                broker,
                operation,
                reason: format!(
                    "{reason}: servers of the cluster are away, or those that are there have no room for so many copies"
                ),
            },
            (503 | 504 | 408, _) | (_, code::ID_IN_PROCESS) => BrokerError::Unreachable {
                broker,
                operation,
                reason,
            },
            _ => BrokerError::Failed {
                broker,
                operation,
                reason,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_in_a_cluster_is_told_from_servers_that_are_away() {
        let is_full = |description: &str| {
            let description = description.to_owned();
            ApiError {
                code: 400,
                err_code: code::NO_PEERS,
                description,
            }
            .is_about_room()
        };
        assert!(is_full(
            "no suitable peers for placement, insufficient storage"
        ));
        for away in [
            "no suitable peers for placement",
            "no suitable peers for placement, peer offline",
            "no suitable peers for placement, peer offline, insufficient storage",
        ] {
            assert!(!is_full(away), "{away}");
        }
    }
}
