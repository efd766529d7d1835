//! Logs and dead letters: bounded streams, the oldest go first.

use std::collections::HashSet;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    NatsBroker,
    api::{CallError, StoredMessage, code},
    publish::Stored,
    setup::Stream,
};
use crate::{
    broker::{BrokerError, DeadLetter, LogChunk},
    run::RunId,
};

pub(super) async fn append_log(
    nats: &NatsBroker,
    run_id: &RunId,
    chunk: &LogChunk,
) -> Result<u64, BrokerError> {
    append(nats, Stream::Logs, nats.names.log(run_id), chunk).await
}

pub(super) async fn trim_log(
    nats: &NatsBroker,
    run_id: &RunId,
    sequence: u64,
) -> Result<(), BrokerError> {
    let subject = nats.names.log(run_id);
    let operation = format!("trim {subject}");
    let purge = format!("STREAM.PURGE.{}", nats.names.logs_stream());
    let which = json!({ "filter": subject, "seq": sequence + 1 });
    match nats.api::<Value>(&operation, &purge, &which).await {
        Ok(_) => Ok(()),
        Err(error) if error.is(code::NO_STREAM) => Ok(()),
        Err(error) => Err(nats.error(&operation, error)),
    }
}

pub(super) async fn read_log(
    nats: &NatsBroker,
    run_id: &RunId,
    after: u64,
    limit: usize,
) -> Result<Vec<(u64, LogChunk)>, BrokerError> {
    if !nats.is_there(Stream::Logs).await? {
        return Ok(Vec::new());
    }
    let subject = nats.names.log(run_id);
    let operation = format!("read {subject}");
    let stream = nats.names.logs_stream();
    let (mut next, mut found) = (after + 1, Vec::new());
    while found.len() < limit {
        let which = json!({ "seq": next, "next_by_subj": subject });
        let Some(message) = nats.stored_message(&operation, &stream, &which).await? else {
            break;
        };
        next = message.seq + 1;
        if let Some(chunk) = decode(&message) {
            found.push((message.seq, chunk));
        }
    }
    Ok(found)
}

pub(super) async fn dead_letter(nats: &NatsBroker, letter: &DeadLetter) -> Result<(), BrokerError> {
    let subject = nats.names.dead(&letter.queue);
    append(nats, Stream::Dead, subject, letter).await?;
    Ok(())
}

pub(super) async fn dead_letters(
    nats: &NatsBroker,
    below: Option<u64>,
    limit: usize,
) -> Result<Vec<(u64, DeadLetter)>, BrokerError> {
    const OPERATION: &str = "list dead letters";
    if !nats.is_there(Stream::Dead).await? {
        return Ok(Vec::new());
    }
    let stream = nats.names.dead_stream();
    let info = nats
        .api::<Value>(
            OPERATION,
            &format!("STREAM.INFO.{stream}"),
            &json!({ "deleted_details": true }),
        )
        .await
        .map_err(|error| nats.error(OPERATION, error))?;
    let edge = |name: &str| info["state"][name].as_u64().unwrap_or(0);
    let (first, last) = (edge("first_seq").max(1), edge("last_seq"));
    let last = last.min(below.map_or(u64::MAX, |below| below.saturating_sub(1)));
    let deleted = info["state"]["deleted"].as_array();
    let deleted: HashSet<u64> = deleted
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .collect();
    let mut found = Vec::new();
    let there = (first..=last).filter(|sequence| !deleted.contains(sequence));
    for sequence in there.rev() {
        if found.len() >= limit {
            break;
        }
        let which = json!({ "seq": sequence });
        let message = nats.stored_message(OPERATION, &stream, &which).await?;
        if let Some(letter) = message.as_ref().and_then(decode) {
            found.push((sequence, letter));
        }
    }
    Ok(found)
}

pub(super) async fn discard(nats: &NatsBroker, sequence: u64) -> Result<bool, BrokerError> {
    if !nats.is_there(Stream::Dead).await? {
        return Ok(false);
    }
    let operation = format!("discard dead letter {sequence}");
    let stream = nats.names.dead_stream();
    let which = json!({ "seq": sequence });
    // To delete what was never there is an error with a number of its own.
    match nats.stored_message(&operation, &stream, &which).await? {
        Some(_) => nats.delete_message(&operation, &stream, sequence).await,
        None => Ok(false),
    }
}

fn decode<T: DeserializeOwned>(message: &StoredMessage) -> Option<T> {
    serde_json::from_slice(&message.payload()).ok()
}

async fn append(
    nats: &NatsBroker,
    stream: Stream,
    subject: String,
    value: &impl Serialize,
) -> Result<u64, BrokerError> {
    let operation = format!("append to {subject}");
    let payload =
        serde_json::to_vec(value).map_err(|error| nats.failed(&operation, error.to_string()))?;
    nats.ensure(stream).await?;
    let stored = nats
        .store::<Stored>(&operation, subject.clone(), None, payload.clone())
        .await;
    let stored = match stored {
        Err(CallError::Nobody(_)) => {
            nats.setup.forget();
            nats.ensure(stream).await?;
            nats.store::<Stored>(&operation, subject, None, payload)
                .await
        }
        stored => stored,
    };
    let stored = stored.map_err(|error| nats.error(&operation, error))?;
    Ok(stored.seq)
}
