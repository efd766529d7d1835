//! Watches over what beat shares of its jobs: where somebody who may not write it had something else stored there, as the
//! answer of a server or the marker of a removed key, it is written anew.

use std::collections::BTreeMap;

use futures::StreamExt;
use tracing::error;

use super::{BeatError, definitions::definition, shared::write_anew};
use crate::{
    broker::{Bucket, Change, Changes, Entry, Revision, SharedBroker},
    job::{Job, JobName},
    plan::DEFINITION_PREFIX,
    schedules::JobSet,
};

/// The definitions that somebody wrote over.
#[derive(Debug, Default)]
pub(super) struct Guard {
    spoilt: BTreeMap<JobName, Revision>,
}

impl Guard {
    /// Looks at all definitions, and goes on to watch them.
    pub(super) async fn watch(&mut self, broker: &SharedBroker) -> Result<Changes, BeatError> {
        self.spoilt.clear();
        let mut changes = broker.watch(Bucket::State, DEFINITION_PREFIX).await?;
        while let Some(change) = changes.next().await {
            let change = change?;
            if change == Change::Current {
                break;
            }
            self.note(&change);
        }
        Ok(changes)
    }

    /// Whether this is about a definition.
    pub(super) fn note(&mut self, change: &Change) -> bool {
        let (key, spoilt) = match change {
            Change::Put(entry) => (&entry.key, (!is_one(entry)).then_some(entry.revision)),
            Change::Deleted { key } => (key, None),
            Change::Current => return false,
        };
        let Some(name) = key.strip_prefix(DEFINITION_PREFIX) else {
            return false;
        };
        if let Ok(name) = name.parse() {
            match spoilt {
                Some(revision) => _ = self.spoilt.insert(name, revision),
                None => _ = self.spoilt.remove(&name),
            }
        }
        true
    }

    /// Writes those of `jobs` anew that somebody wrote over, unless that was done since.
    pub(super) async fn mend(
        &mut self,
        broker: &SharedBroker,
        jobs: &JobSet,
    ) -> Result<(), BeatError> {
        while let Some((name, &revision)) = self.spoilt.first_key_value() {
            if let Some(job) = jobs.get(name) {
                let key = format!("{DEFINITION_PREFIX}{name}");
                error!(target: "orchestrator::beat", key,
                    "the shared definition of a job is not understood: it is written anew; who may ask the broker anything \
                     had something else stored there");
                let value = definition(broker.as_ref(), &key, job)?;
                write_anew(broker, &key, revision, value).await?;
            }
            self.spoilt.pop_first();
        }
        Ok(())
    }
}

fn is_one(entry: &Entry) -> bool {
    let job = serde_json::from_slice::<Job>(&entry.value);
    job.is_ok_and(|job| entry.key.strip_prefix(DEFINITION_PREFIX) == Some(job.name.as_str()))
}
