//! What became of a tick and why; what is to become of the next one.

mod untold;

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use serde::Serialize;

use super::{OpsError, find_job, find_run, workers};
use crate::{
    broker::{Broker, Bucket, Slot},
    job::{BlackoutName, Job, JobName, Overlap},
    plan::{
        HeldUp, JOB_STATE_PREFIX, JobState, LEADER_KEY, Leader, PAUSE_PREFIX, Pause, Scheduled,
        SkipReason, Undecided, Verdict, VerdictNote, WATERMARK_KEY, Watermark,
    },
    run::{RunId, RunMessage, RunRecord, WorkerStatus},
};
use untold::without_a_trace;

/// Everything there is to say about a tick, and about the next one.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The job.
    pub job: JobName,
    /// The tick that is explained; `None` if the job has had none yet.
    pub tick: Option<DateTime<Utc>>,
    /// What became of it.
    pub account: Option<Account>,
    /// The next tick that is not paused.
    pub next: Option<DateTime<Utc>>,
    /// When the run of that tick starts.
    pub next_starts_at: Option<DateTime<Utc>>,
    /// What would keep the next tick from running, or its run from starting, as things are now.
    pub in_the_way: Vec<Obstacle>,
}

/// What became of a tick.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Account {
    /// It became a run.
    Fired {
        /// The run as it is now.
        run: Box<RunRecord>,
        /// From the tick, jitter included, to the start of the first attempt, in seconds.
        late_seconds: Option<f64>,
    },
    /// A later tick stands for it.
    Coalesced {
        /// The run of that tick.
        into: Option<RunId>,
    },
    /// It was not to be run.
    Skipped {
        /// Why.
        reason: SkipReason,
        /// The run that was still live.
        live: Option<RunId>,
        /// The blackout that was in force, if the job still names it.
        blackout: Option<BlackoutName>,
    },
    /// It was too late.
    Missed {
        /// Beat had last been at work at this time.
        down_from: Option<DateTime<Utc>>,
        /// Beat was at work again at this time.
        down_to: Option<DateTime<Utc>>,
    },
    /// Beat has not come to it yet.
    Pending {
        /// Beat has decided on all ticks up to here.
        watermark: Option<DateTime<Utc>>,
    },
    /// The trigger counts from a later time: the job was new, edited or enabled again then.
    BeforeItCounted {
        /// That time.
        counts_from: DateTime<Utc>,
    },
    /// Nobody decided on it.
    Undecided {
        /// Nothing was decided after this.
        from: DateTime<Utc>,
        /// Ticks after this were decided on again.
        until: DateTime<Utc>,
        /// Why.
        why: Undecided,
    },
    /// The job is disabled, and was so then.
    Disabled {
        /// Since this time.
        since: DateTime<Utc>,
    },
    /// It became a run, of which nothing is kept any more: every other verdict of that time is kept.
    Forgotten,
    /// Neither a run nor a verdict is kept, nor anything by which it could be told.
    Unknown,
}

/// What would keep a job from running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "obstacle", rename_all = "snake_case")]
pub enum Obstacle {
    /// It has no trigger.
    OnDemand,
    /// It is disabled.
    Disabled,
    /// Its trigger has no further tick.
    Over,
    /// It is paused.
    Paused(Pause),
    /// A blackout is in force at its next tick.
    Blackout {
        /// Its name.
        blackout: BlackoutName,
    },
    /// A run of it is live, and its runs may not overlap.
    Live {
        /// That run.
        run: RunId,
    },
    /// No worker serves its queue.
    NoWorker,
    /// Beat is there, and decides on nothing at present.
    BeatIsHeldUp(HeldUp),
    /// Beat decides on nothing at present.
    BeatIsDown {
        /// It had decided on all ticks up to here.
        watermark: Option<DateTime<Utc>>,
    },
}

/// A watermark that is older than this is that of a beat that does not run.
const SILENT_AFTER: Duration = Duration::seconds(90);

/// Explains the tick at `at`, or the last one before `now`.
pub async fn explain(
    broker: &dyn Broker,
    job: &JobName,
    at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<Explanation, OpsError> {
    let job = Arc::new(find_job(broker, job).await?);
    let state: Option<JobState> = read(broker, &format!("{JOB_STATE_PREFIX}{}", job.name)).await?;
    let watermark: Option<Watermark> = read(broker, WATERMARK_KEY).await?;
    let watermark = watermark.map(|watermark| watermark.at);
    let pause: Option<Pause> = read(broker, &format!("{PAUSE_PREFIX}{}", job.name)).await?;
    let pause = pause.filter(|pause| pause.covers(now));
    let scheduled = state
        .as_ref()
        .map(|state| Scheduled::new(Arc::clone(&job), state));
    // Its trigger as it counts at present.
    let job = scheduled
        .as_ref()
        .map_or(job, |scheduled| Arc::clone(&scheduled.job));
    let tick = match at {
        Some(at) => Some(tick_at(broker, &job, state.as_ref(), at).await?),
        None => last_tick(broker, &job, state.as_ref(), now).await?,
    };
    let account = match tick {
        Some(tick) => Some(account(broker, &job, state.as_ref(), (watermark, now), tick).await?),
        None => None,
    };
    // By a clock that was ahead what is due until the watermark has been decided on.
    let decides_from = watermark.map_or(now, |watermark| watermark.max(now));
    let due_after = match &pause {
        Some(pause) => pause.until.map(|until| until.max(decides_from)),
        None => Some(decides_from),
    };
    let next = scheduled
        .as_ref()
        .and_then(|scheduled| scheduled.next_after(due_after?));
    let mut in_the_way = obstacles(broker, &job, pause, watermark, now).await?;
    let blackout = next.and_then(|next| job.blackout_of(next));
    in_the_way.extend(blackout.map(|one| Obstacle::Blackout {
        blackout: one.name.clone(),
    }));
    Ok(Explanation {
        job: job.name.clone(),
        tick,
        account,
        next,
        next_starts_at: next
            .zip(scheduled)
            .map(|(next, scheduled)| scheduled.starts_at(next)),
        in_the_way,
    })
}

async fn read<T: serde::de::DeserializeOwned>(
    broker: &dyn Broker,
    key: &str,
) -> Result<Option<T>, OpsError> {
    let entry = broker.get(Bucket::State, key).await?;
    Ok(entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()))
}

/// `at`, if it is a tick, or was one: then a run or a note tells of it.
async fn tick_at(
    broker: &dyn Broker,
    job: &Job,
    state: Option<&JobState>,
    at: DateTime<Utc>,
) -> Result<DateTime<Utc>, OpsError> {
    let before = at - Duration::nanoseconds(1);
    let next = job.next_after(before);
    let is_first_run = state.is_some_and(|state| state.first_run_at == Some(at));
    let is_noted = state.is_some_and(|state| state.ledger.on(at).is_some());
    if next == Some(at) || is_first_run || is_noted {
        return Ok(at);
    }
    let name = job.name.clone();
    match find_run(broker, &RunId::for_tick(name.clone(), at)).await {
        Ok(_) => Ok(at),
        Err(OpsError::UnknownRun(_)) => Err(OpsError::NoTick {
            job: name,
            at,
            next,
        }),
        Err(error) => Err(error),
    }
}

/// The last tick at or before `now`.
async fn last_tick(
    broker: &dyn Broker,
    job: &Job,
    state: Option<&JobState>,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, OpsError> {
    let Some(state) = state else {
        return Ok(last_of_trigger(job, now));
    };
    // A grid that starts at a run says nothing of the time before.
    let trigger = last_of_trigger(job, now);
    let trigger = trigger.filter(|tick| state.anchored_at.is_none_or(|anchor| anchor < *tick));
    let noted = state.ledger.notes.last().map(|note| note.last);
    let latest = broker
        .latest(Bucket::Runs, &format!("{}.", job.name))
        .await?;
    let latest = latest.and_then(|entry| serde_json::from_slice::<RunRecord>(&entry.value).ok());
    let fired = latest.and_then(|run| run.run_id.tick());
    let known = [trigger, state.first_run_at, noted, fired];
    Ok(known
        .into_iter()
        .flatten()
        .filter(|&tick| tick <= now)
        .max())
}

fn last_of_trigger(job: &Job, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut reach = Duration::seconds(1);
    // Looks back over ever longer stretches, as far as anything is kept.
    while reach <= Duration::days(2 * 366) {
        let from = now.checked_sub_signed(reach)?;
        let ticks = std::iter::successors(job.next_after(from), |&tick| job.next_after(tick));
        if let Some(last) = ticks.take_while(|&tick| tick <= now).last() {
            return Some(last);
        }
        reach = reach * 4;
    }
    None
}

async fn account(
    broker: &dyn Broker,
    job: &Job,
    state: Option<&JobState>,
    (watermark, now): (Option<DateTime<Utc>>, DateTime<Utc>),
    tick: DateTime<Utc>,
) -> Result<Account, OpsError> {
    let mut called_off = false;
    match find_run(broker, &RunId::for_tick(job.name.clone(), tick)).await {
        Ok(run) if run.is_called_off() => called_off = true,
        Ok(run) => {
            let is_first_run = state.is_some_and(|state| state.first_run_at == Some(tick));
            let wished = match is_first_run {
                true => tick,
                false => job.starts_at(tick),
            };
            let late = run.started_at.map(|start| start - wished);
            let late_seconds = late.map(|late| late.as_seconds_f64());
            let run = Box::new(run);
            return Ok(Account::Fired { run, late_seconds });
        }
        Err(OpsError::UnknownRun(_)) => {}
        Err(error) => return Err(error),
    }
    if let Some(note) = state.and_then(|state| state.ledger.on(tick)) {
        return Ok(told_by(job, tick, note));
    }
    if called_off {
        return Ok(Account::Unknown);
    }
    let is_past = |state: &&JobState| Some(tick) <= watermark.max(Some(state.counts_from));
    Ok(match state.filter(is_past) {
        Some(state) => without_a_trace((job, state), tick, now),
        None => Account::Pending { watermark },
    })
}

fn told_by(job: &Job, tick: DateTime<Utc>, note: &VerdictNote) -> Account {
    let run_id = note.run_id.clone();
    match note.verdict {
        Verdict::Fired => Account::Forgotten,
        Verdict::Coalesced => Account::Coalesced { into: run_id },
        Verdict::Skipped => Account::Skipped {
            reason: note.reason.unwrap_or_default(),
            live: run_id,
            blackout: match note.reason {
                Some(SkipReason::Blackout) => job.blackout_of(tick).map(|one| one.name.clone()),
                Some(SkipReason::Overlap | SkipReason::Paused) | None => None,
            },
        },
        Verdict::Missed => Account::Missed {
            down_from: note.down_from,
            down_to: note.down_to,
        },
    }
}

async fn obstacles(
    broker: &dyn Broker,
    job: &Job,
    pause: Option<Pause>,
    watermark: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<Vec<Obstacle>, OpsError> {
    let mut found = Vec::new();
    if job.trigger == crate::job::Trigger::OnDemand {
        found.push(Obstacle::OnDemand);
    } else if !job.enabled {
        found.push(Obstacle::Disabled);
    } else if job.next_after(now).is_none() {
        found.push(Obstacle::Over);
    }
    found.extend(pause.map(Obstacle::Paused));
    found.extend(in_its_slots(broker, job, now).await?);
    let served = workers(broker).await?;
    let serves = |worker: &WorkerStatus| worker.served().any(|queue| queue == job.queue);
    if !served.iter().any(serves) {
        found.push(Obstacle::NoWorker);
    }
    let leader: Option<Leader> = read(broker, LEADER_KEY).await?;
    if watermark.is_none_or(|watermark| now - watermark > SILENT_AFTER) {
        found.push(Obstacle::BeatIsDown { watermark });
    }
    let held_up = leader.and_then(|leader| leader.held_up);
    found.extend(held_up.map(Obstacle::BeatIsHeldUp));
    Ok(found)
}

/// The live run that would keep the next one from being published.
async fn in_its_slots(
    broker: &dyn Broker,
    job: &Job,
    now: DateTime<Utc>,
) -> Result<Option<Obstacle>, OpsError> {
    match job.policy.overlap {
        Overlap::Skip | Overlap::Queue => {}
        Overlap::Allow | Overlap::Replace => return Ok(None),
    }
    let probe = RunId::for_tick(job.name.clone(), now);
    let mut live = None;
    for &slot in Slot::under(job.policy.overlap) {
        let Some(stored) = broker.occupant(&job.queue, &probe, slot).await? else {
            return Ok(None);
        };
        live = RunMessage::decode(&stored.payload).ok();
    }
    Ok(live.map(|live| Obstacle::Live { run: live.run_id }))
}
