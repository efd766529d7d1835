//! The jobs: schedule, queue, last run and its state, next tick.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};

use super::OpsError;
use crate::{
    broker::{self, Broker, Bucket},
    job::{Job, JobName, QueueName},
    plan::{
        DEFINITION_PREFIX, JOB_STATE_PREFIX, JobState, LEADER_KEY, Leader, Ledger, PAUSE_PREFIX,
        Pause, RELOAD_KEY, ReloadStatus, Scheduled, Standing, VerdictNote,
    },
    run::{LAST_RUN_PREFIX, LastRun, RunRecord},
};

/// A job as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct JobView {
    /// Its name.
    pub name: JobName,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// For people and filters.
    pub tags: Vec<String>,
    /// What makes it due, in a few words.
    pub schedule: String,
    /// The zone of its schedule.
    pub timezone: String,
    /// Its route.
    pub queue: QueueName,
    /// Whether it has ticks.
    pub enabled: bool,
    /// The pause that is in force now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
    /// Since when it has gone without a success for longer than `alert_if_no_success_for`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overdue_since: Option<DateTime<Utc>>,
    /// Its next tick that is not paused, in its zone.
    pub next: Option<DateTime<chrono_tz::Tz>>,
    /// Its last run that has ended or is running.
    pub last: Option<LastRun>,
    /// Ticks that were too late to be run.
    pub missed: u64,
    /// Ticks that found a run of the job still live, the job paused, or a blackout in force.
    pub skipped: u64,
    /// Ticks that a later one stands for.
    pub coalesced: u64,
    /// The last unusual verdicts, oldest first.
    pub notes: Vec<VerdictNote>,
}

/// The jobs and how the last reading of their files went.
#[derive(Debug, Clone, Serialize)]
pub struct JobsView {
    /// By name.
    pub jobs: Vec<JobView>,
    /// The last reading; `None` if no beat has run yet.
    pub reload: Option<ReloadStatus>,
    /// What beat said of itself last; `None` if no beat has run yet.
    pub beat: Option<Leader>,
}

/// Every job that a beat has shared.
pub async fn jobs(broker: &dyn Broker, now: DateTime<Utc>) -> Result<JobsView, OpsError> {
    let definitions: Vec<(JobName, Job)> = values(broker, DEFINITION_PREFIX).await?;
    let states: BTreeMap<JobName, JobState> = values(broker, JOB_STATE_PREFIX)
        .await?
        .into_iter()
        .collect();
    let mut pauses: BTreeMap<JobName, Pause> =
        values(broker, PAUSE_PREFIX).await?.into_iter().collect();
    let mut lasts: BTreeMap<JobName, LastRun> =
        values(broker, LAST_RUN_PREFIX).await?.into_iter().collect();
    let beat = broker.get(Bucket::State, LEADER_KEY).await?;
    let beat: Option<Leader> = beat.and_then(|entry| serde_json::from_slice(&entry.value).ok());
    let decides_from = beat.as_ref().map_or(now, |beat| beat.decides_from(now));
    let mut jobs = Vec::with_capacity(definitions.len());
    for (name, job) in definitions {
        let last = match lasts.remove(&name) {
            Some(last) => Some(last),
            None => latest_run(broker, &name).await?,
        };
        let pause = pauses.remove(&name);
        let moments = (now, decides_from);
        jobs.push(view(job, states.get(&name), last, pause, moments));
    }
    let reload = broker.get(Bucket::State, RELOAD_KEY).await?;
    Ok(JobsView {
        jobs,
        beat,
        reload: reload.and_then(|entry| serde_json::from_slice(&entry.value).ok()),
    })
}

/// What became of the ticks of these jobs that were not run, of those with any.
pub async fn ledgers(
    broker: &dyn Broker,
    jobs: impl IntoIterator<Item = &JobName>,
) -> Result<Vec<(JobName, Ledger)>, OpsError> {
    let mut found = Vec::new();
    for job in jobs {
        let key = format!("{JOB_STATE_PREFIX}{job}");
        let entry = broker.get(Bucket::State, &key).await?;
        let state = entry.and_then(|entry| serde_json::from_slice::<JobState>(&entry.value).ok());
        let ledger = state.map(|state| state.ledger).unwrap_or_default();
        if ledger.missed.max(ledger.skipped).max(ledger.coalesced) > 0 {
            found.push((job.clone(), ledger));
        }
    }
    Ok(found)
}

/// On-demand jobs keep no last-run state: their newest record says it.
async fn latest_run(broker: &dyn Broker, job: &JobName) -> Result<Option<LastRun>, OpsError> {
    let entry = broker.latest(Bucket::Runs, &format!("{job}.")).await?;
    let record = entry.and_then(|entry| serde_json::from_slice::<RunRecord>(&entry.value).ok());
    Ok(record.map(|record| LastRun::from(&record)))
}

fn view(
    job: Job,
    state: Option<&JobState>,
    last: Option<LastRun>,
    pause: Option<Pause>,
    (now, decides_from): (DateTime<Utc>, DateTime<Utc>),
) -> JobView {
    let standing = Standing {
        job: &job,
        last: last.as_ref(),
        state,
        pause: pause.as_ref(),
    };
    let overdue_since = standing.overdue_since(now);
    let paused = pause.filter(|pause| pause.covers(now));
    // Without an end nothing is due until somebody resumes it.
    let due_after = match &paused {
        Some(pause) => pause.until.map(|until| until.max(decides_from)),
        None => Some(decides_from),
    };
    let timezone = job.timezone;
    let (schedule, queue, enabled) = (job.trigger.summary(), job.queue.clone(), job.enabled);
    let (name, description, tags) = (job.name.clone(), job.description.clone(), job.tags.clone());
    let ledger = state.map_or_else(Ledger::default, |state| state.ledger.clone());
    let next = state.and_then(|state| Scheduled::new(Arc::new(job), state).next_after(due_after?));
    JobView {
        name,
        description,
        tags,
        schedule,
        timezone: timezone.name().to_owned(),
        queue,
        enabled,
        paused,
        overdue_since,
        next: next.map(|at| at.with_timezone(&timezone)),
        last,
        missed: ledger.missed,
        skipped: ledger.skipped,
        coalesced: ledger.coalesced,
        notes: ledger.notes,
    }
}

pub(super) async fn values<T: DeserializeOwned>(
    broker: &dyn Broker,
    prefix: &str,
) -> Result<Vec<(JobName, T)>, OpsError> {
    let entries = broker::list(broker, Bucket::State, prefix).await?;
    let understood = entries.iter().filter_map(|entry| {
        let name = entry.key.strip_prefix(prefix)?.parse().ok()?;
        Some((name, serde_json::from_slice(&entry.value).ok()?))
    });
    Ok(understood.collect())
}
