//! The runs that this worker executes now, how to end them from outside, and how each is held.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{alone::Claim, lease::Lease};
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
    /// The lease could not be renewed, and the job must not go on without it.
    Unrenewed,
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
    pub(super) fn force(&self, cause: Cause) {
        lock(&self.cause).get_or_insert(cause);
        self.stop.force();
    }

    pub(super) fn cause(&self) -> Option<Cause> {
        *lock(&self.cause)
    }
}

/// A run that is executed here: how to end it, and how it is held.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) ending: Ending,
    pub(super) lease: Arc<Lease>,
    pub(super) claim: Claim,
}

/// The runs that are executed now.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Runs>);

#[derive(Debug, Default)]
struct Runs {
    held: BTreeMap<RunId, Held>,
    stopping: Stopping,
}

/// What becomes of runs that come late, from a pull that ended as the worker began to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stopping {
    #[default]
    No,
    HandBack,
    Kill,
}

impl Registry {
    /// Adds a run until the guard is dropped.
    pub(super) fn enter(&self, run_id: &RunId, lease: Arc<Lease>) -> Entered<'_> {
        let held = Held {
            ending: Ending::default(),
            lease,
            claim: Claim::default(),
        };
        let mut runs = lock(&self.0);
        held.stop(runs.stopping);
        runs.held.insert(run_id.clone(), held.clone());
        Entered {
            registry: self,
            run_id: run_id.clone(),
            held,
        }
    }

    /// The run as it is executed here.
    pub(super) fn find(&self, run_id: &RunId) -> Option<Held> {
        lock(&self.0).held.get(run_id).cloned()
    }

    /// Ends a run because it was cancelled. Returns whether it is executed here.
    pub(super) fn cancel(&self, run_id: &RunId) -> bool {
        match self.find(run_id) {
            Some(held) => {
                held.ending.ask(Cause::Cancelled);
                true
            }
            None => false,
        }
    }

    /// The longest lease of what is executed here.
    pub(super) fn longest_lease(&self) -> Option<Duration> {
        let runs = lock(&self.0);
        runs.held.values().map(|held| held.lease.length()).max()
    }

    pub(super) fn hand_back_all(&self) {
        self.stop_all(Stopping::HandBack);
    }

    pub(super) fn kill_all(&self) {
        self.stop_all(Stopping::Kill);
    }

    fn stop_all(&self, stopping: Stopping) {
        let mut runs = lock(&self.0);
        runs.stopping = runs.stopping.max(stopping);
        for held in runs.held.values() {
            held.stop(stopping);
        }
    }

    /// All runs that are executed here.
    pub(super) fn all(&self) -> Vec<(RunId, Held)> {
        let runs = lock(&self.0);
        let all = runs.held.iter();
        all.map(|(run_id, held)| (run_id.clone(), held.clone()))
            .collect()
    }

    pub(super) fn running(&self) -> Vec<RunId> {
        lock(&self.0).held.keys().cloned().collect()
    }
}

impl Held {
    fn stop(&self, stopping: Stopping) {
        match stopping {
            Stopping::No => {}
            Stopping::HandBack => self.ending.ask(Cause::HandedBack),
            Stopping::Kill => self.ending.force(Cause::HandedBack),
        }
    }
}

/// A run that is in the registry.
#[derive(Debug)]
pub(super) struct Entered<'a> {
    registry: &'a Registry,
    run_id: RunId,
    pub(super) held: Held,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut runs = lock(&self.registry.0);
        // A later execution of the same run, after this one lost it, has an entry of its own.
        let is_own = |held: &Held| Arc::ptr_eq(&held.lease, &self.held.lease);
        if runs.held.get(&self.run_id).is_some_and(is_own) {
            runs.held.remove(&self.run_id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Receipt;
    use std::time::Duration;

    fn enter(registry: &Registry) -> Entered<'_> {
        let run_id = "crawl@20261123T023000Z".parse().unwrap();
        let lease = Lease::new(
            Duration::from_secs(15),
            receipt(),
            crate::clock::monotonic(),
        );
        registry.enter(&run_id, Arc::new(lease))
    }

    fn receipt() -> Receipt {
        serde_json::from_str("\"1\"").unwrap()
    }

    #[tokio::test]
    async fn who_comes_late_is_handed_back_too() {
        let registry = Registry::default();
        registry.hand_back_all();
        let late = enter(&registry);
        late.held.ending.stop.asked().await;
        assert_eq!(late.held.ending.cause(), Some(Cause::HandedBack));
    }

    #[test]
    fn the_first_cause_counts() {
        let registry = Registry::default();
        let entered = enter(&registry);
        assert!(registry.cancel(&entered.run_id));
        registry.kill_all();
        assert_eq!(entered.held.ending.cause(), Some(Cause::Cancelled));
    }

    #[test]
    fn an_old_entry_does_not_remove_the_new_one() {
        let registry = Registry::default();
        let old = enter(&registry);
        let new = enter(&registry);
        drop(old);
        assert_eq!(registry.running(), std::slice::from_ref(&new.run_id));
        drop(new);
        assert!(registry.running().is_empty());
    }
}
