//! What an operator can ask or do, once, for the command line and whatever else asks. Works on any
//! broker; prints nothing.

mod dead;
mod definition;
mod diff;
mod doctor;
mod error;
mod explain;
mod jobs;
mod locks;
mod logs;
mod machine;
mod monitoring;
mod pause;
mod retry;
mod runs;
mod snapshot;
mod state;
mod storing;
mod submit;

pub use dead::{
    DeadFilter, DeadGroup, DeadView, Decided, LetterRef, dead_groups, dead_letters, discard_dead,
    retry_dead, whole_dead_letters,
};
pub use definition::{find_job, is_signed};
pub use diff::{JobChange, JobDiff, ValueChange, diff};
pub use doctor::{Finding, doctor};
pub use error::OpsError;
pub use explain::{Account, Explanation, Obstacle, explain};
pub use jobs::{JobView, JobsView, jobs, ledgers};
pub use locks::{HolderView, LockView, WaiterView, locks, release_lock};
pub use logs::{LogLine, Position, read_logs};
pub use machine::{data_directory, open_files, open_secret, room_on_disk};
pub use monitoring::{durability, usual_monitors};
pub use pause::{
    NewPause, PausedJob, PausedQueue, Skipped, pause, pause_queue, resume, resume_queue,
};
pub use retry::retry;
pub use runs::{RunFilter, cancel, cancel_tree, find_run, runs, wait_for};
pub use snapshot::{read_snapshot, write_snapshot};
pub use state::{
    Amount, Extent, Import, InstallationState, NotAState, export_state, has_state, import_state,
    refuse_beside_a_beat,
};
pub use submit::{Same, Submission, Submitted, Submitter, submit};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    broker::{self, Broker, Bucket, QueueDepth},
    job::QueueName,
    plan::Pause,
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
    /// The pause that is in force.
    pub pause: Option<Pause>,
}

/// Every queue that the broker knows or a worker serves.
pub async fn queues(broker: &dyn Broker, now: DateTime<Utc>) -> Result<Vec<QueueView>, OpsError> {
    let depths = broker.queues().await?;
    let workers = workers(broker).await?;
    let mut names: std::collections::BTreeSet<QueueName> =
        depths.iter().map(|depth| depth.queue.clone()).collect();
    names.extend(workers.iter().flat_map(WorkerStatus::served));
    let paused = pause::paused_queues(broker, now).await?;
    names.extend(paused.keys().cloned());
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
            pause: paused.get(&queue).cloned(),
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
