//! Reads and writes the record of a run.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::Shared;
use crate::{
    broker::{BrokerError, Bucket, Cas, Durability, Revision},
    clock,
    run::{RunId, RunMessage, RunRecord},
};

/// What a worker does that is well.
const TAKING: &str = "taking runs";

/// A record that this build does not understand, and why.
#[derive(Debug)]
pub(super) struct Foreign(pub(super) String);

/// How long beyond a lease a failure counts that was not tried again: somebody else may have the run by now.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Why records cannot be written, if the last one could not.
#[derive(Debug, Default)]
pub(super) struct Unwritten(Mutex<Option<(Instant, String)>>);

impl Unwritten {
    fn note(&self, at: Instant, reason: String) {
        *self.lock() = Some((at, reason));
    }

    /// One was written; whether that is news.
    fn is_over(&self) -> bool {
        self.lock().take().is_some()
    }

    fn reason(&self, now: Instant, patience: Duration) -> Option<String> {
        let mut last = self.lock();
        *last = last
            .take()
            .filter(|(at, _)| now.saturating_duration_since(*at) < patience);
        last.as_ref().map(|(_, reason)| reason.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Says how this worker is that has just asked for runs: without records it executes none.
    pub(super) fn tell_pulse(&self) {
        let patience = self.broker.lease() + FORGOTTEN;
        match self.unwritten.reason(clock::monotonic(), patience) {
            Some(reason) => self.options.pulse.fails(reason),
            None => self.options.pulse.is_well(TAKING),
        }
    }

    /// The record of a run, if there is one.
    pub(super) async fn record(
        &self,
        message: &RunMessage,
    ) -> Result<Option<(RunRecord, Revision)>, BrokerError> {
        let read = self.read_record(message).await?;
        read.map_err(|Foreign(reason)| BrokerError::Failed {
            broker: self.broker.describe(),
            operation: format!("read the record of {}", message.run_id),
            reason,
        })
    }

    /// The same, with why it is not understood apart from why it cannot be read.
    pub(super) async fn read_record(
        &self,
        message: &RunMessage,
    ) -> Result<Result<Option<(RunRecord, Revision)>, Foreign>, BrokerError> {
        let entry = self.broker.get(Bucket::Runs, &message.run_id.key()).await?;
        let Some(entry) = entry else {
            return Ok(Ok(None));
        };
        let record = RunRecord::read(&message.run_id, &entry.value);
        Ok(record
            .map(|record| Some((record, entry.revision)))
            .map_err(|error| Foreign(format!("its record is not understood: {error}"))))
    }

    /// The record of a run, if it says that this worker executes it under `fence`.
    pub(super) async fn record_if_ours(
        &self,
        run_id: &RunId,
        fence: u64,
    ) -> Result<Option<RunRecord>, BrokerError> {
        let entry = self.broker.get(Bucket::Runs, &run_id.key()).await?;
        let record = entry.and_then(|entry| serde_json::from_slice::<RunRecord>(&entry.value).ok());
        Ok(record.filter(|record| record.is_held_by(&self.options.id, fence)))
    }

    /// Writes a record, if it is still at `revision`; `None`: if there is none yet.
    pub(super) async fn write(
        &self,
        record: &RunRecord,
        revision: Option<Revision>,
        durability: Durability,
    ) -> Result<Cas, BrokerError> {
        let written = self.try_to_write(record, revision, durability).await;
        match &written {
            Ok(Cas::Done(_)) => {
                if self.unwritten.is_over() {
                    self.options.pulse.is_held_up_no_more(TAKING);
                }
            }
            // Nothing was to be stored.
            Ok(Cas::Conflict) => {}
            Err(error) => {
                let reason = format!("records of runs cannot be written: {error}");
                self.unwritten.note(clock::monotonic(), reason.clone());
                self.options.pulse.is_held_up(reason);
            }
        }
        written
    }

    async fn try_to_write(
        &self,
        record: &RunRecord,
        revision: Option<Revision>,
        durability: Durability,
    ) -> Result<Cas, BrokerError> {
        let value = serde_json::to_vec(record).map_err(|error| BrokerError::Failed {
            broker: self.broker.describe(),
            operation: format!("write the record of {}", record.run_id),
            reason: error.to_string(),
        })?;
        let key = record.run_id.key();
        if revision.is_none() && self.has_keys() {
            let created = self.broker.create(Bucket::Runs, &key, value, durability);
            return created.await;
        }
        self.broker
            .compare_and_set(Bucket::Runs, &key, revision, value, durability)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_counts_until_one_is_written_or_nobody_tries_any_more() {
        let unwritten = Unwritten::default();
        let start = clock::monotonic();
        let after = |seconds| unwritten.reason(start + Duration::from_secs(seconds), FORGOTTEN);
        assert_eq!(after(0), None);
        assert!(!unwritten.is_over());
        unwritten.note(start, "full".to_owned());
        assert_eq!(after(59).as_deref(), Some("full"));
        assert!(unwritten.is_over());
        assert_eq!(after(59), None);
        unwritten.note(start, "full".to_owned());
        assert_eq!(after(60), None);
        assert!(!unwritten.is_over(), "it is forgotten");
    }
}
