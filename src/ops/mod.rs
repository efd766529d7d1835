//! What an operator can ask or do, once, for the command line and whatever else asks. Works on any
//! broker; prints nothing.

mod diff;
mod error;
mod explain;
mod jobs;
mod logs;
mod pause;
mod runs;
mod submit;

pub use diff::{JobChange, JobDiff, ValueChange, diff};
pub use error::OpsError;
pub use explain::{Account, Explanation, Obstacle, explain};
pub use jobs::{JobView, JobsView, find_job, jobs, ledgers};
pub use logs::{LogLine, Position, read_logs};
pub use pause::{PausedJob, Skipped, pause, resume};
pub use runs::{RunFilter, cancel, find_run, runs, wait_for};
pub use submit::{Submission, Submitted, submit};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    broker::{self, Broker, Bucket, DeadLetter, QueueDepth},
    job::QueueName,
    run::WorkerStatus,
};

/// A queue with who serves it.
#[derive(Debug, Clone, Serialize)]
pub struct QueueView {
    /// Its name.
    pub queue: QueueName,
    /// Runs that can be taken now or are put off.
    pub waiting: u64,
    /// Runs that a worker holds.
    pub running: u64,
    /// The workers that were heard of in the last minute and serve it.
    pub workers: Vec<String>,
}

/// Every queue that the broker knows or a worker serves.
pub async fn queues(broker: &dyn Broker) -> Result<Vec<QueueView>, OpsError> {
    let depths = broker.queues().await?;
    let workers = workers(broker).await?;
    let mut names: std::collections::BTreeSet<QueueName> =
        depths.iter().map(|depth| depth.queue.clone()).collect();
    names.extend(workers.iter().flat_map(WorkerStatus::served));
    let view = |queue: QueueName| {
        let depth = depths.iter().find(|depth| depth.queue == queue);
        let (waiting, running) = depth.map_or(
            (0, 0),
            |QueueDepth {
                 waiting, running, ..
             }| { (*waiting, *running) },
        );
        let serving = workers.iter().filter(|w| w.served().any(|q| q == queue));
        QueueView {
            waiting,
            running,
            workers: serving.map(|worker| worker.id.clone()).collect(),
            queue,
        }
    };
    Ok(names.into_iter().map(view).collect())
}

/// The workers that were heard of in the last minute, by id.
pub async fn workers(broker: &dyn Broker) -> Result<Vec<WorkerStatus>, OpsError> {
    let entries = broker::list(broker, Bucket::Workers, "").await?;
    // The bucket also holds words to workers, which are no statuses.
    let understood = entries
        .iter()
        .filter_map(|entry| serde_json::from_slice(&entry.value).ok());
    Ok(understood.collect())
}

/// A dead letter as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct DeadView {
    /// Its place in the dead letters.
    pub sequence: u64,
    /// The run, if it could be understood that far.
    pub run_id: Option<crate::run::RunId>,
    /// Where it came from.
    pub queue: QueueName,
    /// When it was given up.
    pub at: DateTime<Utc>,
    /// Why.
    pub reason: String,
    /// The beginning of the message as text, what is not text replaced.
    pub message: String,
}

/// How much of a dead letter's message is shown.
const SHOWN_MESSAGE: usize = 4096;

/// Up to `limit` dead letters, newest first.
pub async fn dead_letters(broker: &dyn Broker, limit: usize) -> Result<Vec<DeadView>, OpsError> {
    let letters = broker.dead_letters(limit).await?;
    let view = |(sequence, letter): (u64, DeadLetter)| {
        let shown = letter
            .payload
            .get(..SHOWN_MESSAGE)
            .unwrap_or(&letter.payload);
        DeadView {
            sequence,
            message: String::from_utf8_lossy(shown).into_owned(),
            run_id: letter.run_id,
            queue: letter.queue,
            at: letter.at,
            reason: letter.reason,
        }
    };
    Ok(letters.into_iter().map(view).collect())
}
