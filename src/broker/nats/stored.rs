//! The stored runs, looked at from outside: who waits, who is in the way, how many there are.

use serde::Deserialize;
use serde_json::json;
use tracing::warn;

use super::{
    NatsBroker,
    api::{StoredMessage, code, is_an_answer},
    publish::MESSAGE_ID,
    setup::Stream,
    streams,
};
use crate::{
    broker::{BrokerError, DeadLetter, Pending, QueueDepth, Slot},
    clock,
    job::QueueName,
    run::{Refusal, RunId, SIGNATURE_HEADER, Standing},
};

pub(super) async fn pending(
    nats: &NatsBroker,
    from: u64,
    limit: usize,
) -> Result<Vec<Pending>, BrokerError> {
    const OPERATION: &str = "look at stored runs";
    if !nats.is_there(Stream::Jobs).await? {
        return Ok(Vec::new());
    }
    let (stream, subject) = (nats.names.jobs_stream(), nats.names.all_jobs());
    let (mut next, mut found) = (from.max(1), Vec::new());
    while found.len() < limit {
        let which = json!({ "seq": next, "next_by_subj": subject });
        let Some(message) = nats.stored_message(OPERATION, &stream, &which).await? else {
            break;
        };
        next = message.seq + 1;
        found.extend(as_pending(nats, &message));
    }
    Ok(found)
}

fn as_pending(nats: &NatsBroker, message: &StoredMessage) -> Option<Pending> {
    Some(Pending {
        sequence: message.seq,
        queue: nats.names.queue_of(&message.subject)?,
        payload: match is_an_answer(|name| message.header(name).is_some()) {
            // Whoever takes it tells of it.
            true => Vec::new(),
            false => message.payload(),
        },
        subject: message.subject.clone(),
        signature: message.header(SIGNATURE_HEADER),
    })
}

/// The message that holds a slot.
#[derive(Debug)]
pub(super) struct Occupant {
    pub(super) stored: Pending,
    /// The run id of its header.
    pub(super) run_id: Option<RunId>,
    /// Whose it is; `None` if nobody here can tell.
    pub(super) standing: Option<Standing>,
}

impl Occupant {
    /// Why nobody who may publish has published it.
    pub(super) fn forged(&self) -> Option<&Refusal> {
        match &self.standing {
            Some(Standing::Forged(why)) => Some(why),
            Some(Standing::Genuine | Standing::Unknown(_)) | None => None,
        }
    }
}

/// The message on the subject of a slot.
pub(super) async fn occupant(
    nats: &NatsBroker,
    queue: &QueueName,
    run_id: &RunId,
    slot: Slot,
) -> Result<Option<Occupant>, BrokerError> {
    if !nats.is_there(Stream::Jobs).await? {
        return Ok(None);
    }
    let subject = nats.names.run(queue, run_id, slot);
    let operation = format!("look at {subject}");
    let stream = nats.names.jobs_stream();
    let found = nats.last_message(&operation, &stream, &subject).await?;
    Ok(found.and_then(|message| {
        let stored = as_pending(nats, &message)?;
        let authority = nats.authority.as_ref();
        let standing = authority.map(|authority| stored.judged_by(authority));
        Some(Occupant {
            run_id: message.header(MESSAGE_ID).and_then(|id| run_id_in(&id)),
            stored,
            standing,
        })
    }))
}

/// Takes a message that nobody who may publish has published out of the way of those who may. A worker
/// would do the same, but later.
pub(super) async fn evict(
    nats: &NatsBroker,
    occupant: Occupant,
    why: &Refusal,
) -> Result<(), BrokerError> {
    let stored = occupant.stored;
    warn!(target: "orchestrator::broker", subject = stored.subject, sequence = stored.sequence,
        reason = %why, "a message is taken out of the slot that it has no right to");
    let stream = nats.names.jobs_stream();
    let operation = format!("remove message {} of {stream}", stored.sequence);
    let sequence = stored.sequence;
    let letter = DeadLetter::refusing(stored, why, clock::now());
    if let Err(error) = streams::dead_letter(nats, &letter).await {
        warn!(target: "orchestrator::broker", %error, "it does not become a dead letter");
    }
    nats.delete_message(&operation, &stream, sequence).await?;
    Ok(())
}

/// The run of a message id; one by a publisher with a key has its mark behind a dot.
fn run_id_in(id: &str) -> Option<RunId> {
    id.split('.').next()?.parse().ok()
}

pub(super) async fn remove(nats: &NatsBroker, pending: &Pending) -> Result<bool, BrokerError> {
    let stream = nats.names.jobs_stream();
    let operation = format!("remove message {} of {stream}", pending.sequence);
    let which = json!({ "seq": pending.sequence });
    let found = nats.stored_message(&operation, &stream, &which).await?;
    // A stream that was made anew counts from the beginning again.
    if found.is_none_or(|message| message.payload() != pending.payload) {
        return Ok(false);
    }
    nats.delete_message(&operation, &stream, pending.sequence)
        .await
}

#[derive(Deserialize)]
struct Consumers {
    total: usize,
    #[serde(default)]
    consumers: Option<Vec<Consumer>>,
}

#[derive(Deserialize)]
struct Consumer {
    name: String,
    num_pending: u64,
    num_ack_pending: u64,
}

/// Runs that are put off are held by nobody, but the server counts them with those that a worker
/// holds.
pub(super) async fn queues(nats: &NatsBroker) -> Result<Vec<QueueDepth>, BrokerError> {
    const OPERATION: &str = "list the queues";
    if !nats.is_there(Stream::Jobs).await? {
        return Ok(Vec::new());
    }
    let subject = format!("CONSUMER.LIST.{}", nats.names.jobs_stream());
    let (mut seen, mut found) = (0, Vec::new());
    loop {
        let page = nats
            .api::<Consumers>(OPERATION, &subject, &json!({ "offset": seen }))
            .await;
        let page = match page {
            Ok(page) => page,
            Err(error) if error.is(code::NO_STREAM) => {
                nats.setup.forget();
                return Ok(Vec::new());
            }
            Err(error) => return Err(nats.error(OPERATION, error)),
        };
        let consumers = page.consumers.unwrap_or_default();
        let empty = consumers.is_empty();
        seen += consumers.len();
        found.extend(consumers.into_iter().filter_map(|consumer| {
            Some(QueueDepth {
                queue: consumer.name.parse().ok()?,
                waiting: consumer.num_pending,
                running: consumer.num_ack_pending,
            })
        }));
        if empty || seen >= page.total {
            break;
        }
    }
    found.sort_by(|a, b| a.queue.cmp(&b.queue));
    Ok(found)
}
