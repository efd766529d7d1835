//! Publishing as beat and `run` do it, under the overlap rule of the job: a slot that is held by a
//! run which has ended is freed, and a run that is to be replaced is cancelled.

use chrono::{DateTime, Utc};

use super::{
    Broker, BrokerError, Bucket, Cas, Durability, Outgoing, Pending, Published, Revision, Slot,
};
use crate::{
    job::{Overlap, QueueName},
    run::{CANCEL_PREFIX, RunId, RunMessage, RunRecord, RunState},
};

/// How often a contended record or slot is tried.
const TRIES: usize = 10;
/// Among how many of the newest dead letters that of a run is looked for.
const LETTERS: usize = 1000;

impl Slot {
    const ALL: [Self; 3] = [Self::Job, Self::Next, Self::Run];

    /// The slots that a run may occupy under `overlap`, in the order in which they are tried.
    pub fn under(overlap: Overlap) -> &'static [Self] {
        match overlap {
            Overlap::Skip => &[Self::Job],
            Overlap::Queue | Overlap::Replace => &[Self::Job, Self::Next],
            Overlap::Allow => &[Self::Run],
        }
    }
}

/// A run that is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Also the message id.
    pub run_id: RunId,
    /// The route.
    pub queue: QueueName,
    /// What happens if a run of the job is live.
    pub overlap: Overlap,
    /// The encoded [`RunMessage`].
    pub payload: Vec<u8>,
}

impl Candidate {
    fn in_slot(&self, slot: Slot) -> Outgoing {
        Outgoing {
            run_id: self.run_id.clone(),
            queue: self.queue.clone(),
            slot,
            payload: self.payload.clone(),
        }
    }
}

/// Publishes under the overlap rule. If a slot is held by a run whose record says that it has ended
/// (its acknowledgement was lost, or is on its way), that run is removed first. A slot is one of a
/// queue: `left` are the queues that the job had before, where a run of it may still be live.
pub async fn publish(
    broker: &dyn Broker,
    run: &Candidate,
    left: &[QueueName],
    now: DateTime<Utc>,
) -> Result<Published, BrokerError> {
    match run.overlap {
        Overlap::Allow => broker.publish(run.in_slot(Slot::Run)).await,
        Overlap::Skip | Overlap::Queue => {
            let live = live_elsewhere(broker, run, left).await?;
            point!("publish-looked-elsewhere");
            match live {
                Some((_, live)) => Ok(Published::Occupied(live.run_id)),
                None => into_a_slot(broker, run).await,
            }
        }
        Overlap::Replace => replace(broker, run, left, now).await,
    }
}

/// Cancels what is live, then takes the slot that is free.
async fn replace(
    broker: &dyn Broker,
    run: &Candidate,
    left: &[QueueName],
    now: DateTime<Utc>,
) -> Result<Published, BrokerError> {
    let why = format!("replaced by {}", run.run_id);
    let cancel = async |(stored, message): (Pending, RunMessage)| {
        cancel_stored(broker, &stored, &message, &why, now).await
    };
    // A step that is repeated late must not cancel what has come after it.
    let record = broker.get(Bucket::Runs, &run.run_id.key()).await?;
    point!("publish-sought-record");
    if record.is_some() || is_stored(broker, run).await? {
        return Ok(Published::Duplicate);
    }
    let mut tries = TRIES;
    loop {
        if let Some(live) = live_elsewhere(broker, run, left).await? {
            point!("publish-before-cancel-elsewhere");
            cancel(live).await?;
            point!("publish-cancelled-elsewhere");
            // In another queue nothing makes the new run wait for it.
            if let Some((_, live)) = live_elsewhere(broker, run, left).await? {
                return Ok(Published::Occupied(live.run_id));
            }
        }
        for &slot in Slot::under(run.overlap) {
            if let Some(live) = other_run(broker, run, &run.queue, slot).await? {
                point!("publish-before-cancel");
                cancel(live).await?;
            }
        }
        point!("publish-cancelled");
        tries -= 1;
        match into_a_slot(broker, run).await? {
            // One that was cancelled has just been started, or another one has come.
            Published::Occupied(_) if tries > 0 => {}
            done => return Ok(done),
        }
    }
}

/// Stores the run in the first of its slots that is free.
async fn into_a_slot(broker: &dyn Broker, run: &Candidate) -> Result<Published, BrokerError> {
    let slots = Slot::under(run.overlap);
    // A step that is repeated late may find its run in the second slot, and the first one free.
    if slots.len() > 1 && is_stored(broker, run).await? {
        return Ok(Published::Duplicate);
    }
    point!("publish-before-slot");
    let mut last = None;
    for &slot in slots {
        match into(broker, run.in_slot(slot)).await? {
            Published::Occupied(live) => last = Some(Published::Occupied(live)),
            done => return Ok(done),
        }
    }
    match last {
        Some(occupied) => Ok(occupied),
        None => broker.publish(run.in_slot(Slot::Run)).await,
    }
}

async fn into(broker: &dyn Broker, run: Outgoing) -> Result<Published, BrokerError> {
    let first = broker.publish(run.clone()).await?;
    let Published::Occupied(live) = &first else {
        return Ok(first);
    };
    point!("publish-refused");
    let Some(stored) = broker.occupant(&run.queue, &run.run_id, run.slot).await? else {
        point!("publish-vanished");
        return broker.publish(run).await;
    };
    point!("publish-in-the-way");
    let message = RunMessage::decode(&stored.payload);
    let is_live = message.is_ok_and(|message| message.run_id == *live);
    if is_live && remove_if_ended(broker, &stored).await? {
        point!("publish-freed");
        return broker.publish(run).await;
    }
    Ok(first)
}

/// Whether this very run is stored where it would be stored now.
async fn is_stored(broker: &dyn Broker, run: &Candidate) -> Result<bool, BrokerError> {
    is_in(broker, &run.run_id, &run.queue, Slot::under(run.overlap)).await
}

/// Whether a run is stored in any slot of one of `queues`: where it was published before its job got another queue or
/// another `overlap`, too.
pub async fn is_stored_in<'a>(
    broker: &dyn Broker,
    run_id: &RunId,
    queues: impl Iterator<Item = &'a QueueName>,
) -> Result<bool, BrokerError> {
    for queue in queues {
        if is_in(broker, run_id, queue, &Slot::ALL).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn is_in(
    broker: &dyn Broker,
    run_id: &RunId,
    queue: &QueueName,
    slots: &[Slot],
) -> Result<bool, BrokerError> {
    for &slot in slots {
        let stored = broker.occupant(queue, run_id, slot).await?;
        point!("publish-sought-run");
        let message = stored.and_then(|stored| RunMessage::decode(&stored.payload).ok());
        if message.is_some_and(|message| message.run_id == *run_id) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The run in a slot, if it is another one than `run` and has not ended.
async fn other_run(
    broker: &dyn Broker,
    run: &Candidate,
    queue: &QueueName,
    slot: Slot,
) -> Result<Option<(Pending, RunMessage)>, BrokerError> {
    let Some(stored) = broker.occupant(queue, &run.run_id, slot).await? else {
        return Ok(None);
    };
    point!("publish-other-found");
    match RunMessage::decode(&stored.payload) {
        Ok(message)
            if message.run_id != run.run_id && !remove_if_ended(broker, &stored).await? =>
        {
            Ok(Some((stored, message)))
        }
        Ok(_) | Err(_) => Ok(None),
    }
}

async fn live_elsewhere(
    broker: &dyn Broker,
    run: &Candidate,
    left: &[QueueName],
) -> Result<Option<(Pending, RunMessage)>, BrokerError> {
    for queue in left {
        for &slot in Slot::under(run.overlap) {
            let live = other_run(broker, run, queue, slot).await?;
            if live.is_some() {
                return Ok(live);
            }
        }
    }
    Ok(None)
}

async fn cancel_stored(
    broker: &dyn Broker,
    stored: &Pending,
    message: &RunMessage,
    why: &str,
    at: DateTime<Utc>,
) -> Result<(), BrokerError> {
    for _ in 0..TRIES {
        let found = broker.get(Bucket::Runs, &message.run_id.key()).await?;
        point!("publish-record-read");
        let (record, revision) = match found {
            None => (RunRecord::queued(message), None),
            Some(entry) => match serde_json::from_slice(&entry.value) {
                Ok(record) => (record, Some(entry.revision)),
                // A worker takes it to the dead letters.
                Err(_) => return Ok(()),
            },
        };
        let about = (revision, Some(stored));
        if request_cancel(broker, record, about, Some(why), at)
            .await?
            .is_some()
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Asks for the end of a run: what waits has ended with this, what is running is ended by its
/// worker. Returns the record as it is now; `None` if it changed meanwhile. A run that has ended
/// stays as it is.
pub async fn request_cancel(
    broker: &dyn Broker,
    mut record: RunRecord,
    (revision, stored): (Option<Revision>, Option<&Pending>),
    why: Option<&str>,
    at: DateTime<Utc>,
) -> Result<Option<RunRecord>, BrokerError> {
    let run_id = record.run_id.clone();
    if record.request_cancel(at, why) {
        let value = serde_json::to_vec(&record).map_err(|error| BrokerError::Failed {
            broker: broker.describe(),
            operation: format!("write the record of {run_id}"),
            reason: error.to_string(),
        })?;
        let key = run_id.key();
        let done = broker
            .compare_and_set(Bucket::Runs, &key, revision, value, Durability::Power)
            .await?;
        point!("publish-cancel-recorded");
        if done == Cas::Conflict {
            return Ok(None);
        }
    }
    // The record decides; these two only make it quick.
    if record.state == RunState::Running {
        let key = format!("{CANCEL_PREFIX}{}", run_id.key());
        broker.put(Bucket::Workers, &key, Vec::new()).await?;
        point!("publish-worker-told");
    } else if let Some(stored) = stored
        && has_ended(broker, &run_id).await?
    {
        point!("publish-before-removal");
        broker.remove(stored).await?;
        point!("publish-removed");
    }
    Ok(Some(record))
}

/// A run that has to end before `message`, delivered as `sequence`, may be started; runs of its job
/// start in the order in which they were stored.
pub async fn older_run(
    broker: &dyn Broker,
    queue: &QueueName,
    message: &RunMessage,
    sequence: u64,
) -> Result<Option<RunId>, BrokerError> {
    let Some(overlap) = message.overlap else {
        return Ok(None);
    };
    for &slot in Slot::under(overlap) {
        let stored = broker.occupant(queue, &message.run_id, slot).await?;
        let Some(stored) = stored.filter(|stored| stored.sequence < sequence) else {
            continue;
        };
        // One that has ended and is still stored is swept away by beat; a worker may not be permitted to.
        if let Ok(older) = RunMessage::decode(&stored.payload)
            && !has_ended(broker, &older.run_id).await?
        {
            return Ok(Some(older.run_id));
        }
    }
    Ok(None)
}

/// Removes a stored run whose record says that it has ended. Returns whether it did. A dead one stays until its letter is
/// written: whoever is given it makes up for that.
pub async fn remove_if_ended(broker: &dyn Broker, stored: &Pending) -> Result<bool, BrokerError> {
    let Ok(message) = RunMessage::decode(&stored.payload) else {
        // A worker takes it to the dead letters.
        return Ok(false);
    };
    if !has_ended(broker, &message.run_id).await? {
        return Ok(false);
    }
    point!("publish-ended");
    broker.remove(stored).await
}

async fn has_ended(broker: &dyn Broker, run_id: &RunId) -> Result<bool, BrokerError> {
    let record = broker.get(Bucket::Runs, &run_id.key()).await?;
    let record = record.and_then(|entry| serde_json::from_slice::<RunRecord>(&entry.value).ok());
    match record.map(|record| record.state) {
        Some(RunState::Dead) => {
            point!("publish-dead");
            is_buried(broker, run_id).await
        }
        Some(state) => Ok(state.is_final()),
        None => Ok(false),
    }
}

async fn is_buried(broker: &dyn Broker, run_id: &RunId) -> Result<bool, BrokerError> {
    match broker.dead_letters(None, LETTERS).await {
        Ok(letters) => {
            // A message that was refused may have called itself anything.
            let mut told = letters
                .iter()
                .filter(|(_, letter)| letter.refused.is_none());
            Ok(told.any(|(_, letter)| letter.run_id.as_ref() == Some(run_id)))
        }
        Err(BrokerError::NotPermitted { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
