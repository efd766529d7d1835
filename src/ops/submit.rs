//! Runs made by hand.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{OpsError, definition::find_job_to_run};
use crate::{
    broker::{self, Broker, Bucket, Candidate, Claimed, Published},
    job::{Holds, Job, JobName, Overlap, QueueName, Template},
    plan::{JOB_STATE_PREFIX, JobState},
    run::{LAST_RUN_PREFIX, LastRun, RunId, RunMessage, RunRequest},
};

/// A wish to run a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Laid over the job's own arguments.
    pub args: Map<String, Value>,
    /// Not to be started earlier than this.
    pub not_before: Option<DateTime<Utc>>,
    /// The run that asks for it.
    pub parent: Option<RunId>,
    /// What it is the same as, in place of what the job says.
    pub same: Option<Same>,
    /// Makes the id; version 7, so that ids sort by time.
    pub id: Uuid,
    /// Now.
    pub now: DateTime<Utc>,
}

/// Requests with the same key are for the same thing.
#[derive(Debug, Clone, PartialEq)]
pub struct Same {
    /// The key, within the job.
    pub key: String,
    /// For how long.
    pub lasts: Duration,
    /// In which state of the first run.
    pub holds: Holds,
}

/// A run that was accepted, or one that is the same and was there already.
#[derive(Debug, Clone, Serialize)]
pub struct Submitted {
    /// Its id.
    pub run_id: RunId,
    /// Its job.
    pub job: JobName,
    /// Its route.
    pub queue: QueueName,
    /// Whether it was there already, because of its unique key.
    pub existing: bool,
}

/// What many submissions of one job have in common.
#[derive(Debug)]
pub struct Submitter<'b> {
    broker: &'b dyn Broker,
    job: Job,
    left: Vec<QueueName>,
    last_success: Option<DateTime<Utc>>,
}

/// Publishes a run; returns after the broker has stored it.
pub async fn submit(
    broker: &dyn Broker,
    job: &JobName,
    wish: Submission,
) -> Result<Submitted, OpsError> {
    Submitter::prepare(broker, job).await?.submit(wish).await
}

impl<'b> Submitter<'b> {
    /// Looks up the job.
    pub async fn prepare(broker: &'b dyn Broker, job: &JobName) -> Result<Self, OpsError> {
        let job = find_job_to_run(broker, job).await?;
        Ok(Self {
            broker,
            left: left_queues(broker, &job.name).await?,
            last_success: last_success(broker, &job.name).await?,
            job,
        })
    }

    /// Refuses a job of which only one run is accepted at a time.
    pub fn check_many(&self) -> Result<(), OpsError> {
        match self.job.policy.overlap {
            Overlap::Allow => Ok(()),
            Overlap::Skip | Overlap::Queue | Overlap::Replace => {
                Err(OpsError::OneAtATime(self.job.name.clone()))
            }
        }
    }

    /// Publishes a run; returns after the broker has stored it.
    pub async fn submit(&self, wish: Submission) -> Result<Submitted, OpsError> {
        let (broker, job) = (self.broker, &self.job);
        let run_id = RunId::manual(job.name.clone(), wish.id);
        let request = RunRequest {
            run_id: run_id.clone(),
            scheduled_for: wish.not_before.unwrap_or(wish.now),
            published_at: wish.now,
            not_before: wish.not_before,
            last_success: self.last_success,
            args: wish.args,
            parent: wish.parent,
        };
        let message = RunMessage::for_job(job, request);
        check_arguments(job, &message)?;
        let candidate = Candidate {
            run_id: run_id.clone(),
            queue: job.queue.clone(),
            overlap: job.policy.overlap,
            payload: message.encode()?,
        };
        let submitted = |run_id, existing| Submitted {
            run_id,
            job: job.name.clone(),
            queue: job.queue.clone(),
            existing,
        };
        let claim = match wish.same.or_else(|| same(job, &message)) {
            Some(same) => Some(Claimed {
                run_id: run_id.clone(),
                queue: job.queue.clone(),
                key: same.key,
                lasts: same.lasts,
                holds: same.holds,
                now: wish.now,
            }),
            None => None,
        };
        if let Some(claim) = &claim
            && let Some(first) = broker::claim_key(broker, claim).await?
        {
            return Ok(submitted(first, true));
        }
        match broker::publish(broker, &candidate, &self.left, wish.now).await? {
            Published::Stored | Published::Duplicate => Ok(submitted(run_id, false)),
            Published::Occupied(live) => {
                if let Some(claim) = &claim {
                    broker::give_key_back(broker, claim).await?;
                }
                Err(OpsError::Overlap {
                    job: job.name.clone(),
                    live,
                })
            }
        }
    }
}

/// What the job itself says. Its placeholders were checked.
fn same(job: &Job, message: &RunMessage) -> Option<Same> {
    let unique = job.unique.as_deref()?;
    Some(Same {
        key: unique.key.render(message).ok()?,
        lasts: unique.lasts.get(),
        holds: unique.holds,
    })
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
    let unique = job.unique.iter().map(|unique| &unique.key);
    let templates = message.spec.templates().chain(unique);
    let needed = templates.flat_map(Template::arguments);
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
