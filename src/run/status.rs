//! What workers say of themselves.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::RunId;
use crate::job::{QueueName, Seconds};

/// The prefix of the keys `cancel.JOB.ID` in the workers bucket: whoever executes that run ends it.
/// The record decides, and is asked after every outage; the key, forgotten after a minute, only
/// makes it quick.
pub const CANCEL_PREFIX: &str = "cancel.";

/// How many running runs a worker names.
const NAMED: usize = 50;

/// What a worker says of itself, under its id in the workers bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its id.
    pub id: String,
    /// Its machine.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// What it serves, as `NAME` or `NAME:WEIGHT`.
    pub queues: Vec<String>,
    /// How many runs it executes at once.
    pub concurrency: usize,
    /// What it executes; at most fifty are named.
    pub running: Vec<RunId>,
    /// Since when it is there.
    pub started_at: DateTime<Utc>,
    /// When it said this.
    pub seen_at: DateTime<Utc>,
    /// Whether it takes nothing new.
    pub draining: bool,
    /// What it knows of beat.
    #[serde(default)]
    pub beat: BeatSeen,
    /// How many messages it refused since it started, because they are no runs.
    #[serde(default)]
    pub refused: u64,
    /// The lease that it was told; the queue may have another one.
    #[serde(default)]
    pub lease: Option<Seconds>,
    /// How long it may say nothing before what it executes may be given to another worker, should it come by another
    /// message.
    #[serde(default)]
    pub silence: Option<Seconds>,
}

/// What a worker knows of beat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatSeen {
    /// How long beat has been stopped, silent or stuck, or has waited for its clock; `None`: it is well, or none was
    /// ever seen.
    pub stalled_for: Option<Seconds>,
    /// Which of these, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How often it stalled since this worker started.
    pub stalls: u64,
}

impl WorkerStatus {
    /// The queues that it serves.
    pub fn served(&self) -> impl Iterator<Item = QueueName> {
        let names = self.queues.iter().map(|share| share.split(':').next());
        names.filter_map(|name| name?.parse().ok())
    }

    /// Whether it may execute a run that it began at `since`: it names it, or not all of them, or said this before.
    pub fn may_execute(&self, run: &RunId, since: DateTime<Utc>) -> bool {
        self.running.contains(run) || self.running.len() >= NAMED || self.seen_at <= since
    }

    /// Names the running runs, no more than are shown.
    pub fn name_running(&mut self, running: impl Iterator<Item = RunId>) {
        self.running = running.take(NAMED).collect();
    }
}
