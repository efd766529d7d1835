//! Publishes the runs of a step and says what became of its ticks.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use tracing::{info, warn};

use super::{
    Beat, BeatError,
    publish::{Became, Due, Tried, publish, was_published},
    telling::Told,
};
use crate::{
    broker::{Broker, SharedBroker},
    clock,
    job::{JobName, Overlap},
    plan::{JobState, JobStep, Span, Step, Verdict, VerdictNote},
    run::{RunId, RunMessage, RunRequest},
};

/// How many publishes are on their way at once.
const IN_FLIGHT: usize = 1024;

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
            set_back_from: self.memory.watermark().set_back_from,
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
    let became = match due.is_over(tick, now) {
        Some((note, why)) => {
            // Only a step that was announced long ago comes here: its runs may be out already.
            point!("beat-too-late");
            match was_published(broker, due, &message, why).await? {
                true => Became::Run,
                false => Became::NoRun(note),
            }
        }
        None => {
            point!("beat-before-publish");
            publish(broker, due, &message, now).await?
        }
    };
    point!("beat-published");
    match &became {
        _ if !due.told.is_news(&run_id) => {}
        Became::Run => info!(target: "orchestrator::beat", %run_id, job = %job.name,
            queue = %job.queue, late_ms = late.as_millis() as u64, "run published"),
        Became::EarlyRun => info!(target: "orchestrator::beat", %run_id, job = %job.name,
            "tick has a run already: a clock that was ahead had it start early"),
        Became::NoRun(note) => info!(target: "orchestrator::beat", %run_id, job = %job.name,
            verdict = %note.verdict, live = note.run_id.as_ref().map(ToString::to_string),
            "tick not run"),
    }
    Ok(match became {
        Became::Run | Became::EarlyRun => None,
        Became::NoRun(note) => Some(note),
    })
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
