//! Publishes the runs of a step and says what became of its ticks.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use tracing::{info, warn};

use super::{Beat, BeatError};
use crate::{
    broker::{self, BrokerError, Bucket, Outgoing, Published, Slot},
    clock,
    job::{Job, JobName},
    plan::{JobState, Step, Verdict, VerdictNote},
    run::{RunId, RunMessage, RunRequest},
};

/// How many publishes are on their way at once.
const IN_FLIGHT: usize = 256;

/// What became of one tick that was to be fired.
struct Fate {
    job: JobName,
    note: Option<VerdictNote>,
}

impl Beat {
    /// Publishes everything that `step` fires. Returns the job states that changed by it.
    pub(super) async fn carry_out(
        &self,
        step: &Step,
    ) -> Result<Vec<(JobName, JobState)>, BeatError> {
        let ticks = step.jobs.iter().flat_map(|job_step| {
            let fire = job_step.decision.fire.iter();
            fire.map(|&tick| (job_step.job.as_ref(), tick))
        });
        let fates: Vec<Fate> = stream::iter(ticks)
            .map(|(job, tick)| self.fire(job, tick))
            .buffer_unordered(IN_FLIGHT)
            .try_collect()
            .await?;
        let mut notes: BTreeMap<&JobName, Vec<VerdictNote>> = BTreeMap::new();
        for fate in &fates {
            if let Some(note) = &fate.note {
                notes.entry(&fate.job).or_default().push(note.clone());
            }
        }
        let changed = step.jobs.iter().filter_map(|job_step| {
            let name = &job_step.job.name;
            tell(job_step);
            let notes = notes.get(name).map_or(&[][..], Vec::as_slice);
            let state = self.memory.state(name)?.after(job_step, notes, step.to)?;
            Some((name.clone(), state))
        });
        Ok(changed.collect())
    }

    async fn fire(&self, job: &Job, tick: DateTime<Utc>) -> Result<Fate, BeatError> {
        let run_id = RunId::for_tick(job.name.clone(), tick);
        let now = clock::now();
        let late = (now - tick).to_std().unwrap_or_default();
        let note = if late > job.policy.catch_up_window.get() {
            // Only a step that was announced long ago comes here: its runs may be out already.
            match self.was_published(job, &run_id).await? {
                true => None,
                false => Some(note(Verdict::Missed, tick, None)),
            }
        } else {
            self.publish(job, &run_id, tick, now).await?
        };
        match &note {
            None => info!(target: "orchestrator::beat", %run_id, job = %job.name, queue = %job.queue,
                late_ms = late.as_millis() as u64, "run published"),
            Some(note) => info!(target: "orchestrator::beat", %run_id, job = %job.name,
                verdict = ?note.verdict, live = note.run_id.as_ref().map(ToString::to_string),
                "tick not run"),
        }
        Ok(Fate {
            job: job.name.clone(),
            note,
        })
    }

    async fn publish(
        &self,
        job: &Job,
        run_id: &RunId,
        tick: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Option<VerdictNote>, BeatError> {
        let request = RunRequest {
            run_id: run_id.clone(),
            scheduled_for: tick,
            published_at: now,
            not_before: None,
            last_success: self.memory.last_success(&job.name),
            args: serde_json::Map::new(),
            parent: None,
        };
        let payload = match RunMessage::for_job(job, request).encode() {
            Ok(payload) => payload,
            Err(error) => {
                warn!(target: "orchestrator::beat", %run_id, %error, "the run cannot be published");
                return Ok(Some(note(Verdict::Missed, tick, None)));
            }
        };
        let outgoing = Outgoing {
            run_id: run_id.clone(),
            queue: job.queue.clone(),
            slot: Slot::of(job),
            payload,
        };
        match broker::publish(self.broker.as_ref(), outgoing).await {
            Ok(Published::Stored | Published::Duplicate) => Ok(None),
            Ok(Published::Occupied(live)) => Ok(Some(note(Verdict::Skipped, tick, Some(live)))),
            Err(error @ BrokerError::Failed { .. }) => {
                warn!(target: "orchestrator::beat", %run_id, %error, "the run cannot be published");
                Ok(Some(note(Verdict::Missed, tick, None)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the broker holds the run, or held it: then it has a record.
    async fn was_published(&self, job: &Job, run_id: &RunId) -> Result<bool, BeatError> {
        let broker = self.broker.as_ref();
        if broker.get(Bucket::Runs, &run_id.key()).await?.is_some() {
            return Ok(true);
        }
        let occupant = broker.occupant(&job.queue, run_id, Slot::of(job)).await?;
        let message = occupant.and_then(|stored| RunMessage::decode(&stored.payload).ok());
        Ok(message.is_some_and(|message| message.run_id == *run_id))
    }
}

fn note(verdict: Verdict, tick: DateTime<Utc>, run_id: Option<RunId>) -> VerdictNote {
    VerdictNote {
        verdict,
        count: 1,
        first: tick,
        last: tick,
        run_id,
    }
}

fn tell(step: &crate::plan::JobStep) {
    if let Some(missed) = step.decision.missed {
        warn!(target: "orchestrator::beat", job = %step.job.name, count = missed.count,
            first = %missed.first, last = %missed.last, "ticks missed");
    }
    if let Some(coalesced) = step.decision.coalesced {
        info!(target: "orchestrator::beat", job = %step.job.name, count = coalesced.count,
            first = %coalesced.first, last = %coalesced.last, "ticks coalesced into the newest");
    }
}
