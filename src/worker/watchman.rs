//! Watches whether beat is alive: a beat that stopped is noticed by those who wait for its runs.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::Shared;
use crate::{
    broker::{BrokerError, Bucket, Revision},
    clock,
    plan::{LEADER_KEY, Leader, Stall},
    run::BeatSeen,
};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(5);
/// How often a stall is told again.
const TELL_AGAIN: Duration = Duration::from_secs(600);

/// What this worker knows of beat.
#[derive(Debug, Default)]
pub(super) struct Watchman(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// The last sign of life, and when this worker saw it first.
    sign: Option<(Revision, Leader, Instant)>,
    stalled: Option<Stalled>,
    stalls: u64,
}

#[derive(Debug)]
struct Stalled {
    since: Instant,
    told_at: Instant,
}

impl Watchman {
    /// For the worker's own status.
    pub(super) fn seen(&self) -> BeatSeen {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let silent_for = |stalled: &Stalled| clock::monotonic() - stalled.since;
        BeatSeen {
            stalled_for: seen
                .stalled
                .as_ref()
                .map(silent_for)
                .map(crate::job::Seconds::new),
            stalls: seen.stalls,
        }
    }

    fn look(&self, found: Option<(Revision, Leader)>, now: Instant) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((revision, leader)) = found else {
            // None was ever here, or the broker was wiped: nothing can be said.
            return;
        };
        let since = match &seen.sign {
            Some((known, _, since)) if *known == revision => *since,
            _ => now,
        };
        let stall = leader.stall(now - since);
        let id = leader.beat.clone();
        seen.sign = Some((revision, leader, since));
        match (stall, &mut seen.stalled) {
            (Some(stall), None) => {
                seen.stalls += 1;
                seen.stalled = Some(Stalled {
                    since,
                    told_at: now,
                });
                tell(id.as_deref(), stall);
            }
            (Some(stall), Some(stalled)) => {
                if now - stalled.told_at >= TELL_AGAIN {
                    stalled.told_at = now;
                    tell(id.as_deref(), stall);
                }
            }
            (None, Some(_)) => {
                seen.stalled = None;
                info!(target: "orchestrator::worker", beat = id, "beat is there again");
            }
            (None, None) => {}
        }
    }
}

fn tell(beat: Option<&str>, stall: Stall) {
    error!(target: "orchestrator::worker", beat, "{stall}");
}

/// Looks until `stop`.
pub(super) async fn watch(shared: Arc<Shared>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        // Without the broker nothing can be said of beat; that it is away is told elsewhere.
        if let Ok(found) = read(&shared).await {
            shared.watchman.look(found, clock::monotonic());
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn read(shared: &Shared) -> Result<Option<(Revision, Leader)>, BrokerError> {
    let entry = shared.broker.get(Bucket::State, LEADER_KEY).await?;
    Ok(entry.and_then(|entry| Some((entry.revision, serde_json::from_slice(&entry.value).ok()?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(revision: u64, beat: Option<&str>) -> Option<(Revision, Leader)> {
        let at = chrono::DateTime::from_timestamp(1_795_401_000, 0)?;
        let leader = Leader {
            beat: beat.map(str::to_owned),
            home: None,
            since: at,
            renewed_at: at,
            turned_at: at,
            lease: crate::job::Seconds::from_secs(3),
            held_up: None,
            failing_webhooks: Vec::new(),
        };
        let revision = serde_json::from_value(revision.into()).ok()?;
        Some((revision, leader))
    }

    #[test]
    fn a_beat_that_says_nothing_new_is_a_stall_until_it_does() {
        let watchman = Watchman::default();
        let start = clock::monotonic();
        let after = |seconds| start + Duration::from_secs(seconds);
        watchman.look(None, start);
        assert_eq!(watchman.seen(), BeatSeen::default(), "none was ever seen");
        for second in [0, 5, 10] {
            watchman.look(sign(1, Some("a")), after(second));
            assert_eq!(watchman.seen().stalls, 0, "{second}");
        }
        for second in [15, 20, 700] {
            watchman.look(sign(1, Some("a")), after(second));
            assert_eq!(watchman.seen().stalls, 1, "{second}");
            assert!(watchman.seen().stalled_for.is_some());
        }
        watchman.look(sign(2, Some("b")), after(705));
        let seen = watchman.seen();
        assert_eq!((seen.stalled_for, seen.stalls), (None, 1));
    }
}
