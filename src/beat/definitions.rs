//! Takes over a job set: shares the definitions (`def.NAME`), so that any machine can run a job by
//! hand, and writes down what is new before anything of it can be due.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use tracing::{debug, info, warn};

use super::{
    Beat, BeatError, herald,
    shared::{encode, names},
};
use crate::{
    broker::{self, Broker, Bucket, Change, SharedBroker},
    clock,
    job::{Job, JobName},
    plan::{DEFINITION_PREFIX, JobState},
    schedules::JobSet,
};

/// How many writes are on their way at once.
const IN_FLIGHT: usize = 256;

/// So many jobs that are gone are remembered, those that went last.
const MOST_GONE: usize = 1_000;

impl Beat {
    /// Makes `set` the jobs of this beat. Repeated after a failure it changes nothing more.
    pub(super) async fn adopt(&mut self, set: JobSet) -> Result<(), BeatError> {
        let now = clock::now();
        let changed = self.states_under(&set, now);
        let back = set.iter().map(|job| &job.name);
        let is_gone = |state: &JobState| state.gone_since.is_some();
        let back = back.filter(|name| self.memory.state(name).is_some_and(is_gone));
        let back: Vec<_> = back.cloned().collect();
        self.memory.write_states(&self.broker, changed).await?;
        // What was heard of them meanwhile is not taken over yet.
        back.iter().for_each(|name| self.memory.look_at(name));
        if !back.is_empty() {
            let jobs = names(back.iter());
            info!(target: "orchestrator::beat", count = back.len(), jobs,
                "jobs are in the schedules again: they go on where they were");
        }
        self.forget_who_is_gone_for_good().await?;
        self.memory.keep_own(self.options.own.as_ref()).await;
        if let Err(error) = herald::brief_new(&self.broker, &set, now).await {
            // It costs no tick: whoever tells the webhook tries again.
            debug!(target: "orchestrator::notify", %error, "new webhooks are not briefed yet");
        }
        share(&self.broker, &set).await?;
        self.jobs = set;
        let anchored = self.jobs.iter();
        for job in anchored.filter(|job| !job.trigger.anchor().is_epoch()) {
            self.memory.look_at(&job.name);
        }
        self.line_up();
        let named = self.jobs.iter().map(|job| job.queue.clone()).collect();
        self.queues.send_replace(named);
        self.in_force.send_replace(self.jobs.clone());
        Ok(())
    }

    /// The states that change if `set` takes the place of what is in force now.
    fn states_under(&self, set: &JobSet, now: DateTime<Utc>) -> Vec<(JobName, JobState)> {
        let watermark = self.memory.watermark().at;
        let defined = set.iter().filter_map(|job| {
            let before = self.jobs.get(&job.name).map(AsRef::as_ref);
            let state = match self.memory.state(&job.name) {
                None => Some(JobState::first_seen(job, now, watermark)),
                Some(state) => state.redefined((before, job), now, watermark),
            };
            Some((job.name.clone(), state?))
        });
        let mut changed: Vec<_> = defined.collect();
        let known = self.memory.states();
        for (name, state) in known.filter(|(name, _)| set.get(name).is_none()) {
            if let Some(gone) = state.gone(watermark) {
                tell_gone(name, state, now);
                changed.push((name.clone(), gone));
            }
        }
        changed
    }

    /// Forgets the jobs that were removed from the schedules long ago.
    pub(super) async fn forget_who_is_gone_for_good(&mut self) -> Result<(), BeatError> {
        let watermark = self.memory.watermark().at;
        let states = self.memory.states();
        let gone = states.filter_map(|(name, state)| Some((state.gone_since?, name, state)));
        let mut gone: Vec<_> = gone.collect();
        gone.sort_unstable_by_key(|(since, name, _)| (std::cmp::Reverse(*since), *name));
        let remembered = gone.iter().take(MOST_GONE);
        let remembered = remembered.filter(|(_, _, state)| !state.is_gone_for_good(watermark));
        let remembered: BTreeSet<_> = remembered.map(|(_, name, _)| *name).collect();
        let forgotten = gone.iter().map(|(_, name, _)| *name);
        let forgotten = forgotten.filter(|name| !remembered.contains(name));
        let forgotten: Vec<_> = forgotten.cloned().collect();
        for name in &forgotten {
            self.memory.forget(&self.broker, name).await?;
        }
        if !forgotten.is_empty() {
            info!(target: "orchestrator::beat", count = forgotten.len(), jobs = names(forgotten.iter()),
                "jobs that were removed from the schedules are forgotten for good, with their pauses");
        }
        Ok(())
    }
}

/// A job that is to go may take something with it that somebody relies on.
fn tell_gone(job: &JobName, state: &JobState, now: DateTime<Utc>) {
    let pause = state.paused.as_ref();
    let pause = pause.filter(|pause| pause.until.is_none_or(|until| now < until));
    match pause {
        None => info!(target: "orchestrator::beat", %job,
            "a job is in the schedules no longer: it has no ticks; its last runs, and that it had its first run, are \
             remembered for seven days, should it come back"),
        Some(pause) => {
            warn!(target: "orchestrator::beat", %job, reason = pause.reason, since = %pause.since,
            "a job that is paused is in the schedules no longer: its pause and its last runs are remembered for seven \
             days, should it come back; after that it would come back without the pause")
        }
    }
}

/// The definitions that are in force, as far as they are understood and somebody vouches for them who may.
pub(super) async fn definitions(broker: &SharedBroker) -> Result<JobSet, BeatError> {
    let entries = broker::list(broker.as_ref(), Bucket::State, DEFINITION_PREFIX).await?;
    let understood = entries.iter().filter_map(|entry| {
        let value = broker::opened(broker.as_ref(), Bucket::State, entry).ok()?;
        serde_json::from_slice::<Job>(&value).ok()
    });
    Ok(JobSet::new(understood))
}

/// What is shared of a job: signed if beat signs, for whoever runs it by hand signs what it says.
pub(super) fn definition(broker: &dyn Broker, key: &str, job: &Job) -> Result<Vec<u8>, BeatError> {
    let value = encode(key, job)?;
    Ok(broker::sealed(broker, Bucket::State, key, value))
}

/// Brings the shared definitions in line, touching only those that differ.
async fn share(broker: &SharedBroker, set: &JobSet) -> Result<(), BeatError> {
    let jobs = set.iter().map(|job| (job.name.clone(), Arc::clone(job)));
    let mut missing: BTreeMap<JobName, Arc<Job>> = jobs.collect();
    let mut writes: Vec<(String, Option<Vec<u8>>)> = Vec::new();
    let mut shared = broker.watch(Bucket::State, DEFINITION_PREFIX).await?;
    while let Some(change) = shared.next().await {
        let entry = match change? {
            Change::Put(entry) => entry,
            Change::Deleted { .. } => continue,
            Change::Current => break,
        };
        let name = entry
            .key
            .strip_prefix(DEFINITION_PREFIX)
            .unwrap_or_default();
        let known = name.parse::<JobName>().ok();
        match known.and_then(|name| missing.remove(&name)) {
            Some(job) => {
                let value = definition(broker.as_ref(), &entry.key, &job)?;
                if value != entry.value {
                    writes.push((entry.key, Some(value)));
                }
            }
            None => writes.push((entry.key, None)),
        }
    }
    for job in missing.values() {
        let key = format!("{DEFINITION_PREFIX}{}", job.name);
        let value = definition(broker.as_ref(), &key, job)?;
        writes.push((key, Some(value)));
    }
    let writes = writes.into_iter().map(|(key, value)| {
        let broker = Arc::clone(broker);
        async move {
            match value {
                Some(value) => broker.put(Bucket::State, &key, value).await.map(|_| ()),
                None => broker.delete(Bucket::State, &key).await,
            }
        }
    });
    stream::iter(writes)
        .buffer_unordered(IN_FLIGHT)
        .try_collect::<()>()
        .await?;
    Ok(())
}
