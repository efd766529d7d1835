//! Takes over a job set: shares the definitions (`def.NAME`), so that any machine can run a job by
//! hand, and writes down what is new before anything of it can be due.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};

use tracing::debug;

use super::{Beat, BeatError, herald, shared::encode};
use crate::{
    broker::{self, Broker, Bucket, Change, SharedBroker},
    clock,
    job::{Job, JobName},
    plan::{DEFINITION_PREFIX, JobState},
    schedules::JobSet,
};

/// How many writes are on their way at once.
const IN_FLIGHT: usize = 256;

impl Beat {
    /// Makes `set` the jobs of this beat. Repeated after a failure it changes nothing more.
    pub(super) async fn adopt(&mut self, set: JobSet) -> Result<(), BeatError> {
        let now = clock::now();
        let watermark = self.memory.watermark().at;
        let changed: Vec<_> = set
            .iter()
            .filter_map(|job| {
                let state = match self.memory.state(&job.name) {
                    None => Some(JobState::first_seen(job, now, watermark)),
                    Some(state) => state.redefined(job, now, watermark),
                };
                Some((job.name.clone(), state?))
            })
            .collect();
        let known = self.memory.known_jobs();
        let gone: Vec<_> = known
            .filter(|name| set.get(name).is_none())
            .cloned()
            .collect();
        self.memory.write_states(&self.broker, changed).await?;
        for name in &gone {
            self.memory.forget(&self.broker, name).await?;
        }
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
