//! Publishes the runs of a step and says what became of its ticks.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use tracing::{info, warn};

use super::{Beat, BeatError};
use crate::{
    broker::{self, Broker, BrokerError, Bucket, Outgoing, Published, SharedBroker, Slot},
    clock,
    job::{Job, JobName, QueueName},
    plan::{JobState, SkipReason, Step, Verdict, VerdictNote},
    run::{RunId, RunMessage, RunRequest},
};

/// How many publishes are on their way at once.
const IN_FLIGHT: usize = 256;

/// A tick that is to become a run.
struct Due {
    job: Arc<Job>,
    tick: DateTime<Utc>,
    last_success: Option<DateTime<Utc>>,
    left_queues: Vec<QueueName>,
}

/// What became of it; a note where it became none.
struct Fate {
    job: JobName,
    note: Option<VerdictNote>,
}

impl Beat {
    /// Publishes everything that `step` fires. Returns the job states that changed by it.
    pub(super) async fn carry_out(
        &mut self,
        step: &Step,
    ) -> Result<Vec<(JobName, JobState)>, BeatError> {
        let mut due = Vec::new();
        for job_step in &step.jobs {
            let name = &job_step.job.name;
            let last_success = self.memory.last_success(name);
            let state = self.memory.state(name);
            let left_queues = state.map_or(&[][..], |state| &state.left_queues);
            due.extend(job_step.decision.fire.iter().map(|&tick| Due {
                job: Arc::clone(&job_step.job),
                tick,
                last_success,
                left_queues: left_queues.to_vec(),
            }));
        }
        let broker = Arc::clone(&self.broker);
        let fates: Vec<Fate> = stream::iter(due)
            .map(|due| fire(Arc::clone(&broker), due))
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
            let state = self
                .memory
                .state(name)?
                .after(job_step, notes, (step.from, step.to))?;
            Some((name.clone(), state))
        });
        Ok(changed.collect())
    }
}

async fn fire(broker: SharedBroker, due: Due) -> Result<Fate, BeatError> {
    let broker = broker.as_ref();
    let (job, tick) = (&due.job, due.tick);
    let run_id = RunId::for_tick(job.name.clone(), tick);
    let now = clock::now();
    let late = (now - tick).to_std().unwrap_or_default();
    let note = if late > job.policy.catch_up_window.get() {
        // Only a step that was announced long ago comes here: its runs may be out already.
        match was_published(broker, job, &run_id).await? {
            true => None,
            false => Some(note(Verdict::Missed, tick, None)),
        }
    } else {
        publish(broker, &due, &run_id, now).await?
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
    broker: &dyn Broker,
    due: &Due,
    run_id: &RunId,
    now: DateTime<Utc>,
) -> Result<Option<VerdictNote>, BeatError> {
    let request = RunRequest {
        run_id: run_id.clone(),
        scheduled_for: due.tick,
        published_at: now,
        // Always given, also for a late tick: `expires` counts from it.
        not_before: due.job.policy.jitter.map(|_| due.job.starts_at(due.tick)),
        last_success: due.last_success,
        args: serde_json::Map::new(),
        parent: None,
    };
    let payload = match RunMessage::for_job(&due.job, request).encode() {
        Ok(payload) => payload,
        Err(error) => {
            warn!(target: "orchestrator::beat", %run_id, %error, "the run cannot be published");
            return Ok(Some(note(Verdict::Missed, due.tick, None)));
        }
    };
    let outgoing = Outgoing {
        run_id: run_id.clone(),
        queue: due.job.queue.clone(),
        slot: Slot::of(&due.job),
        payload,
    };
    match broker::publish(broker, outgoing, &due.left_queues).await {
        Ok(Published::Stored | Published::Duplicate) => Ok(None),
        // A step that is repeated late may find its own run gone, and the next one in its place.
        Ok(Published::Occupied(live)) => match was_published(broker, &due.job, run_id).await? {
            true => Ok(None),
            false => Ok(Some(note(Verdict::Skipped, due.tick, Some(live)))),
        },
        Err(error @ BrokerError::Failed { .. }) => {
            warn!(target: "orchestrator::beat", %run_id, %error, "the run cannot be published");
            Ok(Some(note(Verdict::Missed, due.tick, None)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the broker holds the run, or held it: then it has a record.
async fn was_published(broker: &dyn Broker, job: &Job, run_id: &RunId) -> Result<bool, BeatError> {
    if broker.get(Bucket::Runs, &run_id.key()).await?.is_some() {
        return Ok(true);
    }
    let occupant = broker.occupant(&job.queue, run_id, Slot::of(job)).await?;
    let message = occupant.and_then(|stored| RunMessage::decode(&stored.payload).ok());
    Ok(message.is_some_and(|message| message.run_id == *run_id))
}

fn note(verdict: Verdict, tick: DateTime<Utc>, run_id: Option<RunId>) -> VerdictNote {
    VerdictNote {
        verdict,
        reason: match verdict {
            Verdict::Skipped => Some(SkipReason::Overlap),
            Verdict::Fired | Verdict::Coalesced | Verdict::Missed => None,
        },
        count: 1,
        first: tick,
        last: tick,
        down_from: None,
        down_to: None,
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
