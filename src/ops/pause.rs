//! Pausing and resuming jobs. Beat takes it over before its next step.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{OpsError, find_job};
use crate::{
    broker::{Broker, Bucket},
    job::JobName,
    plan::{PAUSE_PREFIX, Pause},
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

/// Skips the ticks of a job after `now`. A pause that is in force goes on, with the new end and
/// reason.
pub async fn pause(
    broker: &dyn Broker,
    job: &JobName,
    until: Option<DateTime<Utc>>,
    reason: Option<String>,
    now: DateTime<Utc>,
) -> Result<PausedJob, OpsError> {
    find_job(broker, job).await?;
    let before = read(broker, job).await?;
    let in_force = before.filter(|pause| pause.covers(now));
    let pause = Pause {
        since: in_force.map_or(now, |pause| pause.since),
        until,
        reason,
        catch_up: false,
    };
    write(broker, job, pause).await
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
    let in_force = read(broker, job).await?;
    let in_force = in_force.filter(|pause| pause.covers(now));
    let Some(pause) = in_force else {
        return Err(OpsError::NotPaused(job.clone()));
    };
    let over = Pause {
        until: Some(now),
        catch_up: skipped == Skipped::MadeUpFor,
        ..pause
    };
    write(broker, job, over).await
}

async fn read(broker: &dyn Broker, job: &JobName) -> Result<Option<Pause>, OpsError> {
    let entry = broker.get(Bucket::State, &key(job)).await?;
    Ok(entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()))
}

async fn write(broker: &dyn Broker, job: &JobName, pause: Pause) -> Result<PausedJob, OpsError> {
    let value = serde_json::to_vec(&pause).map_err(|error| OpsError::Foreign {
        what: "pause".to_owned(),
        reason: error.to_string(),
    })?;
    broker.put(Bucket::State, &key(job), value).await?;
    let job = job.clone();
    Ok(PausedJob { job, pause })
}

fn key(job: &JobName) -> String {
    format!("{PAUSE_PREFIX}{job}")
}
