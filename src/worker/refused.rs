//! What came in that is no run: counted, and kept from flooding the dead letters and the log.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// So many messages that nobody is known to have meant as runs become dead letters within [`SPAN`], whatever they say
/// that they are. All further ones are counted only: the letters are bounded, and those of real runs are not to be driven out.
const LETTERS: u32 = 1000;
/// So many bytes of them in sum are kept as they came; of what comes then, and is longer, the first [`CUT`].
const WHOLE: usize = 16 * 1024 * 1024;
const SPAN: Duration = Duration::from_secs(3600);
/// So many are logged each by itself; of later ones, ever fewer.
const LOGGED: u64 = 20;

/// What is kept of a message that names no run, or for which there is no more room.
pub(super) const CUT: usize = 4 * 1024;

/// The messages that this worker refused.
#[derive(Debug, Default)]
pub(super) struct Refused {
    count: AtomicU64,
    letters: Mutex<Option<Allowance>>,
}

/// What became letters since a moment.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    since: Instant,
    letters: u32,
    whole: usize,
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

    /// How many bytes of one become a dead letter, of `wanted`; `None`: it becomes none.
    pub(super) fn room_for_a_letter(&self, now: Instant, wanted: usize) -> Option<usize> {
        let mut known = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        let held = known.filter(|held| now.saturating_duration_since(held.since) < SPAN);
        let mut held = held.unwrap_or(Allowance {
            since: now,
            letters: 0,
            whole: 0,
        });
        let has_room = held.letters < LETTERS;
        let is_short = wanted <= CUT;
        let stays_whole = is_short || wanted <= WHOLE - held.whole;
        if has_room {
            held.letters += 1;
            if stays_whole && !is_short {
                held.whole += wanted;
            }
        }
        *known = Some(held);
        has_room.then_some(if stays_whole { wanted } else { CUT })
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
                .filter(|_| refused.room_for_a_letter(now + later, 60).is_some())
                .count()
        };
        assert_eq!(at(Duration::ZERO), 1000);
        assert_eq!(at(SPAN - Duration::from_secs(1)), 0);
        assert_eq!(at(SPAN), 1000);
    }

    #[test]
    fn a_flood_of_large_ones_is_cut() {
        const LARGE: usize = 512 * 1024;
        let (refused, now) = (Refused::default(), clock::monotonic());
        let kept: Vec<_> = (0..2000)
            .filter_map(|_| refused.room_for_a_letter(now, LARGE))
            .collect();
        assert_eq!(kept.len(), 1000);
        let whole = kept.iter().take_while(|kept| **kept == LARGE).count();
        assert_eq!(whole, 32, "16 MiB");
        assert!(kept[whole..].iter().all(|kept| *kept == CUT));
        let after = now + SPAN;
        assert_eq!(refused.room_for_a_letter(after, LARGE), Some(LARGE));
    }
}
