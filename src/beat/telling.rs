//! What was told of a step: one that is repeated until it can be committed is told once.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};

use crate::{job::JobName, run::RunId};

/// The ticks of which this beat told something since it last committed a step.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashSet<RunId>>);

impl Told {
    /// Whether nothing was told of this tick yet; from now on something was.
    pub(super) fn is_news(&self, run_id: &RunId) -> bool {
        let mut told = self.ticks();
        !told.contains(run_id) && told.insert(run_id.clone())
    }

    /// The same for some ticks in a row, by the first of them.
    pub(super) fn are_news(&self, job: &JobName, first: DateTime<Utc>) -> bool {
        self.is_news(&RunId::for_tick(job.clone(), first))
    }

    /// The step is committed: it will not be repeated.
    pub(super) fn forget(&self) {
        *self.ticks() = HashSet::new();
    }

    fn ticks(&self) -> MutexGuard<'_, HashSet<RunId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
