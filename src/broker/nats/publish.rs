//! Publishing runs. The server refuses a repeated message id and an occupied subject; many runs at once
//! may go together (`burst.rs`).

use std::time::Duration;

use async_nats::HeaderMap;
use serde::Deserialize;

use super::{
    NatsBroker,
    api::{CallError, code},
    burst::{Message, Place, Turn},
    setup::Stream,
    stored,
};
use crate::{
    broker::{BrokerError, Outgoing, Published},
    clock,
    run::SIGNATURE_HEADER,
};

/// The header that holds the run id; behind it, after a dot, the mark of a publisher that has a key.
pub(super) const MESSAGE_ID: &str = "Nats-Msg-Id";
/// How often an occupant that vanishes, or a stream that was removed, is got round.
const TRIES: usize = 4;
/// How long a stream that is there may go on without anybody who takes messages for it, before the next try.
const TRY_AGAIN: Duration = Duration::from_millis(250);

#[derive(Debug, Deserialize)]
pub(super) struct Stored {
    pub(super) seq: u64,
    #[serde(default)]
    duplicate: bool,
}

/// Alone, or with others that are published at the same time.
pub(super) async fn publish(nats: &NatsBroker, run: Outgoing) -> Result<Published, BrokerError> {
    nats.make_queue_known(&run.queue).await?;
    let turn = nats.burst.turn(|| {
        let subject = nats.names.run(&run.queue, &run.run_id, run.slot);
        Message {
            headers: headers(nats, &run, &subject),
            subject,
            payload: run.payload.clone().into(),
        }
    });
    match turn.await {
        Turn::Stored => Ok(Published::Stored),
        Turn::Unclear(reason) => {
            let operation = format!("publish {} with others", run.run_id);
            Err(nats.out_of_reach(&operation, reason))
        }
        Turn::Alone(place) => alone(nats, run, place).await,
    }
}

async fn alone(
    nats: &NatsBroker,
    run: Outgoing,
    mut place: Option<Place>,
) -> Result<Published, BrokerError> {
    let operation = format!("publish {}", run.run_id);
    let subject = nats.names.run(&run.queue, &run.run_id, run.slot);
    let mut last = None;
    for _ in 0..TRIES {
        nats.make_queue_known(&run.queue).await?;
        let start = clock::monotonic();
        point!("nats-before-store");
        let headers = headers(nats, &run, &subject);
        let stored = nats
            .store_by_id::<Stored>(&operation, &subject, &headers, &run.payload)
            .await;
        point!("nats-stored");
        if let Some(place) = place.take() {
            let took = clock::monotonic().saturating_duration_since(start);
            nats.burst.note(&place, took);
        }
        match stored {
            // A leader of 2.9 or 2.10 says so of what it has seen and not stored: it may yet be lost.
            Ok(Stored {
                duplicate: true,
                seq: 0,
            }) => {
                let reason = "it is under way already, and not stored yet".to_owned();
                return Err(nats.out_of_reach(&operation, reason));
            }
            Ok(Stored {
                duplicate: true, ..
            }) => return Ok(Published::Duplicate),
            Ok(Stored { .. }) => return Ok(Published::Stored),
            Err(CallError::Api(error)) if error.err_code == code::STORE_FAILED => {
                let held = stored::occupant(nats, &run.queue, &run.run_id, run.slot).await?;
                let Some(held) = held else {
                    // Gone in between, or the stream is full.
                    last = Some(CallError::Api(error));
                    continue;
                };
                if let Some(why) = held.forged().cloned() {
                    stored::evict(nats, held, &why).await?;
                    last = Some(CallError::Api(error));
                    continue;
                }
                return match held.run_id {
                    Some(id) if id == run.run_id => Ok(Published::Duplicate),
                    Some(id) => Ok(Published::Occupied(id)),
                    // Not one of ours: a worker takes it to the dead letters.
                    None => Err(nats.failed(
                        &operation,
                        format!("the subject {subject} is occupied by a message without a run id; a worker of the queue removes it"),
                    )),
                };
            }
            Err(error @ CallError::Nobody(_)) => {
                if matches!(last, Some(CallError::Nobody(_))) {
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                nats.setup.doubt(&nats.names.jobs_stream());
                nats.ensure(Stream::Jobs).await?;
                last = Some(error);
            }
            Err(error) => return Err(nats.error(&operation, error)),
        }
    }
    Err(match last {
        Some(error) => nats.error(&operation, error),
        None => nats.failed(&operation, "it was not tried".to_owned()),
    })
}

/// The message id, and the signature if there is a key.
fn headers(nats: &NatsBroker, run: &Outgoing, subject: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    match &nats.authority {
        None => headers.insert(MESSAGE_ID, run.run_id.to_string()),
        Some(authority) => {
            let signer = authority.signer();
            headers.insert(MESSAGE_ID, signer.message_id(&run.run_id));
            headers.insert(SIGNATURE_HEADER, signer.sign(subject, &run.payload));
        }
    }
    headers
}
