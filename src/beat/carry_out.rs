//! Publishes the runs of a step and says what became of its ticks.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use tracing::{info, warn};

use super::{Beat, BeatError};
use crate::{
    broker::{self, Broker, BrokerError, Bucket, Candidate, Published, SharedBroker, Slot},
    clock,
    job::{Job, JobName, Overlap, QueueName},
    plan::{JobState, JobStep, SkipReason, Span, Step, Verdict, VerdictNote},
    run::{RunId, RunMessage, RunRequest},
};

/// How many publishes are on their way at once.
const IN_FLIGHT: usize = 1024;

/// Ticks of a job that are to become runs, one after the other.
struct Due {
    job: Arc<Job>,
    /// Each with the start of its run.
    ticks: Vec<(DateTime<Utc>, DateTime<Utc>)>,
    last_success: Option<DateTime<Utc>>,
    left_queues: Vec<QueueName>,
}

/// What became of them; a note for each that became none.
struct Fate {
    job: JobName,
    notes: Vec<VerdictNote>,
}

impl Beat {
    /// Publishes everything that `step` fires. Returns the job states that changed by it.
    pub(super) async fn carry_out(
        &mut self,
        step: &Step,
    ) -> Result<Vec<(JobName, JobState)>, BeatError> {
        let due: Vec<_> = step
            .jobs
            .iter()
            .flat_map(|job| self.due(job, step.to))
            .collect();
        let broker = Arc::clone(&self.broker);
        let fates: Vec<Fate> = stream::iter(due)
            .map(|due| fire_all(Arc::clone(&broker), due))
            .buffer_unordered(IN_FLIGHT)
            .inspect(|_| self.options.pulse.beats())
            .try_collect()
            .await?;
        let mut notes: BTreeMap<&JobName, Vec<VerdictNote>> = BTreeMap::new();
        for fate in &fates {
            if !fate.notes.is_empty() {
                let of_job = notes.entry(&fate.job).or_default();
                of_job.extend(fate.notes.iter().cloned());
            }
        }
        let changed = step.jobs.iter().filter_map(|job_step| {
            let name = &job_step.job.name;
            tell(job_step);
            let notes = notes.get(name).map_or(&[][..], Vec::as_slice);
            let state = self.memory.state(name)?.after(
                job_step,
                notes,
                (step.from, step.to),
                self.options.keep_verdicts,
            )?;
            Some((name.clone(), state))
        });
        Ok(changed.collect())
    }

    /// The fired ticks of a job, in groups that need not wait for each other.
    fn due(&self, step: &JobStep, until: DateTime<Utc>) -> Vec<Due> {
        let name = &step.job.name;
        let state = self.memory.state(name);
        let left_queues = state.map_or(&[][..], |state| &state.left_queues);
        let was_told = |tick: &DateTime<Utc>| {
            state.is_some_and(|state| state.told_before(*tick, until).is_some())
        };
        let fire = step.decision.fire.iter().copied();
        let fire = fire.filter(|tick| !was_told(tick));
        let fire: Vec<_> = fire.map(|tick| (tick, step.starts_at(tick))).collect();
        let group = match step.job.policy.overlap {
            Overlap::Allow => 1,
            // They are in each other's way: the oldest is to come first.
            Overlap::Skip | Overlap::Queue | Overlap::Replace => fire.len().max(1),
        };
        let groups = fire.chunks(group).map(|ticks| Due {
            job: Arc::clone(&step.job),
            ticks: ticks.to_vec(),
            last_success: self.memory.last_success(name),
            left_queues: left_queues.to_vec(),
        });
        groups.collect()
    }
}

async fn fire_all(broker: SharedBroker, due: Due) -> Result<Fate, BeatError> {
    let mut notes = Vec::new();
    for &(tick, starts_at) in &due.ticks {
        notes.extend(fire(broker.as_ref(), &due, (tick, starts_at)).await?);
    }
    Ok(Fate {
        job: due.job.name.clone(),
        notes,
    })
}

/// Publishes the run of a tick; a note if there is to be none.
async fn fire(
    broker: &dyn Broker,
    due: &Due,
    (tick, starts_at): (DateTime<Utc>, DateTime<Utc>),
) -> Result<Option<VerdictNote>, BeatError> {
    let job = &due.job;
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
        fail::fail_point!("beat-before-publish");
        publish(broker, due, (&run_id, tick, starts_at), now).await?
    };
    fail::fail_point!("beat-published");
    match &note {
        None => info!(target: "orchestrator::beat", %run_id, job = %job.name, queue = %job.queue,
            late_ms = late.as_millis() as u64, "run published"),
        Some(note) => info!(target: "orchestrator::beat", %run_id, job = %job.name,
            verdict = ?note.verdict, live = note.run_id.as_ref().map(ToString::to_string),
            "tick not run"),
    }
    Ok(note)
}

async fn publish(
    broker: &dyn Broker,
    due: &Due,
    (run_id, tick, starts_at): (&RunId, DateTime<Utc>, DateTime<Utc>),
    now: DateTime<Utc>,
) -> Result<Option<VerdictNote>, BeatError> {
    let request = RunRequest {
        run_id: run_id.clone(),
        scheduled_for: tick,
        published_at: now,
        // Always given, also for a late tick: `expires` counts from it.
        not_before: due.job.policy.jitter.map(|_| starts_at),
        last_success: due.last_success,
        args: serde_json::Map::new(),
        parent: None,
    };
    let payload = match RunMessage::for_job(&due.job, request).encode() {
        Ok(payload) => payload,
        Err(error) => {
            warn!(target: "orchestrator::beat", %run_id, %error, "the run cannot be published");
            return Ok(Some(note(Verdict::Missed, tick, None)));
        }
    };
    let candidate = Candidate {
        run_id: run_id.clone(),
        queue: due.job.queue.clone(),
        overlap: due.job.policy.overlap,
        payload,
    };
    match broker::publish(broker, &candidate, &due.left_queues, now).await {
        Ok(Published::Stored | Published::Duplicate) => Ok(None),
        // A step that is repeated late may find its own run gone, and the next one in its place.
        Ok(Published::Occupied(live)) => match was_published(broker, &due.job, run_id).await? {
            true => Ok(None),
            false => Ok(Some(note(Verdict::Skipped, tick, Some(live)))),
        },
        Err(error @ BrokerError::Failed { .. }) => {
            warn!(target: "orchestrator::beat", %run_id, %error, "the run cannot be published");
            Ok(Some(note(Verdict::Missed, tick, None)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the broker holds the run, or held it: then it has a record.
async fn was_published(broker: &dyn Broker, job: &Job, run_id: &RunId) -> Result<bool, BeatError> {
    if broker.get(Bucket::Runs, &run_id.key()).await?.is_some() {
        return Ok(true);
    }
    for &slot in Slot::under(job.policy.overlap) {
        let occupant = broker.occupant(&job.queue, run_id, slot).await?;
        let message = occupant.and_then(|stored| RunMessage::decode(&stored.payload).ok());
        if message.is_some_and(|message| message.run_id == *run_id) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn note(verdict: Verdict, tick: DateTime<Utc>, run_id: Option<RunId>) -> VerdictNote {
    let reason = match verdict {
        Verdict::Skipped => Some(SkipReason::Overlap),
        Verdict::Fired | Verdict::Coalesced | Verdict::Missed => None,
    };
    VerdictNote {
        run_id,
        ..VerdictNote::on(verdict, reason, tick)
    }
}

fn tell(step: &JobStep) {
    for unfired in &step.decision.unfired {
        let Span { count, first, last } = unfired.span;
        let job = &step.job.name;
        match unfired.verdict {
            Verdict::Missed => warn!(target: "orchestrator::beat", %job, count, %first, %last,
                "ticks missed"),
            Verdict::Coalesced | Verdict::Skipped | Verdict::Fired => {
                info!(target: "orchestrator::beat", %job, verdict = ?unfired.verdict,
                    reason = ?unfired.reason, count, %first, %last, "ticks not run");
            }
        }
    }
}
