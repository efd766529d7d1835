//! Running again what has ended.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

use super::{
    DeadFilter, LetterRef, OpsError, dead::retry_dead, definition::find_job_to_run, runs::find_run,
    submit::left_queues,
};
use crate::{
    broker::{self, Broker, Candidate, Published},
    job::Overlap,
    run::{RunId, RunMessage, RunRequest, RunState},
};

/// What is run again.
#[derive(Debug, Clone)]
pub(super) struct Original {
    pub(super) run_id: RunId,
    pub(super) parent: Option<RunId>,
    pub(super) args: Map<String, Value>,
    pub(super) scheduled_for: DateTime<Utc>,
    /// As it was published, if that is still known.
    pub(super) message: Option<RunMessage>,
}

/// Runs a run again that has ended: as its job is defined now, with the arguments and the tick of
/// then. If it became a dead letter, the letter is gone afterwards. Returns the new run.
pub async fn retry(
    broker: &dyn Broker,
    run_id: &RunId,
    unique: Uuid,
    now: DateTime<Utc>,
) -> Result<RunId, OpsError> {
    let record = find_run(broker, run_id).await?;
    if !record.state.is_final() {
        return Err(OpsError::StillLive {
            run: run_id.clone(),
            state: record.state,
        });
    }
    if record.state == RunState::Dead {
        let filter = DeadFilter {
            letters: vec![LetterRef::Run(run_id.clone())],
            ..DeadFilter::default()
        };
        let decided = retry_dead(broker, &filter, now).await?;
        if let Some(run) = decided.iter().find_map(|one| one.retried_as.clone()) {
            return Ok(run);
        }
        // Its letter was decided upon before, or pushed out by newer ones.
    }
    let original = Original {
        run_id: record.run_id,
        parent: record.parent,
        args: record.args,
        scheduled_for: record.scheduled_for,
        message: None,
    };
    again(broker, original, unique, now).await
}

/// The id of the run that a dead letter becomes: the same each time, so that it becomes one only.
pub(super) fn unique_for(run_id: &RunId, sequence: u64, at: DateTime<Utc>) -> Uuid {
    let text = format!("{run_id} {sequence} {at}");
    let digest = Sha256::digest(text.as_bytes());
    let mut bits = [0; 10];
    bits.copy_from_slice(&digest[..10]);
    let milliseconds = u64::try_from(at.timestamp_millis()).unwrap_or(0);
    Builder::from_unix_timestamp_millis(milliseconds, &bits).into_uuid()
}

/// Publishes it. A job that is not defined any more is run as it was.
pub(super) async fn again(
    broker: &dyn Broker,
    original: Original,
    unique: Uuid,
    now: DateTime<Utc>,
) -> Result<RunId, OpsError> {
    let run_id = RunId::manual(original.run_id.job().clone(), unique);
    let (message, overlap, left) = match find_job_to_run(broker, run_id.job()).await {
        Ok(job) => {
            let request = RunRequest {
                run_id: run_id.clone(),
                scheduled_for: original.scheduled_for,
                published_at: now,
                not_before: None,
                last_success: super::submit::last_success(broker, run_id.job()).await?,
                args: original.args,
                parent: original.parent,
            };
            let left = left_queues(broker, run_id.job()).await?;
            let message = RunMessage::for_job(&job, request);
            (message, job.policy.overlap, left)
        }
        Err(unknown @ OpsError::UnknownJob { .. }) => {
            let mut message = original.message.ok_or(unknown)?;
            message.run_id = run_id.clone();
            message.published_at = now;
            message.not_before = None;
            let overlap = message.overlap.unwrap_or(Overlap::Allow);
            (message, overlap, Vec::new())
        }
        Err(error) => return Err(error),
    };
    let message = RunMessage {
        // Somebody wants it now, however late it is.
        expires_at: None,
        retry_of: Some(original.run_id),
        ..message
    };
    let candidate = Candidate {
        run_id: run_id.clone(),
        queue: message.queue.clone(),
        overlap,
        payload: message.encode()?,
    };
    match broker::publish(broker, &candidate, &left, now).await? {
        Published::Stored | Published::Duplicate => Ok(run_id),
        // An earlier try got so far.
        Published::Occupied(live) if live == run_id => Ok(run_id),
        Published::Occupied(live) => Err(OpsError::Overlap {
            job: run_id.job().clone(),
            live,
        }),
    }
}
