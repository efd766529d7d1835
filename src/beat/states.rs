//! The state of each job, with the version under which it is shared. Written by compare-and-set: a
//! beat that stood still cannot undo what its successor has written.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    BeatError,
    shared::{encode, read_job, tell_restored},
};
use crate::{
    broker::{self, Bucket, Cas, Durability, Revision, SharedBroker},
    job::JobName,
    plan::{JOB_STATE_PREFIX, JobState, PAUSE_PREFIX},
};

/// How many writes are on their way at once.
const IN_FLIGHT: usize = 256;

#[derive(Debug, Default)]
pub(super) struct States {
    known: BTreeMap<JobName, Known>,
    /// What lies where a state should be, and is none.
    foreign: BTreeMap<JobName, Revision>,
}

#[derive(Debug)]
struct Known {
    state: JobState,
    revision: Revision,
}

impl States {
    /// What is shared.
    pub(super) async fn read(broker: &SharedBroker) -> Result<Self, BeatError> {
        let entries = broker::list(broker.as_ref(), Bucket::State, JOB_STATE_PREFIX).await?;
        point!("beat-states-read");
        let mut states = Self::default();
        for entry in &entries {
            let revision = entry.revision;
            if let Some((name, state)) = read_job(entry, JOB_STATE_PREFIX) {
                states.known.insert(name, Known { state, revision });
            } else if let Some(Ok(name)) = entry.key.strip_prefix(JOB_STATE_PREFIX).map(str::parse)
            {
                states.foreign.insert(name, revision);
            }
        }
        Ok(states)
    }

    pub(super) fn get(&self, job: &JobName) -> Option<&JobState> {
        Some(&self.known.get(job)?.state)
    }

    /// Whether what lies there for a job is not understood.
    pub(super) fn is_foreign(&self, job: &JobName) -> bool {
        self.foreign.contains_key(job)
    }

    /// What was known `before` and is there no more, or `all` of it, of the jobs that count.
    pub(super) fn lost_since(
        &self,
        before: &Self,
        all: bool,
        counts: impl Fn(&JobName) -> bool,
    ) -> Vec<(JobName, JobState)> {
        let lost = before
            .iter()
            .filter(|(name, _)| counts(name) && (all || self.get(name).is_none()));
        lost.map(|(name, state)| (name.clone(), state.clone()))
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&JobName, &JobState)> {
        self.known.iter().map(|(name, known)| (name, &known.state))
    }

    /// Shares changed states. [`BeatError::Overtaken`] if somebody else changed one of them.
    pub(super) async fn write(
        &mut self,
        broker: &SharedBroker,
        states: Vec<(JobName, JobState)>,
    ) -> Result<(), BeatError> {
        let mut writes = Vec::with_capacity(states.len());
        for (name, state) in states {
            let key = format!("{JOB_STATE_PREFIX}{name}");
            let value = encode(&key, &state)?;
            let known = self.known.get(&name).map(|known| known.revision);
            let expected = known.or_else(|| self.foreign.get(&name).copied());
            let broker = Arc::clone(broker);
            writes.push(async move {
                let set = broker
                    .compare_and_set(Bucket::State, &key, expected, value, Durability::Power)
                    .await?;
                match set {
                    Cas::Done(revision) => Ok((name, Known { state, revision })),
                    Cas::Conflict => Err(BeatError::Overtaken),
                }
            });
        }
        let mut written = stream::iter(writes).buffer_unordered(IN_FLIGHT);
        while let Some((name, known)) = written.try_next().await? {
            self.foreign.remove(&name);
            self.known.insert(name, known);
            point!("beat-state-written");
        }
        Ok(())
    }

    /// Removes a job that is defined no longer, with its pause.
    pub(super) async fn forget(
        &mut self,
        broker: &SharedBroker,
        job: &JobName,
    ) -> Result<(), BeatError> {
        for prefix in [JOB_STATE_PREFIX, PAUSE_PREFIX] {
            broker
                .delete(Bucket::State, &format!("{prefix}{job}"))
                .await?;
        }
        self.foreign.remove(job);
        self.known.remove(job);
        Ok(())
    }

    /// Shares again what was lost with a broker's data: all of `kept` where the shared state went back
    /// (`newer`), else what is missing. Pauses too, which are people's, but kept in the states.
    pub(super) async fn restore(
        &mut self,
        broker: &SharedBroker,
        kept: Vec<(JobName, JobState)>,
        newer: bool,
    ) -> Result<(), BeatError> {
        let lost = kept.into_iter().filter(|(name, state)| {
            let shared = self.get(name);
            shared.is_none_or(|shared| newer && shared != state)
        });
        let lost: Vec<_> = lost.collect();
        for (name, state) in &lost {
            let Some(pause) = &state.paused else { continue };
            let key = format!("{PAUSE_PREFIX}{name}");
            let value = encode(&key, pause)?;
            // There already: somebody paused it since.
            broker
                .compare_and_set(Bucket::State, &key, None, value, Durability::Power)
                .await?;
            point!("beat-pause-restored");
        }
        let names: Vec<_> = lost.iter().map(|(name, _)| name.to_string()).collect();
        self.write(broker, lost).await?;
        tell_restored("states of jobs", &names);
        Ok(())
    }
}
