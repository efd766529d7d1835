//! Whether a burst is stored sooner run by run or as an atomic batch. Pure.
//!
//! A batch costs the server some files and syncs of its own, a run by itself one sync with
//! `sync_interval: always` and next to nothing without. Which of both this server has it does not
//! tell, so both are measured.

use std::{collections::VecDeque, time::Duration};

/// How many runs are on their way by themselves, before others wait for them.
pub(super) const ALONE: usize = 16;
/// Smaller ones are not worth a batch.
pub(super) const FEWEST: usize = 16;
/// What a batch is believed to cost before one was sent.
const FIRST_GUESS: Duration = Duration::from_millis(25);
/// More is not believed, so that one bad moment does not end batches for good.
const DEAREST: Duration = Duration::from_millis(150);

/// When runs that are published at the same time are stored as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Batches {
    /// Where the server takes batches and that is measured to be quicker.
    #[default]
    WhereQuicker,
    /// Wherever the server takes them.
    Always,
    /// One by one.
    Never,
}

/// What was measured lately.
#[derive(Debug)]
pub(super) struct Pace {
    batches: Batches,
    alone: VecDeque<Duration>,
    batch: Duration,
}

impl Pace {
    pub(super) fn new(batches: Batches) -> Self {
        Self {
            batches,
            alone: VecDeque::with_capacity(ALONE),
            batch: FIRST_GUESS,
        }
    }

    /// A run was stored by itself, `took` after it was sent as the `in_flight`th on its way.
    pub(super) fn note_alone(&mut self, took: Duration, in_flight: usize) {
        if self.alone.len() == ALONE {
            self.alone.pop_front();
        }
        let in_flight = u32::try_from(in_flight.max(1)).unwrap_or(u32::MAX);
        self.alone.push_back(took / in_flight);
    }

    /// A batch was stored or refused.
    pub(super) fn note_batch(&mut self, took: Duration) {
        self.batch = (self.batch + took.min(DEAREST)) / 2;
    }

    /// Whether `waiting` runs are better sent together. Not before a whole row was seen: the time of
    /// a single one is that of the way to the server and back.
    pub(super) fn prefers_batch(&self, waiting: usize) -> bool {
        match self.batches {
            Batches::Always => return waiting >= FEWEST,
            Batches::WhereQuicker if waiting >= FEWEST && self.alone.len() == ALONE => {}
            Batches::WhereQuicker | Batches::Never => return false,
        }
        let quickest = self.alone.iter().min().copied().unwrap_or_default();
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        quickest * waiting > self.batch * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ALONE` runs in a row, each of which takes the server `each`, on a way of `way`.
    fn seen(pace: &mut Pace, each: Duration, way: Duration) {
        for n in 1..=ALONE {
            pace.note_alone(way + each * u32::try_from(n).unwrap(), n);
        }
    }

    #[test]
    fn a_server_that_syncs_each_run_gets_batches() {
        let mut pace = Pace::new(Batches::WhereQuicker);
        assert!(!pace.prefers_batch(1000), "nothing is known yet");
        seen(&mut pace, Duration::from_micros(700), Duration::ZERO);
        assert!(pace.prefers_batch(1000));
        assert!(pace.prefers_batch(100));
        assert!(!pace.prefers_batch(FEWEST - 1));
    }

    #[test]
    fn a_server_that_does_not_gets_single_runs() {
        let mut pace = Pace::new(Batches::WhereQuicker);
        seen(
            &mut pace,
            Duration::from_micros(10),
            Duration::from_micros(200),
        );
        assert!(!pace.prefers_batch(1000));
    }

    #[test]
    fn one_bad_moment_is_forgotten() {
        let mut pace = Pace::new(Batches::WhereQuicker);
        for _ in 0..10 {
            pace.note_batch(Duration::from_secs(5));
        }
        seen(&mut pace, Duration::from_micros(700), Duration::ZERO);
        assert!(pace.prefers_batch(1000), "it is tried again");
        for _ in 0..10 {
            pace.note_batch(Duration::from_millis(10));
        }
        assert!(pace.prefers_batch(50));
    }
}
