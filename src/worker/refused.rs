//! What came in that is no run: counted, and kept from flooding the dead letters and the log.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// So many messages in which no run can be seen become dead letters within [`SPAN`]. All further ones are
/// counted only: the letters are bounded, and those of real runs are not to be driven out.
const LETTERS: u32 = 1000;
const SPAN: Duration = Duration::from_secs(3600);
/// So many are logged each by itself; of later ones, ever fewer.
const LOGGED: u64 = 20;

/// What is kept of a message that is not understood and names no run.
pub(super) const KEPT: usize = 4 * 1024;

/// The messages that this worker refused.
#[derive(Debug, Default)]
pub(super) struct Refused {
    count: AtomicU64,
    letters: Mutex<Option<(Instant, u32)>>,
}

/// Whether a message that is refused gets a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Telling {
    Line,
    Nothing,
}

impl Refused {
    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// One more.
    pub(super) fn note(&self) -> (u64, Telling) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let telling = match count <= LOGGED || count.is_power_of_two() {
            true => Telling::Line,
            false => Telling::Nothing,
        };
        (count, telling)
    }

    /// Whether one that names no run becomes a dead letter.
    pub(super) fn has_room_for_a_letter(&self, now: Instant) -> bool {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = match *letters {
            Some((since, count)) if now.saturating_duration_since(since) < SPAN => (since, count),
            Some(_) | None => (now, 0),
        };
        let has_room = count < LETTERS;
        *letters = Some((since, count + u32::from(has_room)));
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_flood_is_counted_and_little_of_it_is_kept() {
        let (refused, now) = (Refused::default(), clock::monotonic());
        let lines = (0..10_000).filter(|_| refused.note().1 == Telling::Line);
        assert!(lines.count() < 40);
        assert_eq!(refused.count(), 10_000);
        let at = |later: Duration| {
            (0..10_000)
                .filter(|_| refused.has_room_for_a_letter(now + later))
                .count()
        };
        assert_eq!(at(Duration::ZERO), 1000);
        assert_eq!(at(SPAN - Duration::from_secs(1)), 0);
        assert_eq!(at(SPAN), 1000);
    }
}
