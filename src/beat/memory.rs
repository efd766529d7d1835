//! What beat knows between two steps: the watermark with its revision, the state of each job and
//! when each last succeeded. Owns the keys `watermark` and `job.NAME` of the state bucket.
//!
//! The shared copy decides. Beat's own copy only replaces one that was lost.

mod news;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use tracing::warn;

use super::{
    BeatError, BeatOptions, OwnState,
    guard::Guard,
    installation::{Found, Installation},
    others::Others,
    own::{Kept, Readiness},
    shared::{encode, read_watermark},
    states::States,
};
use crate::{
    broker::{Bucket, Cas, Changes, Durability, Revision, SharedBroker},
    clock,
    job::JobName,
    plan::{JobState, Pause, Scheduled, WATERMARK_KEY, Watermark, outlives},
    run::Past,
    schedules::JobSet,
};

/// How long a beat waits that goes on from its own copy: the copy may lack the last ticks before the broker lost its data,
/// and workers put the records of what they execute back meanwhile, so that it is not executed beside itself.
const WORKERS_FIRST: Duration = Duration::from_secs(1);

/// What a look at the shared copy found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shared {
    /// It is as new as memory, or newer.
    Intact,
    /// It was lost or set back, and has been written again; or another one was imported.
    Restored,
}

pub(super) struct Memory {
    watermark: Watermark,
    revision: Option<Revision>,
    states: States,
    installation: Installation,
    /// What others wrote, to be shared again should the broker lose it.
    others: Others,
    guard: Guard,
    /// Changed since the own copy was written.
    unsaved: BTreeSet<JobName>,
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
        broker.make_everything().await?;
        let (shared, revision) = read_watermark(broker.as_ref()).await?;
        let fresh = Watermark {
            at: now,
            next: None,
            beat: options.id.clone(),
            set_back_from: None,
        };
        let mut memory = Self {
            watermark: shared.clone().unwrap_or(fresh),
            revision,
            states: States::read(broker).await?,
            installation: Installation::default(),
            others: Others::default(),
            guard: Guard::default(),
            unsaved: BTreeSet::new(),
            pasts: HashMap::new(),
            pauses: HashMap::new(),
            heard_of: BTreeSet::new(),
            news: None,
        };
        memory.unsaved = memory.states().map(|(name, _)| name.clone()).collect();
        if let Some(own) = &options.own {
            memory.installation = Installation::known(own.installation()?);
            memory.others = own.others()?;
            if let Some(kept) = own.load()? {
                memory.compare_with_own(broker, shared, kept).await?;
            }
        }
        memory.installation.settle(broker).await?;
        let seeded = memory.watermark.clone();
        memory.move_watermark(broker, seeded).await?;
        memory.others.know_pauses(memory.states.iter())?;
        memory.watch_news(broker).await?;
        Ok(memory)
    }

    /// Replaces what the broker lost by what this beat kept.
    async fn compare_with_own(
        &mut self,
        broker: &SharedBroker,
        shared: Option<Watermark>,
        (kept, kept_states): Kept,
    ) -> Result<(), BeatError> {
        for (name, state) in &kept_states {
            match self.states.get(name) == Some(state) {
                true => self.unsaved.remove(name),
                false => self.unsaved.insert(name.clone()),
            };
        }
        let found = self.installation.look(broker).await?;
        // What was kept of one installation says nothing of the ticks of another, nor what was kept under a clock that
        // was hours ahead of those that follow.
        let is_older = match &shared {
            Some(shared) => !found.is_replaced() && outlives(kept.at, shared.at, clock::now()),
            None => true,
        };
        if is_older {
            warn!(target: "orchestrator::beat", watermark = %kept.at, had = shared.is_some(),
                "the shared state is missing or older than this beat's own: going on from its own");
            self.watermark = kept;
        }
        let is_lost = is_older || found.is_lost();
        let mut lost = kept_states;
        lost.retain(|(name, _)| is_lost || found == Found::Same && self.states.is_foreign(name));
        self.states.restore(broker, lost, is_older).await?;
        if is_lost {
            self.others.restore(broker).await?;
            point!("beat-own-restored");
            tokio::time::sleep(WORKERS_FIRST).await;
        }
        Ok(())
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

    /// The states of all jobs that are known, defined or not.
    pub(super) fn states(&self) -> impl Iterator<Item = (&JobName, &JobState)> {
        self.states.iter()
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

    /// Reads all that is shared again, after an outage or because another beat changed it. What was lost of `jobs`,
    /// which are in force, is written again.
    pub(super) async fn refresh(
        &mut self,
        broker: &SharedBroker,
        jobs: &JobSet,
    ) -> Result<Shared, BeatError> {
        let (found, revision) = read_watermark(broker.as_ref()).await?;
        let states = States::read(broker).await?;
        let before = std::mem::replace(&mut self.states, states);
        let now = clock::now();
        // A beat whose clock is right sets back what one wrote whose clock was hours ahead.
        let is_set_back = |shared: &Watermark| outlives(self.watermark.at, shared.at, now);
        let installation = self.installation.look(broker).await?;
        let is_imported = installation == Found::Imported;
        let intact = found.filter(|shared| is_imported || !is_set_back(shared));
        let is_older = intact.is_none();
        let is_another = installation.is_lost();
        let is_in_force = |name: &JobName| is_older || is_another || jobs.get(name).is_some();
        let mut kept = self.states.lost_since(&before, is_older, is_in_force);
        kept.retain(|_| is_older || !is_imported);
        let is_restored = is_older || is_another || is_imported || !kept.is_empty();
        if is_restored {
            let restored = self.states.restore(broker, kept, is_older).await;
            if let Err(error) = restored {
                // To be compared again.
                self.states = before;
                return Err(error);
            }
        }
        if is_another {
            broker.make_everything().await?;
        }
        if is_older || is_another {
            self.others.restore(broker).await?;
        }
        if is_older || is_another || is_imported {
            self.installation.settle(broker).await?;
            self.news = None;
        }
        let changed = self.states.iter();
        let changed = changed.filter(|(name, state)| before.get(name) != Some(state));
        self.unsaved.extend(changed.map(|(name, _)| name.clone()));
        match intact {
            Some(shared) => {
                self.watermark = shared;
                self.revision = revision;
            }
            None => {
                warn!(target: "orchestrator::beat",
                    "the shared watermark was lost or set back: it is restored");
                self.revision = revision;
                let restored = self.watermark.clone();
                self.move_watermark(broker, restored).await?;
            }
        }
        if self.news.is_none() {
            self.watch_news(broker).await?;
        }
        Ok(match is_restored {
            true => Shared::Restored,
            false => Shared::Intact,
        })
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
        point!("beat-watermark-moved");
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
        self.unsaved
            .extend(states.iter().map(|(name, _)| name.clone()));
        self.states.write(broker, states).await
    }

    /// Forgets a job that is defined no longer, for good.
    pub(super) async fn forget(
        &mut self,
        broker: &SharedBroker,
        job: &JobName,
    ) -> Result<(), BeatError> {
        self.states.forget(broker, job).await?;
        self.unsaved.insert(job.clone());
        Ok(())
    }

    /// Whether all that is known was there when the own copy was written last.
    pub(super) fn is_kept(&self) -> bool {
        self.unsaved.is_empty() && self.others.are_saved()
    }

    /// Writes the watermark and what changed since the last time to this beat's own copy.
    pub(super) async fn keep_own(&mut self, own: Option<&OwnState>) {
        if let Some(own) = own {
            match own.readiness() {
                Readiness::Ready => {}
                Readiness::Anew => {
                    let all = self.states.iter().map(|(name, _)| name.clone());
                    self.unsaved.extend(all);
                    self.others.all_anew();
                }
                Readiness::Broken => return,
            }
            let states = &self.states;
            let changed = self.unsaved.iter().map(|name| (name, states.get(name)));
            let installation = self.installation.name();
            let kept = own.keep(&self.watermark, installation, changed, &self.others);
            if !kept.await {
                return;
            }
        }
        self.unsaved.clear();
        self.others.saved();
    }

    /// The states of jobs of which something was heard that they do not say.
    pub(super) fn heard(&self, jobs: &JobSet, now: DateTime<Utc>) -> Vec<(JobName, JobState)> {
        let changed = self.heard_of.iter().filter_map(|name| {
            let (job, state) = (jobs.get(name)?, self.states.get(name)?);
            let pause = self.pauses.get(name);
            if job.trigger.anchor().is_epoch() && state.paused.as_ref() == pause {
                return None;
            }
            let heard = (pause, self.pasts.get(name));
            Some((
                name.clone(),
                state.heard(job, heard, self.watermark.at, now)?,
            ))
        });
        changed.collect()
    }

    /// Writes anew what somebody wrote over: what others wrote, and the definitions of `jobs`.
    pub(super) async fn mend(
        &mut self,
        broker: &SharedBroker,
        jobs: &JobSet,
    ) -> Result<(), BeatError> {
        self.others.mend(broker).await?;
        self.guard.mend(broker, jobs).await
    }
}
