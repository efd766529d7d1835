//! Runs made by hand.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{OpsError, find_job};
use crate::{
    broker::{self, Broker, Bucket, Candidate, Published},
    job::{Job, JobName, QueueName, Template},
    plan::{JOB_STATE_PREFIX, JobState},
    run::{LAST_RUN_PREFIX, LastRun, RunId, RunMessage, RunRequest},
};

/// A wish to run a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// The job.
    pub job: JobName,
    /// Laid over the job's own arguments.
    pub args: Map<String, Value>,
    /// Not to be started earlier than this.
    pub not_before: Option<DateTime<Utc>>,
    /// The run that asks for it.
    pub parent: Option<RunId>,
    /// Makes the id; version 7, so that ids sort by time.
    pub unique: Uuid,
    /// Now.
    pub now: DateTime<Utc>,
}

/// A run that was accepted.
#[derive(Debug, Clone, Serialize)]
pub struct Submitted {
    /// Its id.
    pub run_id: RunId,
    /// Its job.
    pub job: JobName,
    /// Its route.
    pub queue: QueueName,
}

/// Publishes a run; returns after the broker has stored it.
pub async fn submit(broker: &dyn Broker, wish: Submission) -> Result<Submitted, OpsError> {
    let job = find_job(broker, &wish.job).await?;
    let run_id = RunId::manual(job.name.clone(), wish.unique);
    let request = RunRequest {
        run_id: run_id.clone(),
        scheduled_for: wish.not_before.unwrap_or(wish.now),
        published_at: wish.now,
        not_before: wish.not_before,
        last_success: last_success(broker, &job.name).await?,
        args: wish.args,
        parent: wish.parent,
    };
    let message = RunMessage::for_job(&job, request);
    check_arguments(&job, &message)?;
    let candidate = Candidate {
        run_id: run_id.clone(),
        queue: job.queue.clone(),
        overlap: job.policy.overlap,
        payload: message.encode()?,
    };
    let left = left_queues(broker, &job.name).await?;
    match broker::publish(broker, &candidate, &left, wish.now).await? {
        Published::Stored | Published::Duplicate => Ok(Submitted {
            run_id,
            job: job.name,
            queue: job.queue,
        }),
        Published::Occupied(live) => Err(OpsError::Overlap {
            job: job.name,
            live,
        }),
    }
}

/// When the job's last successful run started.
pub(super) async fn last_success(
    broker: &dyn Broker,
    job: &JobName,
) -> Result<Option<DateTime<Utc>>, OpsError> {
    let key = format!("{LAST_RUN_PREFIX}{job}");
    let last = broker.get(Bucket::State, &key).await?;
    let last = last.and_then(|entry| serde_json::from_slice::<LastRun>(&entry.value).ok());
    Ok(last.and_then(|last| Some(last.last_success?.started_at)))
}

/// The queues that the job had before, in which a run of it may still be live.
pub(super) async fn left_queues(
    broker: &dyn Broker,
    job: &JobName,
) -> Result<Vec<QueueName>, OpsError> {
    let key = format!("{JOB_STATE_PREFIX}{job}");
    let state = broker.get(Bucket::State, &key).await?;
    let state = state.and_then(|entry| serde_json::from_slice::<JobState>(&entry.value).ok());
    Ok(state.map_or_else(Vec::new, |state| state.left_queues))
}

/// Refuses at once what a worker could only fail with.
fn check_arguments(job: &Job, message: &RunMessage) -> Result<(), OpsError> {
    let needed = message.spec.templates().flat_map(Template::arguments);
    for argument in needed {
        if !message.spec.args.contains_key(argument) {
            return Err(OpsError::MissingArgument {
                job: job.name.clone(),
                argument: argument.to_owned(),
            });
        }
    }
    Ok(())
}
