//! Which run a unique key belongs to. A key is kept in a bucket that forgets it some time after its
//! `for` is over.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Broker, BrokerError, Bucket, Cas, Durability, Lifetime, Slot};
use crate::{
    job::{Holds, JobName, QueueName},
    run::{RunId, RunMessage, RunRecord, RunState},
};

/// How often a contended key is tried.
const TRIES: usize = 20;
/// A run that does not exist so long after its key was taken was never published.
const ON_ITS_WAY: TimeDelta = TimeDelta::seconds(30);
/// A run that does not exist so long after its key was taken may have ended and been forgotten.
const FORGOTTEN: TimeDelta = TimeDelta::days(6);

/// A request for a run that may be there already.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// The new run, if it is to be one.
    pub run_id: RunId,
    /// Its route.
    pub queue: QueueName,
    /// What it is the same as, within its job.
    pub key: String,
    /// For how long.
    pub lasts: Duration,
    /// In which state of the first run.
    pub holds: Holds,
    /// Now.
    pub now: DateTime<Utc>,
}

/// The value of a unique key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Owner {
    run_id: RunId,
    queue: QueueName,
    at: DateTime<Utc>,
    until: DateTime<Utc>,
}

/// Takes the key for the new run; or returns the run that it belongs to. Whoever gets it publishes the
/// run at once. A crash in between leaves a key without a run, which is free again after half a minute.
pub async fn claim_key(broker: &dyn Broker, claim: &Claimed) -> Result<Option<RunId>, BrokerError> {
    let bucket = Bucket::Unique(Lifetime::of(claim.lasts));
    let key = key(claim.run_id.job(), &claim.key);
    let lasts = TimeDelta::from_std(claim.lasts).unwrap_or(TimeDelta::MAX);
    let owner = Owner {
        run_id: claim.run_id.clone(),
        queue: claim.queue.clone(),
        at: claim.now,
        until: claim
            .now
            .checked_add_signed(lasts)
            .unwrap_or(DateTime::<Utc>::MAX_UTC),
    };
    let value = serde_json::to_vec(&owner).map_err(|error| BrokerError::Failed {
        broker: broker.describe(),
        operation: format!("write {key}"),
        reason: error.to_string(),
    })?;
    let mut revision = None;
    for _ in 0..TRIES {
        let done = broker
            .compare_and_set(bucket, &key, revision, value.clone(), Durability::Power)
            .await?;
        if let Cas::Done(_) = done {
            return Ok(None);
        }
        let Some(entry) = broker.get(bucket, &key).await? else {
            revision = None;
            continue;
        };
        // One that is not understood is taken over.
        if let Ok(first) = serde_json::from_slice::<Owner>(&entry.value)
            && (first.run_id == claim.run_id || is_held(broker, &first, claim).await?)
        {
            let is_other = first.run_id != claim.run_id;
            return Ok(is_other.then_some(first.run_id));
        }
        revision = Some(entry.revision);
    }
    Err(BrokerError::Full {
        broker: broker.describe(),
        operation: format!("take the unique key `{}`", claim.key),
        reason: "others kept taking it".to_owned(),
    })
}

/// Whether the key still belongs to its first run.
async fn is_held(broker: &dyn Broker, first: &Owner, claim: &Claimed) -> Result<bool, BrokerError> {
    if claim.now >= first.until {
        return Ok(false);
    }
    let run_id = &first.run_id;
    let entry = broker.get(Bucket::Runs, &run_id.key()).await?;
    let record = entry.and_then(|entry| serde_json::from_slice::<RunRecord>(&entry.value).ok());
    if let Some(record) = record {
        return Ok(is_covered(claim.holds, &record));
    }
    for slot in [Slot::Run, Slot::Job, Slot::Next] {
        let stored = broker.occupant(&first.queue, run_id, slot).await?;
        let stored = stored.and_then(|stored| RunMessage::decode(&stored.payload).ok());
        if stored.is_some_and(|message| message.run_id == *run_id) {
            return Ok(true);
        }
    }
    let age = claim.now - first.at;
    Ok(age <= ON_ITS_WAY || (claim.holds == Holds::Finished && age > FORGOTTEN))
}

fn is_covered(holds: Holds, record: &RunRecord) -> bool {
    match holds {
        Holds::Queued => record.state == RunState::Queued && record.started_at.is_none(),
        Holds::Running => !record.state.is_final(),
        Holds::Finished => true,
    }
}

/// Gives a key back whose run could not be published.
pub async fn give_key_back(broker: &dyn Broker, claim: &Claimed) -> Result<(), BrokerError> {
    let bucket = Bucket::Unique(Lifetime::of(claim.lasts));
    let key = key(claim.run_id.job(), &claim.key);
    let Some(entry) = broker.get(bucket, &key).await? else {
        return Ok(());
    };
    match serde_json::from_slice::<Owner>(&entry.value) {
        Ok(owner) if owner.run_id == claim.run_id => broker.delete(bucket, &key).await,
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Half of a SHA-256 is enough: whoever finds two texts with the same one gets one run for both.
fn key(job: &JobName, text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    format!("{job}.{}", URL_SAFE_NO_PAD.encode(&digest[..16]))
}
