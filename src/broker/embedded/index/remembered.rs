//! The message ids of the last minutes.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::run::RunId;

/// Message ids, each for a fixed time after it was accepted.
#[derive(Debug)]
pub(in super::super) struct Remembered {
    window: Duration,
    ids: HashMap<RunId, Known>,
    /// By the end of their time. An id that was forgotten early leaves its entry behind.
    order: VecDeque<(Instant, RunId)>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    sequence: u64,
    until: Instant,
}

impl Remembered {
    pub(super) fn new(window: Duration) -> Self {
        Self {
            window,
            ids: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// The sequence under which the id was accepted.
    pub(super) fn find(&self, run_id: &RunId, now: Instant) -> Option<u64> {
        let known = self.ids.get(run_id)?;
        (known.until > now).then_some(known.sequence)
    }

    pub(super) fn add(&mut self, run_id: RunId, sequence: u64, now: Instant) {
        self.insert(run_id, sequence, now + self.window);
    }

    /// Takes an id from an earlier process. Call it oldest first. The sequence is not known any
    /// more: 0 is never given to a run.
    pub(super) fn restore(&mut self, run_id: RunId, age: Duration, now: Instant) {
        self.insert(run_id, 0, now + self.window.saturating_sub(age));
    }

    pub(super) fn forget(&mut self, run_id: &RunId) {
        self.ids.remove(run_id);
    }

    /// Forgets and returns the ids whose time is over.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<RunId> {
        let mut expired = Vec::new();
        while let Some((until, _)) = self.order.front() {
            if *until > now {
                break;
            }
            let Some((until, run_id)) = self.order.pop_front() else {
                break;
            };
            if self
                .ids
                .get(&run_id)
                .is_some_and(|known| known.until == until)
            {
                self.ids.remove(&run_id);
                expired.push(run_id);
            }
        }
        expired
    }

    fn insert(&mut self, run_id: RunId, sequence: u64, until: Instant) {
        self.ids.insert(run_id.clone(), Known { sequence, until });
        self.order.push_back((until, run_id));
    }
}
