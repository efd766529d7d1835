//! The runs that this worker executes now, and how to end them from outside.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{exec::Stop, run::RunId};

/// Why somebody other than the program ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The run was cancelled.
    Cancelled,
    /// The worker stops; another one may go on.
    HandedBack,
    /// The run belongs to somebody else.
    Lost,
}

/// How to end one execution. The first cause counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Ending {
    pub(super) stop: Stop,
    cause: Arc<Mutex<Option<Cause>>>,
}

impl Ending {
    /// Ends it politely.
    pub(super) fn ask(&self, cause: Cause) {
        lock(&self.cause).get_or_insert(cause);
        self.stop.ask();
    }

    /// Kills it.
    fn force(&self, cause: Cause) {
        lock(&self.cause).get_or_insert(cause);
        self.stop.force();
    }

    pub(super) fn cause(&self) -> Option<Cause> {
        *lock(&self.cause)
    }
}

/// The runs that are executed now.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<HashMap<RunId, Ending>>);

impl Registry {
    /// Adds a run until the guard is dropped.
    pub(super) fn enter(&self, run_id: &RunId) -> Entered<'_> {
        let ending = Ending::default();
        lock(&self.0).insert(run_id.clone(), ending.clone());
        Entered {
            registry: self,
            run_id: run_id.clone(),
            ending,
        }
    }

    /// Ends a run because it was cancelled. Returns whether it is executed here.
    pub(super) fn cancel(&self, run_id: &RunId) -> bool {
        let ending = lock(&self.0).get(run_id).cloned();
        match ending {
            Some(ending) => {
                ending.ask(Cause::Cancelled);
                true
            }
            None => false,
        }
    }

    pub(super) fn hand_back_all(&self) {
        for ending in lock(&self.0).values() {
            ending.ask(Cause::HandedBack);
        }
    }

    pub(super) fn kill_all(&self) {
        for ending in lock(&self.0).values() {
            ending.force(Cause::HandedBack);
        }
    }

    pub(super) fn running(&self) -> Vec<RunId> {
        let mut running: Vec<_> = lock(&self.0).keys().cloned().collect();
        running.sort();
        running
    }
}

/// A run that is in the registry.
#[derive(Debug)]
pub(super) struct Entered<'a> {
    registry: &'a Registry,
    run_id: RunId,
    pub(super) ending: Ending,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut running = lock(&self.registry.0);
        // A later execution of the same run, after this one lost it, has an entry of its own.
        let is_own = |ending: &Ending| Arc::ptr_eq(&ending.cause, &self.ending.cause);
        if running.get(&self.run_id).is_some_and(is_own) {
            running.remove(&self.run_id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
