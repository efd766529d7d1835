//! Says that this worker is there, and what it does; and knows for how long another one has said nothing.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Shared;
use crate::{
    broker::{BrokerError, Bucket, Revision},
    clock,
    job::Seconds,
    run::WorkerStatus,
};

/// How often at least.
const SELDOM: Duration = Duration::from_secs(10);
/// How often at most.
const OFTEN: Duration = Duration::from_millis(100);
/// How many marks are kept: several leases' worth, as one is made every third of a lease.
const MARKS: usize = 64;

/// When the broker stored what this worker said of itself. What another worker said bears a revision of the same bucket, so
/// these tell for how long that one has been silent at least, whatever the clocks of the machines show.
#[derive(Debug)]
pub(super) struct Said(Mutex<Marks>);

#[derive(Debug)]
struct Marks {
    /// When the last one that was stored was sent.
    last: Instant,
    /// The revision of each, and when it was stored at the latest. Both grow.
    stored: VecDeque<(Revision, Instant)>,
}

impl Said {
    /// Nothing so far.
    pub(super) fn nothing(now: Instant) -> Self {
        Self(Mutex::new(Marks {
            last: now,
            stored: VecDeque::new(),
        }))
    }

    /// What was sent at `asked` is stored by now.
    fn stored(&self, revision: Revision, asked: Instant, now: Instant) {
        let mut marks = self.marks();
        marks.last = asked;
        // The broker lost its data and counts anew.
        if marks.stored.back().is_some_and(|last| last.0 >= revision) {
            marks.stored.clear();
        }
        if marks.stored.len() >= MARKS {
            marks.stored.pop_front();
        }
        marks.stored.push_back((revision, now));
    }

    /// For how long nothing was said, at least, by whoever said last what has `revision` at `now` or later.
    pub(super) fn silence_since(&self, revision: Revision, now: Instant) -> Duration {
        let marks = self.marks();
        let later = marks.stored.iter().find(|mark| mark.0 > revision);
        later.map_or(Duration::ZERO, |mark| now.saturating_duration_since(mark.1))
    }

    /// Whether the last that others can have heard of this worker is older than `limit`.
    pub(super) fn is_old(&self, limit: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.marks().last) >= limit
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a worker may be silent that does not say how long.
pub(super) fn silence_of(status: &WorkerStatus) -> Duration {
    let lease = status.lease.map_or(Duration::ZERO, Seconds::get);
    status.silence.map_or(lease + SELDOM, Seconds::get)
}

/// Says so until `stop`; then takes it back.
pub(super) async fn beat(shared: Arc<Shared>, drain: CancellationToken, stop: CancellationToken) {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let started_at = clock::now();
    let mut draining = false;
    let every = (shared.broker.lease() / 3).clamp(OFTEN, SELDOM);
    loop {
        let lease = shared.broker.lease();
        // What was renewed last just before the broker went away was renewed so much later than this was said.
        let silence = shared
            .registry
            .longest_lease()
            .max(Some(lease))
            .unwrap_or(lease)
            + every;
        let queues = shared.options.queues.borrow().clone();
        let mut status = WorkerStatus {
            id: shared.options.id.clone(),
            host: host.clone(),
            pid: std::process::id(),
            queues: queues.iter().map(ToString::to_string).collect(),
            concurrency: shared.options.concurrency,
            running: Vec::new(),
            started_at,
            seen_at: clock::now(),
            draining: drain.is_cancelled(),
            beat: shared.watchman.seen(),
            refused: shared.refused.count(),
            lease: Some(Seconds::new(lease)),
            silence: Some(Seconds::new(silence)),
        };
        status.name_running(shared.registry.running().into_iter());
        if let Err(error) = tell(&shared, &status).await {
            debug!(target: "orchestrator::worker", %error, "`workers` does not see this one now");
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(every) => {}
            () = drain.cancelled(), if !draining => draining = true,
            () = stop.cancelled() => break,
        }
    }
    if let Err(error) = shared
        .broker
        .delete(Bucket::Workers, &shared.options.id)
        .await
    {
        debug!(target: "orchestrator::worker", %error, "`workers` sees this one for another minute");
    }
}

async fn tell(shared: &Shared, status: &WorkerStatus) -> Result<(), BrokerError> {
    let Ok(value) = serde_json::to_vec(status) else {
        return Ok(());
    };
    let asked = clock::monotonic();
    let told = shared.broker.put(Bucket::Workers, &status.id, value);
    shared.said.stored(told.await?, asked, clock::monotonic());
    Ok(())
}
