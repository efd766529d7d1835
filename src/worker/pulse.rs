//! Notices when this process stood still: stopped by a signal, or starved. What was delivered before that
//! may be somebody else's by now, although it is only read afterwards.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::clock;

/// How often the clock is looked at, at most.
const OFTEN: Duration = Duration::from_millis(50);
/// And at least.
const SELDOM: Duration = Duration::from_secs(1);

/// When this process was last seen to run, and when it last was not.
#[derive(Debug)]
pub(super) struct Pulse {
    interval: Duration,
    seen: Mutex<Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    last: Instant,
    /// From the last beat before to the first one after it.
    standstill: Option<(Instant, Instant)>,
}

impl Seen {
    fn held_since(self, asked: Instant) -> Instant {
        match self.standstill {
            Some((from, to)) if to >= asked => from,
            Some(_) | None => self.last,
        }
    }
}

impl Pulse {
    pub(super) fn new(lease: Duration) -> Self {
        Self {
            interval: (lease / 40).clamp(OFTEN, SELDOM),
            seen: Mutex::new(Seen {
                last: clock::monotonic(),
                standstill: None,
            }),
        }
    }

    /// Since when at the latest a delivery is held here that was asked for at `asked` and is there now.
    pub(super) fn held_since(&self, asked: Instant) -> Instant {
        self.beat(clock::monotonic());
        self.seen().held_since(asked)
    }

    fn beat(&self, now: Instant) {
        let mut seen = self.seen();
        if now.saturating_duration_since(seen.last) > self.interval * 3 {
            seen.standstill = Some((seen.last, now));
        }
        seen.last = now;
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Beats until `stop`.
pub(super) async fn beat(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        shared.pulse.beat(clock::monotonic());
        tokio::select! {
            biased;
            () = tokio::time::sleep(shared.pulse.interval) => {}
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_before_a_standstill_is_held_since_its_beginning() {
        let pulse = Pulse::new(Duration::from_secs(2));
        let start = clock::monotonic();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let held_since = |asked| pulse.seen().held_since(asked);
        for beat in [0, 50, 120] {
            pulse.beat(at(beat));
        }
        assert_eq!(held_since(at(60)), at(120));
        pulse.beat(at(4_000));
        pulse.beat(at(4_050));
        assert_eq!(
            held_since(at(60)),
            at(120),
            "it may have lain there all the time"
        );
        assert_eq!(held_since(at(4_010)), at(4_050));
    }
}
