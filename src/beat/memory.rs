//! What beat knows between two steps: the watermark with its revision, the state of each job and
//! when each last succeeded. Owns the keys `watermark` and `job.NAME` of the state bucket.
//!
//! The shared copy decides. Beat's own copy only replaces one that was lost.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, future, stream};
use serde::{Serialize, de::DeserializeOwned};
use tracing::{info, warn};

use super::{BeatError, BeatOptions, OwnState};
use crate::{
    broker::{
        self, Broker, Bucket, Cas, Change, Changes, Durability, Entry, Revision, SharedBroker,
    },
    job::JobName,
    plan::{JOB_STATE_PREFIX, JobState, PAUSE_PREFIX, Pause, Scheduled, WATERMARK_KEY, Watermark},
    run::{LAST_RUN_PREFIX, LastRun, Past},
    schedules::JobSet,
};

/// How many writes are on their way at once.
const IN_FLIGHT: usize = 256;

/// What a look at the shared copy found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shared {
    /// It is as new as memory, or newer.
    Intact,
    /// It was lost or set back, and has been written again.
    Restored,
}

pub(super) struct Memory {
    watermark: Watermark,
    revision: Option<Revision>,
    states: BTreeMap<JobName, JobState>,
    /// Changed since the own copy was written.
    unsaved: Vec<JobName>,
    pasts: HashMap<JobName, Past>,
    pauses: HashMap<JobName, Pause>,
    /// The jobs whose past or pause may differ from what their states say.
    heard_of: BTreeSet<JobName>,
    /// Tells of finished runs and of pauses.
    news: Option<Changes>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory")
            .field("watermark", &self.watermark)
            .field("jobs", &self.states.len())
            .finish_non_exhaustive()
    }
}

impl Memory {
    /// Reads the shared copy; where it is missing or older, what this beat kept itself.
    pub(super) async fn load(
        broker: &SharedBroker,
        options: &BeatOptions,
        now: DateTime<Utc>,
    ) -> Result<Self, BeatError> {
        let (watermark, revision) = read_watermark(broker.as_ref()).await?.unzip();
        let states = read_states(broker.as_ref()).await?;
        let fresh = Watermark {
            at: now,
            next: None,
            beat: options.id.clone(),
        };
        let mut memory = Self {
            watermark: watermark.clone().unwrap_or(fresh),
            revision,
            states,
            unsaved: Vec::new(),
            pasts: HashMap::new(),
            pauses: HashMap::new(),
            heard_of: BTreeSet::new(),
            news: None,
        };
        let own = match &options.own {
            Some(own) => own.load()?,
            None => None,
        };
        if let Some((kept, kept_states)) = own {
            if watermark.is_none_or(|shared| shared.at < kept.at) {
                warn!(target: "orchestrator::beat", watermark = %kept.at,
                    "the shared state is missing or older than this beat's own: going on from its own");
                memory.watermark = kept;
            }
            for (name, state) in kept_states {
                memory.states.entry(name).or_insert(state);
            }
        }
        let seeded = memory.watermark.clone();
        memory.move_watermark(broker, seeded).await?;
        memory.watch_news(broker).await?;
        Ok(memory)
    }

    pub(super) fn watermark(&self) -> &Watermark {
        &self.watermark
    }

    /// When the last successful run of a job started, as far as this beat has heard.
    pub(super) fn last_success(&self, job: &JobName) -> Option<DateTime<Utc>> {
        let (started_at, _) = self.pasts.get(job)?.last_success?;
        Some(started_at)
    }

    pub(super) fn state(&self, job: &JobName) -> Option<&JobState> {
        self.states.get(job)
    }

    pub(super) fn known_jobs(&self) -> impl Iterator<Item = &JobName> {
        self.states.keys()
    }

    /// A job with the part of its state that decides when it is due.
    pub(super) fn scheduled(&self, jobs: &JobSet, name: &JobName) -> Option<Scheduled> {
        let job = Arc::clone(jobs.get(name)?);
        Some(Scheduled::new(job, self.states.get(name)?))
    }

    /// All jobs with that part of their state.
    pub(super) fn schedule(&self, jobs: &JobSet) -> Vec<Scheduled> {
        jobs.iter()
            .filter_map(|job| Some(Scheduled::new(Arc::clone(job), self.states.get(&job.name)?)))
            .collect()
    }

    /// Reads the watermark again, after an outage or because another beat moved it.
    pub(super) async fn refresh(
        &mut self,
        broker: &SharedBroker,
        beat: &str,
    ) -> Result<Shared, BeatError> {
        let found = match read_watermark(broker.as_ref()).await? {
            Some((shared, revision)) if shared.at >= self.watermark.at => {
                if shared.beat != beat {
                    // It has counted what became of the ticks since.
                    self.states.extend(read_states(broker.as_ref()).await?);
                }
                self.watermark = shared;
                self.revision = Some(revision);
                Shared::Intact
            }
            found => {
                let had = found.is_some();
                warn!(target: "orchestrator::beat", beat, had,
                    "the shared watermark was lost or set back: it is restored");
                self.revision = found.map(|(_, revision)| revision);
                let restored = self.watermark.clone();
                self.move_watermark(broker, restored).await?;
                let all = self.states.clone();
                self.write_states(broker, all.into_iter().collect()).await?;
                Shared::Restored
            }
        };
        if self.news.is_none() {
            self.watch_news(broker).await?;
        }
        Ok(found)
    }

    /// Moves the shared watermark by compare-and-set.
    pub(super) async fn move_watermark(
        &mut self,
        broker: &SharedBroker,
        to: Watermark,
    ) -> Result<(), BeatError> {
        let value = encode(WATERMARK_KEY, &to)?;
        let done = broker
            .compare_and_set(
                Bucket::State,
                WATERMARK_KEY,
                self.revision,
                value,
                Durability::Power,
            )
            .await?;
        match done {
            Cas::Done(revision) => {
                self.watermark = to;
                self.revision = Some(revision);
                Ok(())
            }
            Cas::Conflict => Err(BeatError::Overtaken),
        }
    }

    /// Writes changed job states to the shared copy.
    pub(super) async fn write_states(
        &mut self,
        broker: &SharedBroker,
        states: Vec<(JobName, JobState)>,
    ) -> Result<(), BeatError> {
        let mut writes = Vec::with_capacity(states.len());
        for (name, state) in &states {
            let key = format!("{JOB_STATE_PREFIX}{name}");
            let value = encode(&key, state)?;
            let broker = Arc::clone(broker);
            writes.push(async move { broker.put(Bucket::State, &key, value).await });
        }
        stream::iter(writes)
            .buffer_unordered(IN_FLIGHT)
            .try_for_each(|_| future::ready(Ok(())))
            .await?;
        for (name, state) in states {
            self.unsaved.push(name.clone());
            self.states.insert(name, state);
        }
        Ok(())
    }

    /// Forgets a job that is defined no longer.
    pub(super) async fn forget(
        &mut self,
        broker: &SharedBroker,
        job: &JobName,
    ) -> Result<(), BeatError> {
        broker
            .delete(Bucket::State, &format!("{JOB_STATE_PREFIX}{job}"))
            .await?;
        broker
            .delete(Bucket::State, &format!("{PAUSE_PREFIX}{job}"))
            .await?;
        self.states.remove(job);
        self.unsaved.push(job.clone());
        Ok(())
    }

    /// Writes the watermark and what changed since the last time to this beat's own copy.
    pub(super) async fn keep_own(&mut self, own: Option<&OwnState>) -> Result<(), BeatError> {
        if let Some(own) = own {
            let changed = self
                .unsaved
                .iter()
                .map(|name| (name, self.states.get(name)));
            own.keep(&self.watermark, changed).await?;
        }
        self.unsaved.clear();
        Ok(())
    }

    /// The states of jobs of which something was heard that they do not say.
    pub(super) fn heard(&self, jobs: &JobSet) -> Vec<(JobName, JobState)> {
        let changed = self.heard_of.iter().filter_map(|name| {
            let (job, state) = (jobs.get(name)?, self.states.get(name)?);
            let pause = self.pauses.get(name);
            if job.trigger.anchor().is_epoch() && state.paused.as_ref() == pause {
                return None;
            }
            let heard = (pause, self.pasts.get(name));
            Some((name.clone(), state.heard(job, heard, self.watermark.at)?))
        });
        changed.collect()
    }

    /// Something may have been heard of this job that its state does not say.
    pub(super) fn look_at(&mut self, job: &JobName) {
        self.heard_of.insert(job.clone());
    }

    /// The states say what was heard.
    pub(super) fn taken_over(&mut self) {
        self.heard_of.clear();
    }

    /// Waits for the next news of a finished run or of a pause. Cancel-safe.
    pub(super) async fn learn(&mut self) {
        let Some(changes) = &mut self.news else {
            // Watched again at the next recovery; until then there is nothing to wait for.
            return std::future::pending().await;
        };
        match changes.next().await {
            Some(Ok(change)) => self.note(change),
            Some(Err(error)) => {
                info!(target: "orchestrator::beat", %error, "the watch on finished runs broke off");
                self.news = None;
            }
            None => self.news = None,
        }
    }

    /// Whether news of finished runs has stopped coming.
    pub(super) fn is_deaf(&self) -> bool {
        self.news.is_none()
    }

    async fn watch_news(&mut self, broker: &SharedBroker) -> Result<(), BeatError> {
        for (job, _) in self.pauses.drain() {
            self.heard_of.insert(job);
        }
        let mut watched = Vec::new();
        for prefix in [LAST_RUN_PREFIX, PAUSE_PREFIX] {
            let mut changes = broker.watch(Bucket::State, prefix).await?;
            while let Some(change) = changes.next().await {
                match change? {
                    Change::Current => break,
                    change => self.note(change),
                }
            }
            watched.push(changes);
        }
        self.news = Some(stream::select_all(watched).boxed());
        Ok(())
    }

    fn note(&mut self, change: Change) {
        match change {
            Change::Put(entry) => {
                if let Some((name, last)) = read_job::<LastRun>(&entry, LAST_RUN_PREFIX) {
                    self.look_at(&name);
                    self.pasts.insert(name, Past::from(&last));
                } else if let Some((name, pause)) = read_job::<Pause>(&entry, PAUSE_PREFIX) {
                    self.look_at(&name);
                    self.pauses.insert(name, pause);
                }
            }
            Change::Deleted { key } => {
                let name = key.strip_prefix(PAUSE_PREFIX).map(str::parse::<JobName>);
                if let Some(Ok(name)) = name {
                    self.look_at(&name);
                    self.pauses.remove(&name);
                }
            }
            Change::Current => {}
        }
    }
}

async fn read_watermark(broker: &dyn Broker) -> Result<Option<(Watermark, Revision)>, BeatError> {
    let Some(entry) = broker.get(Bucket::State, WATERMARK_KEY).await? else {
        return Ok(None);
    };
    match serde_json::from_slice(&entry.value) {
        Ok(watermark) => Ok(Some((watermark, entry.revision))),
        Err(error) => Err(BeatError::Foreign {
            key: WATERMARK_KEY.to_owned(),
            reason: error.to_string(),
        }),
    }
}

async fn read_states(broker: &dyn Broker) -> Result<BTreeMap<JobName, JobState>, BeatError> {
    let entries = broker::list(broker, Bucket::State, JOB_STATE_PREFIX).await?;
    let states = entries.iter();
    Ok(states
        .filter_map(|entry| read_job(entry, JOB_STATE_PREFIX))
        .collect())
}

/// A value under `PREFIX.NAME`; what cannot be read is told and passed over.
fn read_job<T: DeserializeOwned>(entry: &Entry, prefix: &str) -> Option<(JobName, T)> {
    let name = entry.key.strip_prefix(prefix)?.parse().ok()?;
    match serde_json::from_slice(&entry.value) {
        Ok(value) => Some((name, value)),
        Err(error) => {
            warn!(target: "orchestrator::beat", key = entry.key, %error, "a shared value is not understood");
            None
        }
    }
}

pub(super) fn encode(key: &str, value: &impl Serialize) -> Result<Vec<u8>, BeatError> {
    serde_json::to_vec(value).map_err(|error| BeatError::Foreign {
        key: key.to_owned(),
        reason: error.to_string(),
    })
}
