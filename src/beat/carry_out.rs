//! Publishes the runs of a step and says what became of its ticks.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use tracing::{info, warn};

use super::{Beat, BeatError, shared::encode, telling::Told};
use crate::{
    broker::{
        self, Broker, BrokerError, Bucket, Candidate, Cas, Durability, Published, SharedBroker,
    },
    clock,
    job::{Job, JobName, Overlap, QueueName},
    plan::{JobState, JobStep, SkipReason, Span, Step, Verdict, VerdictNote, is_too_late},
    run::{RunId, RunMessage, RunRecord, RunRequest},
};

/// How many publishes are on their way at once.
const IN_FLIGHT: usize = 1024;

/// Whether an announced step may have been begun before, by whomever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tried {
    Never,
    /// What was asked for then may still be on its way to the broker.
    Before,
}

/// Ticks of a job that are to become runs, one after the other.
struct Due {
    job: Arc<Job>,
    /// Each with the start of its run.
    ticks: Vec<(DateTime<Utc>, DateTime<Utc>)>,
    last_success: Option<DateTime<Utc>>,
    left_queues: Vec<QueueName>,
    tried: Tried,
    told: Arc<Told>,
}

impl Due {
    /// Where its runs may be stored.
    fn queues(&self) -> impl Iterator<Item = &QueueName> {
        std::iter::once(&self.job.queue).chain(&self.left_queues)
    }

    /// Why a tick that was to be run when the step was announced is not to be run `now`.
    fn is_over(
        &self,
        tick: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Option<(VerdictNote, &'static str)> {
        let policy = &self.job.policy;
        if is_too_late(policy, tick, now) {
            return Some((note(Verdict::Missed, tick, None), "too late"));
        }
        // What is carried out at once was looked at just now.
        let is_closed = policy.blackouts.iter().any(|one| one.covers(now));
        let closed = VerdictNote::on(Verdict::Skipped, Some(SkipReason::Blackout), tick);
        (self.tried == Tried::Before && is_closed).then_some((closed, "a blackout was in force"))
    }
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
        tried: Tried,
    ) -> Result<Vec<(JobName, JobState)>, BeatError> {
        let due: Vec<_> = step
            .jobs
            .iter()
            .flat_map(|job| self.due(job, step.to, tried))
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
            tell(job_step, &self.told);
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

    /// Writes changed states, and lines up their jobs anew.
    pub(super) async fn change(
        &mut self,
        states: Vec<(JobName, JobState)>,
    ) -> Result<(), BeatError> {
        let names: Vec<_> = states.iter().map(|(name, _)| name.clone()).collect();
        self.memory.write_states(&self.broker, states).await?;
        for name in &names {
            if let Some(scheduled) = self.memory.scheduled(&self.jobs, name) {
                self.timeline.replace(scheduled, self.memory.watermark().at);
            }
        }
        Ok(())
    }

    /// Has earlier tries of `step` fail, whoever is in the middle of one: what they write, even if it is on its
    /// way already, finds another version than it expects.
    pub(super) async fn begin_again(&mut self, step: &Step) -> Result<(), BeatError> {
        self.announce(step.to).await?;
        let names = step.jobs.iter().map(|job| &job.job.name);
        let known = names.filter_map(|name| Some((name.clone(), self.memory.state(name)?.clone())));
        let known = known.collect();
        self.memory.write_states(&self.broker, known).await
    }

    /// The fired ticks of a job, in groups that need not wait for each other.
    fn due(&self, step: &JobStep, until: DateTime<Utc>, tried: Tried) -> Vec<Due> {
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
            tried,
            told: Arc::clone(&self.told),
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
    let message = message(due, (&run_id, tick, starts_at), now);
    let note = match due.is_over(tick, now) {
        Some((note, why)) => {
            // Only a step that was announced long ago comes here: its runs may be out already.
            point!("beat-too-late");
            let was_published = was_published(broker, due, &message, why).await?;
            (!was_published).then_some(note)
        }
        None => {
            point!("beat-before-publish");
            publish(broker, due, &message, now).await?
        }
    };
    point!("beat-published");
    match &note {
        _ if !due.told.is_news(&run_id) => {}
        None => info!(target: "orchestrator::beat", %run_id, job = %job.name, queue = %job.queue,
            late_ms = late.as_millis() as u64, "run published"),
        Some(note) => info!(target: "orchestrator::beat", %run_id, job = %job.name,
            verdict = %note.verdict, live = note.run_id.as_ref().map(ToString::to_string),
            "tick not run"),
    }
    Ok(note)
}

fn message(
    due: &Due,
    (run_id, tick, starts_at): (&RunId, DateTime<Utc>, DateTime<Utc>),
    now: DateTime<Utc>,
) -> RunMessage {
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
    RunMessage::for_job(&due.job, request)
}

async fn publish(
    broker: &dyn Broker,
    due: &Due,
    message: &RunMessage,
    now: DateTime<Utc>,
) -> Result<Option<VerdictNote>, BeatError> {
    let (run_id, tick) = (&message.run_id, message.scheduled_for);
    if due.tried == Tried::Before {
        // What was in its way may be gone by now.
        let known = known(broker, run_id).await?;
        point!("beat-asked");
        match known {
            // What its job was when it was published may have been edited since.
            Known::Nothing if broker::is_stored_in(broker, run_id, due.queues()).await? => {
                return stored(broker, message).await;
            }
            Known::Nothing => {}
            Known::Begun => return Ok(None),
            Known::CalledOff => return Ok(Some(note(Verdict::Skipped, tick, None))),
        }
    }
    let payload = match message.encode() {
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
        Ok(Published::Stored | Published::Duplicate) if due.tried == Tried::Never => Ok(None),
        Ok(Published::Stored | Published::Duplicate) => stored(broker, message).await,
        // A step that is repeated late may find its own run gone, and the next one in its place.
        Ok(Published::Occupied(live)) => {
            point!("beat-occupied");
            let why = format!("{live} was live");
            let was_published = was_published(broker, due, message, &why).await?;
            point!("beat-looked-up");
            Ok((!was_published).then(|| note(Verdict::Skipped, tick, Some(live))))
        }
        Err(error @ BrokerError::Failed { .. }) => {
            warn!(target: "orchestrator::beat", %run_id, %error, "the run cannot be published");
            Ok(Some(note(Verdict::Missed, tick, None)))
        }
        Err(error) => Err(error.into()),
    }
}

/// A run is stored whose step was tried before: all who try it are to say the same of it.
async fn stored(
    broker: &dyn Broker,
    message: &RunMessage,
) -> Result<Option<VerdictNote>, BeatError> {
    point!("beat-before-agreement");
    let called_off = agree(broker, RunRecord::queued(message)).await? == Known::CalledOff;
    point!("beat-agreed");
    Ok(called_off.then(|| note(Verdict::Skipped, message.scheduled_for, None)))
}

/// What the record of a run tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// There is none.
    Nothing,
    /// The run was published.
    Begun,
    /// Its tick was decided on otherwise.
    CalledOff,
}

async fn known(broker: &dyn Broker, run_id: &RunId) -> Result<Known, BeatError> {
    let Some(entry) = broker.get(Bucket::Runs, &run_id.key()).await? else {
        return Ok(Known::Nothing);
    };
    let record = serde_json::from_slice::<RunRecord>(&entry.value);
    // One that is not understood is one all the same.
    Ok(match record.is_ok_and(|record| record.is_called_off()) {
        true => Known::CalledOff,
        false => Known::Begun,
    })
}

/// Whether the broker holds the run, or held it: then it has a record. If not, and somebody may have asked for it
/// before, it is called off: that call may arrive yet, and whoever is given the run then drops it.
async fn was_published(
    broker: &dyn Broker,
    due: &Due,
    message: &RunMessage,
    why: &str,
) -> Result<bool, BeatError> {
    let run_id = &message.run_id;
    let known = known(broker, run_id).await?;
    point!("beat-sought-record");
    match known {
        Known::Nothing => {}
        Known::Begun => return Ok(true),
        Known::CalledOff => return Ok(false),
    }
    if broker::is_stored_in(broker, run_id, due.queues()).await? {
        return Ok(true);
    }
    if due.tried == Tried::Never {
        return Ok(false);
    }
    let why = format!("its tick was not run: {why}");
    let record = RunRecord::called_off(message, clock::now(), &why);
    point!("beat-before-calling-off");
    Ok(agree(broker, record).await? == Known::Begun)
}

/// Makes `record` the record of its run unless there is one, so that all who try to carry out a step come to the
/// same verdict.
async fn agree(broker: &dyn Broker, record: RunRecord) -> Result<Known, BeatError> {
    let key = record.run_id.key();
    let value = encode(&key, &record)?;
    let written = broker
        .compare_and_set(Bucket::Runs, &key, None, value, Durability::Power)
        .await?;
    point!("beat-record-written");
    match written {
        Cas::Done(_) if record.is_called_off() => Ok(Known::CalledOff),
        Cas::Done(_) => Ok(Known::Begun),
        Cas::Conflict => {
            point!("beat-disagreed");
            known(broker, &record.run_id).await
        }
    }
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

fn tell(step: &JobStep, told: &Told) {
    for unfired in &step.decision.unfired {
        let Span { count, first, last } = unfired.span;
        let job = &step.job.name;
        if !told.are_news(job, first) {
            continue;
        }
        match unfired.verdict {
            Verdict::Missed => warn!(target: "orchestrator::beat", %job, count, %first, %last,
                "ticks missed"),
            Verdict::Coalesced | Verdict::Skipped | Verdict::Fired => {
                info!(target: "orchestrator::beat", %job, verdict = %unfired.verdict,
                    reason = unfired.reason.map(tracing::field::display), count, %first, %last, "ticks not run");
            }
        }
    }
}
