//! Publishing as beat and `run` do it: a slot that is held by a run which has ended is freed.

use super::{Broker, BrokerError, Bucket, Outgoing, Pending, Published, Slot};
use crate::{
    job::{Job, Overlap, QueueName},
    run::{RunId, RunMessage, RunRecord},
};

impl Slot {
    /// The slot that a run of `job` occupies.
    pub fn of(job: &Job) -> Self {
        match job.policy.overlap {
            Overlap::Skip => Self::Job,
            Overlap::Allow => Self::Run,
        }
    }
}

/// Publishes. If the slot is held by a run whose record says that it has ended (its acknowledgement
/// was lost, or is on its way), that run is removed first. A slot is one of a queue: `left` are the
/// queues that the job had before, where a run of it may still be live.
pub async fn publish(
    broker: &dyn Broker,
    run: Outgoing,
    left: &[QueueName],
) -> Result<Published, BrokerError> {
    if run.slot == Slot::Job
        && let Some(live) = live_elsewhere(broker, &run, left).await?
    {
        return Ok(Published::Occupied(live));
    }
    let first = broker.publish(run.clone()).await?;
    let Published::Occupied(live) = &first else {
        return Ok(first);
    };
    let Some(stored) = broker.occupant(&run.queue, &run.run_id, run.slot).await? else {
        return broker.publish(run).await;
    };
    let message = RunMessage::decode(&stored.payload);
    let is_live = message.is_ok_and(|message| message.run_id == *live);
    if is_live && remove_if_ended(broker, &stored).await? {
        return broker.publish(run).await;
    }
    Ok(first)
}

async fn live_elsewhere(
    broker: &dyn Broker,
    run: &Outgoing,
    left: &[QueueName],
) -> Result<Option<RunId>, BrokerError> {
    for queue in left {
        let Some(stored) = broker.occupant(queue, &run.run_id, run.slot).await? else {
            continue;
        };
        if let Ok(message) = RunMessage::decode(&stored.payload)
            && message.run_id != run.run_id
            && !remove_if_ended(broker, &stored).await?
        {
            return Ok(Some(message.run_id));
        }
    }
    Ok(None)
}

/// Removes a stored run whose record says that it has ended. Returns whether it did.
pub async fn remove_if_ended(broker: &dyn Broker, stored: &Pending) -> Result<bool, BrokerError> {
    let Ok(message) = RunMessage::decode(&stored.payload) else {
        // A worker takes it to the dead letters.
        return Ok(false);
    };
    let record = broker.get(Bucket::Runs, &message.run_id.key()).await?;
    let ended = record
        .and_then(|entry| serde_json::from_slice::<RunRecord>(&entry.value).ok())
        .is_some_and(|record| record.state.is_final());
    Ok(ended && broker.remove(stored).await?)
}
