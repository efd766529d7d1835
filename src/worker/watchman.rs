//! Watches whether beat is alive: a beat that stopped is noticed by those who wait for its runs.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::Shared;
use crate::{
    broker::{BrokerError, Bucket, Revision},
    clock,
    plan::{LEADER_KEY, Leader},
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
    /// The watermark, if beat's clock is behind it.
    until: Option<DateTime<Utc>>,
    why: String,
}

impl Watchman {
    /// For the worker's own status.
    pub(super) fn seen(&self) -> BeatSeen {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stalled = seen.stalled.as_ref();
        let for_so_long = stalled.map(|stalled| clock::monotonic() - stalled.since);
        BeatSeen {
            stalled_for: for_so_long.map(crate::job::Seconds::new),
            why: stalled.map(|stalled| stalled.why.clone()),
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
        // One whose clock is behind the watermark is there, and fires nothing.
        let behind = leader.held_up.as_ref().filter(|it| it.until.is_some());
        let (why, until) = match (leader.stall(now - since), behind) {
            (Some(stall), _) => (Some(stall.to_string()), None),
            (None, Some(behind)) => (Some(behind.to_string()), behind.until),
            (None, None) => (None, None),
        };
        let id = leader.beat.clone();
        seen.sign = Some((revision, leader, since));
        match (why, seen.stalled.take()) {
            (Some(why), before) => {
                let known = before.as_ref().filter(|before| before.until == until);
                let told_at = known.map(|known| known.told_at);
                let told_at = told_at.filter(|&told| now - told < TELL_AGAIN);
                if told_at.is_none() {
                    error!(target: "orchestrator::worker", beat = id, "{why}");
                }
                seen.stalls += u64::from(before.is_none());
                seen.stalled = Some(Stalled {
                    since: before.map_or(since, |before| before.since),
                    told_at: told_at.unwrap_or(now),
                    until,
                    why,
                });
            }
            (None, Some(_)) => {
                info!(target: "orchestrator::worker", beat = id, "beat is there again");
            }
            (None, None) => {}
        }
    }
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
        assert_eq!((seen.stalled_for, seen.why, seen.stalls), (None, None, 1));
    }

    #[test]
    fn a_beat_that_waits_for_its_clock_is_there_and_is_a_stall_all_the_same() {
        let watchman = Watchman::default();
        let start = clock::monotonic();
        let held_up = |revision, until: Option<i64>| {
            let (revision, mut leader) = sign(revision, Some("a"))?;
            leader.held_up = Some(crate::plan::HeldUp {
                since: leader.since,
                until: until.and_then(|until| DateTime::from_timestamp(until, 0)),
                reason: "why".to_owned(),
            });
            Some((revision, leader))
        };
        watchman.look(held_up(1, None), start);
        assert_eq!(watchman.seen(), BeatSeen::default(), "it tries again");
        watchman.look(held_up(2, Some(1_795_402_000)), start);
        let seen = watchman.seen();
        let why = "beat is held up since 2026-11-23T02:30:00Z: why";
        assert_eq!((seen.why.as_deref(), seen.stalls), (Some(why), 1));
        watchman.look(held_up(3, Some(1_795_402_000)), start);
        assert_eq!(watchman.seen().stalls, 1, "the same one");
        watchman.look(sign(4, Some("a")), start);
        assert_eq!(watchman.seen().stalled_for, None);
    }
}
