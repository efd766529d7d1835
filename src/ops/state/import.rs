//! Puts what an installation knew into a broker.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Amount, InstallationState, StoredRun, dead_letters, has_state, is_of_a_process};
use crate::{
    broker::{self, Broker, Bucket, Candidate, Cas, DeadLetter, Durability, Pending, Published},
    job::{Job, JobName, Overlap},
    ops::OpsError,
    plan::{DEFINITION_PREFIX, IMPORTED_PREFIX, INSTALLATION_KEY},
    run::{Refusal, RunMessage, RunRecord, Standing},
};

/// How an import is to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Import {
    /// Also into a broker that has a state: its values are replaced, its runs stay.
    pub replace: bool,
    /// Sign what comes from a broker where nobody signs: who does so says that nobody else wrote to the file.
    pub sign_unsigned: bool,
}

/// Puts into a broker what an installation knew. One that has a watermark is refused, unless its values are to be
/// replaced; runs that it has stay either way.
pub async fn import_state(
    broker: &dyn Broker,
    state: &InstallationState,
    how: Import,
) -> Result<Amount, OpsError> {
    if !how.replace && has_state(broker).await? {
        return Err(OpsError::NotEmpty {
            broker: broker.describe(),
        });
    }
    // Another installation from here on: what beats kept of the one before is not to be taken for newer.
    let name = format!("{IMPORTED_PREFIX}{}", Uuid::new_v4());
    let name = name.into_bytes();
    broker.put(Bucket::State, INSTALLATION_KEY, name).await?;
    let mut amount = Amount::default();
    let mut overlaps: HashMap<JobName, Overlap> = HashMap::new();
    for value in &state.values {
        if value.key.starts_with(DEFINITION_PREFIX)
            && let Ok(job) = serde_json::from_str::<Job>(value.value.get())
        {
            overlaps.insert(job.name, job.policy.overlap);
        }
    }
    let mut letters = state.dead.clone();
    for run in &state.runs {
        // What nobody else could write to is its user's word.
        let is_taken = how.sign_unsigned && run.signature.is_none() && run.subject.is_empty();
        let not_vouched_for = (!is_taken).then(|| not_vouched_for(broker, run, state.exported_at));
        match not_vouched_for.flatten() {
            Some((letter, why)) => {
                amount.unsigned += usize::from(why == Refusal::Unsigned);
                letters.push(letter);
            }
            None => amount.runs += usize::from(import_run(broker, run, &overlaps).await?),
        }
    }
    // Those that are there, from an import that was cut off or because they never went, would be run again twice.
    let known = dead_letters(broker).await?;
    for letter in letters {
        if !known.contains(&letter) {
            broker.dead_letter(letter).await?;
            amount.dead += 1;
        }
    }
    for value in state
        .values
        .iter()
        .filter(|value| !is_of_a_process(&value.key))
    {
        let bytes = value.value.get().as_bytes().to_vec();
        broker.put(Bucket::State, &value.key, bytes).await?;
        amount.values += 1;
    }
    Ok(amount)
}

/// A stored run that would be signed here, though it may be of anybody: a person has to decide on it.
fn not_vouched_for(
    broker: &dyn Broker,
    run: &StoredRun,
    at: DateTime<Utc>,
) -> Option<(DeadLetter, Refusal)> {
    let authority = broker.authority()?;
    let stored = Pending {
        sequence: 0,
        queue: run.queue.clone(),
        payload: run.message.get().as_bytes().to_vec(),
        subject: run.subject.clone(),
        signature: run.signature.clone(),
    };
    let why = match stored.judged_by(authority) {
        Standing::Genuine => return None,
        Standing::Forged(why) => why,
        Standing::Unknown(key) => Refusal::Untrusted(key),
    };
    Some((DeadLetter::refusing(stored, &why, at), why))
}

/// Whether it was not there before.
async fn import_run(
    broker: &dyn Broker,
    run: &StoredRun,
    overlaps: &HashMap<JobName, Overlap>,
) -> Result<bool, OpsError> {
    let payload = run.message.get().as_bytes().to_vec();
    let Ok(message) = RunMessage::decode(&payload) else {
        return Ok(false);
    };
    if let Some(record) = &run.record {
        let key = message.run_id.key();
        let value = record.get().as_bytes().to_vec();
        let set = broker.compare_and_set(Bucket::Runs, &key, None, value, Durability::Power);
        if set.await? == Cas::Conflict && has_ended(broker, &key).await? {
            return Ok(false);
        }
    }
    let overlap = overlaps.get(message.run_id.job()).copied();
    let candidate = Candidate {
        run_id: message.run_id.clone(),
        queue: run.queue.clone(),
        // A run by hand of a job that is defined no longer is in nobody's way. Nothing is cancelled here.
        overlap: match overlap.unwrap_or(Overlap::Allow) {
            Overlap::Replace => Overlap::Queue,
            other => other,
        },
        payload,
    };
    let published = broker::publish(broker, &candidate, &[], message.published_at).await?;
    Ok(published == Published::Stored)
}

/// What became of a run is said by the record that is there. One without an end may be that of an import that
/// was cut off: then it is published now, and refused if it is stored already.
async fn has_ended(broker: &dyn Broker, key: &str) -> Result<bool, OpsError> {
    let entry = broker.get(Bucket::Runs, key).await?;
    let record = entry.map(|entry| serde_json::from_slice::<RunRecord>(&entry.value));
    Ok(matches!(record, Some(Ok(record)) if record.state.is_final()))
}
