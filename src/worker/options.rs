//! What a worker is told when it is made.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{Gate, QueueShare};
use crate::{
    exec::{Cgroup, Player},
    health,
    job::Glob,
};

/// What a worker is called, what it serves and within which limits.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Distinguishes it from every other worker.
    pub id: String,
    /// What it serves, now and later.
    pub queues: watch::Receiver<Vec<QueueShare>>,
    /// How many runs it executes at once; at least 1.
    pub concurrency: usize,
    /// How long running jobs may go on once it drains.
    pub drain_timeout: Duration,
    /// Variables for every job, so that its own commands reach the same broker.
    pub hand_on: BTreeMap<String, String>,
    /// Where credentials are.
    pub credentials: Option<PathBuf>,
    /// What ends the jobs' processes if this one is killed; see [`Executor::start`].
    pub guardian: Option<PathBuf>,
    /// Whether and where jobs have control groups.
    pub cgroup: Cgroup,
    /// Where it says how it is.
    pub pulse: health::Pulse,
    /// The variables of this process that jobs are given beside the usual ones.
    pub pass_env: Arc<[Glob]>,
    /// What it lets in, now and later.
    pub gate: watch::Receiver<Arc<Gate>>,
    /// Plays every attempt in place of executing it: to measure all the rest, or to try it in virtual time.
    pub player: Option<Arc<dyn Player>>,
}

impl WorkerOptions {
    /// Serves these queues, eight runs at once.
    pub fn new(id: String, queues: Vec<QueueShare>) -> Self {
        Self::following(id, watch::channel(queues).1)
    }

    /// Serves the queues that `queues` says, whenever it says others.
    pub fn following(id: String, queues: watch::Receiver<Vec<QueueShare>>) -> Self {
        Self {
            id,
            queues,
            concurrency: 8,
            drain_timeout: Duration::from_secs(60),
            hand_on: BTreeMap::new(),
            credentials: None,
            guardian: None,
            cgroup: Cgroup::Auto,
            pulse: health::Pulse::unwatched("worker"),
            pass_env: Arc::default(),
            gate: watch::channel(Arc::new(Gate::default())).1,
            player: None,
        }
    }
}
