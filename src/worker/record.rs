//! Reads and writes the record of a run.

use super::Shared;
use crate::{
    broker::{BrokerError, Bucket, Cas, Durability, Revision},
    run::{RunMessage, RunRecord},
};

/// A record that this build does not understand, and why.
#[derive(Debug)]
pub(super) struct Foreign(pub(super) String);

impl Shared {
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

    /// Writes a record, if it is still at `revision`; `None`: if there is none yet.
    pub(super) async fn write(
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
