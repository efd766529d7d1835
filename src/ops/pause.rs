//! Pausing and resuming: of jobs, which beat takes over before its next step, and of queues, of which
//! workers hear.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{OpsError, find_job};
use crate::{
    broker::{self, Broker, Bucket, Entry},
    job::{JobName, QueueName},
    plan::{PAUSE_PREFIX, Pause, QUEUE_PAUSE_PREFIX},
};

/// A job with its pause.
#[derive(Debug, Clone, Serialize)]
pub struct PausedJob {
    /// The job.
    pub job: JobName,
    /// Its pause, which may be over.
    pub pause: Pause,
}

/// What becomes of the ticks that a pause has skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skipped {
    /// They stay skipped.
    Stay,
    /// Those that the job's `catch_up` asks for are run.
    MadeUpFor,
}

/// A queue with its pause.
#[derive(Debug, Clone, Serialize)]
pub struct PausedQueue {
    /// The queue.
    pub queue: QueueName,
    /// Its pause, which may be over.
    pub pause: Pause,
}

/// A new pause, or a pause with another end and reason.
#[derive(Debug, Clone)]
pub struct NewPause {
    /// When it ends by itself.
    pub until: Option<DateTime<Utc>>,
    /// Why, for people.
    pub reason: Option<String>,
    /// Now.
    pub now: DateTime<Utc>,
}

/// Skips the ticks of a job after `now`. A pause that is in force goes on, with the new end and
/// reason.
pub async fn pause(
    broker: &dyn Broker,
    job: &JobName,
    new: NewPause,
) -> Result<PausedJob, OpsError> {
    find_job(broker, job).await?;
    let pause = begin(broker, &key(job), new).await?;
    let job = job.clone();
    Ok(PausedJob { job, pause })
}

/// Ends the pause of a job: it goes on from now. What was skipped stays skipped, or is made up for as
/// far as the job's `catch_up` has it.
pub async fn resume(
    broker: &dyn Broker,
    job: &JobName,
    skipped: Skipped,
    now: DateTime<Utc>,
) -> Result<PausedJob, OpsError> {
    find_job(broker, job).await?;
    let Some(pause) = end(broker, &key(job), skipped, now).await? else {
        return Err(OpsError::NotPaused(job.to_string()));
    };
    let job = job.clone();
    Ok(PausedJob { job, pause })
}

/// Has workers take nothing more from a queue, known or not. What is running goes on, what is published
/// waits.
pub async fn pause_queue(
    broker: &dyn Broker,
    queue: &QueueName,
    new: NewPause,
) -> Result<PausedQueue, OpsError> {
    let pause = begin(broker, &queue_key(queue), new).await?;
    let queue = queue.clone();
    Ok(PausedQueue { queue, pause })
}

/// Has workers take from a queue again.
pub async fn resume_queue(
    broker: &dyn Broker,
    queue: &QueueName,
    now: DateTime<Utc>,
) -> Result<PausedQueue, OpsError> {
    let key = queue_key(queue);
    let Some(pause) = end(broker, &key, Skipped::Stay, now).await? else {
        return Err(OpsError::NotPaused(queue.to_string()));
    };
    // There is nothing to look back for.
    broker.delete(Bucket::State, &key).await?;
    let queue = queue.clone();
    Ok(PausedQueue { queue, pause })
}

async fn begin(broker: &dyn Broker, key: &str, new: NewPause) -> Result<Pause, OpsError> {
    let before = read(broker, key).await?.and_then(Result::ok);
    let in_force = before.filter(|pause| pause.covers(new.now));
    let pause = Pause {
        since: in_force.map_or(new.now, |pause| pause.since),
        until: new.until,
        reason: new.reason,
        catch_up: false,
    };
    write(broker, key, pause).await
}

/// `None` if there is no pause in force.
async fn end(
    broker: &dyn Broker,
    key: &str,
    skipped: Skipped,
    now: DateTime<Utc>,
) -> Result<Option<Pause>, OpsError> {
    let found = read(broker, key).await?;
    // What one that is not understood has skipped is not known.
    let is_understood = matches!(found, Some(Ok(_)));
    let found = found.map(|found| found.unwrap_or_else(|NotUnderstood| Pause::not_understood()));
    let Some(pause) = found.filter(|pause| pause.covers(now)) else {
        return Ok(None);
    };
    let over = Pause {
        until: Some(now),
        catch_up: is_understood && skipped == Skipped::MadeUpFor,
        ..pause
    };
    write(broker, key, over).await.map(Some)
}

/// The queues whose pause is in force, or not understood: workers take nothing from those either.
pub(super) async fn paused_queues(
    broker: &dyn Broker,
    now: DateTime<Utc>,
) -> Result<BTreeMap<QueueName, Pause>, OpsError> {
    let entries = broker::list(broker, Bucket::State, QUEUE_PAUSE_PREFIX).await?;
    let read = |entry: Entry| {
        let queue = entry.key.strip_prefix(QUEUE_PAUSE_PREFIX)?.parse().ok()?;
        let pause = serde_json::from_slice(&entry.value);
        let pause = pause.unwrap_or_else(|_| Pause::not_understood());
        pause.covers(now).then_some((queue, pause))
    };
    Ok(entries.into_iter().filter_map(read).collect())
}

/// What is there is no pause.
struct NotUnderstood;

async fn read(
    broker: &dyn Broker,
    key: &str,
) -> Result<Option<Result<Pause, NotUnderstood>>, OpsError> {
    let entry = broker.get(Bucket::State, key).await?;
    Ok(entry.map(|entry| serde_json::from_slice(&entry.value).map_err(|_| NotUnderstood)))
}

async fn write(broker: &dyn Broker, key: &str, pause: Pause) -> Result<Pause, OpsError> {
    let value = serde_json::to_vec(&pause).map_err(|error| OpsError::Foreign {
        what: "pause".to_owned(),
        reason: error.to_string(),
    })?;
    broker.put(Bucket::State, key, value).await?;
    Ok(pause)
}

fn key(job: &JobName) -> String {
    format!("{PAUSE_PREFIX}{job}")
}

fn queue_key(queue: &QueueName) -> String {
    format!("{QUEUE_PAUSE_PREFIX}{queue}")
}
