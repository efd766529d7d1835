//! Runs: those with a record, and those that wait and have none yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::{OpsError, find_job};
use crate::{
    broker::{self, Broker, BrokerError, Bucket, Pending, Revision, Slot},
    clock,
    job::{JobName, QueueName},
    run::{RunId, RunMessage, RunRecord, RunState},
};

/// How many waiting runs are looked at for a listing.
const PENDING_AT_MOST: usize = 10_000;
/// How many are asked for at once.
const BATCH: usize = 500;
/// How often a contended record is tried.
const TRIES: usize = 10;
/// How often a run that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Which runs are wanted.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Of this job.
    pub job: Option<JobName>,
    /// In one of these states; empty: any.
    pub states: Vec<RunState>,
    /// Asked for by this run.
    pub parent: Option<RunId>,
    /// On this queue.
    pub queue: Option<QueueName>,
    /// Published at or after this.
    pub since: Option<DateTime<Utc>>,
    /// At most so many.
    pub limit: usize,
}

impl RunFilter {
    fn wants(&self, record: &RunRecord) -> bool {
        self.job
            .as_ref()
            .is_none_or(|job| job == record.run_id.job())
            && (self.parent.is_none() || self.parent == record.parent)
            && (self.states.is_empty() || self.states.contains(&record.state))
            && self
                .queue
                .as_ref()
                .is_none_or(|queue| *queue == record.queue)
            && self.since.is_none_or(|since| record.published_at >= since)
    }
}

/// The wanted runs, newest first.
pub async fn runs(broker: &dyn Broker, filter: &RunFilter) -> Result<Vec<RunRecord>, OpsError> {
    let prefix = filter
        .job
        .as_ref()
        .map_or(String::new(), |job| format!("{job}."));
    let may_wait = filter.states.is_empty() || filter.states.contains(&RunState::Queued);
    let at_most = if may_wait { PENDING_AT_MOST } else { 0 };
    let all = everything(broker, &prefix, at_most).await?;
    let is_unheard_of = !all
        .iter()
        .any(|record| filter.job.as_ref() == Some(record.run_id.job()));
    let mut found: Vec<_> = all
        .into_iter()
        .filter(|record| filter.wants(record))
        .collect();
    found.sort_by(|a, b| (b.published_at, &b.run_id).cmp(&(a.published_at, &a.run_id)));
    found.truncate(filter.limit);
    if let (true, Some(job)) = (is_unheard_of, &filter.job) {
        // Nothing was ever heard of this job: perhaps it is misspelt.
        find_job(broker, job).await?;
    }
    Ok(found)
}

/// The record of one run; that of a waiting run is made up from its message.
pub async fn find_run(broker: &dyn Broker, run_id: &RunId) -> Result<RunRecord, OpsError> {
    Ok(find(broker, run_id).await?.record)
}

/// Cancels a run: at once if it waits, through its worker if it is running. Returns the record as
/// it is now.
pub async fn cancel(broker: &dyn Broker, run_id: &RunId) -> Result<RunRecord, OpsError> {
    for _ in 0..TRIES {
        let Found {
            record,
            revision,
            stored,
        } = find(broker, run_id).await?;
        if record.state.is_final() {
            return Err(OpsError::Ended {
                run: run_id.clone(),
                state: record.state,
            });
        }
        let about = (revision, stored.as_ref());
        let cancelled = broker::request_cancel(broker, record, about, None, clock::now()).await?;
        if let Some(record) = cancelled {
            return Ok(record);
        }
    }
    Err(OpsError::Contended(run_id.clone()))
}

/// Cancels a run and all that came of it, children before long ones of theirs: the run first, so that it asks
/// for no more. Returns the records as they are now, that of the run first.
pub async fn cancel_tree(broker: &dyn Broker, run_id: &RunId) -> Result<Vec<RunRecord>, OpsError> {
    let root = find(broker, run_id).await?.record;
    let mut family = BTreeSet::from([run_id.clone()]);
    let mut cancelled = Vec::new();
    match cancel(broker, run_id).await {
        Ok(record) => cancelled.push(record),
        Err(OpsError::Ended { .. }) => cancelled.push(root),
        Err(error) => return Err(error),
    }
    // Whoever is being cancelled may have asked for one more meanwhile.
    for _ in 0..TRIES {
        let mut is_news = false;
        let all = everything(broker, "", usize::MAX).await?;
        let mut grown = true;
        while std::mem::take(&mut grown) {
            for record in &all {
                let is_child = record.parent.as_ref().is_some_and(|p| family.contains(p));
                grown |= is_child && family.insert(record.run_id.clone());
            }
        }
        for record in all {
            let is_asked = record.state.is_final() || record.cancel_requested_at.is_some();
            if is_asked || !family.contains(&record.run_id) {
                continue;
            }
            match cancel(broker, &record.run_id).await {
                Ok(record) => {
                    is_news = true;
                    cancelled.push(record);
                }
                // It was quicker.
                Err(OpsError::Ended { .. } | OpsError::UnknownRun(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if !is_news {
            break;
        }
    }
    Ok(cancelled)
}

/// Every run with a record under `prefix`, and those that wait, of the first `at_most` messages.
async fn everything(
    broker: &dyn Broker,
    prefix: &str,
    at_most: usize,
) -> Result<Vec<RunRecord>, OpsError> {
    // A run leaves the queue only after its record was written: looked at in this order, one that ends
    // meanwhile is found among the records.
    let waiting = waiting(broker, at_most).await?;
    let mut all = BTreeMap::new();
    for pending in waiting {
        if let Ok(message) = RunMessage::decode(&pending.payload) {
            all.insert(message.run_id.clone(), RunRecord::queued(&message));
        }
    }
    for entry in broker::list(broker, Bucket::Runs, prefix).await? {
        if let Ok(record) = serde_json::from_slice::<RunRecord>(&entry.value) {
            all.insert(record.run_id.clone(), record);
        }
    }
    Ok(all.into_values().collect())
}

/// Waits until a run has ended. A broker that is away is waited for; `on_outage` hears of it once.
pub async fn wait_for(
    broker: &dyn Broker,
    run_id: &RunId,
    at_most: Option<Duration>,
    on_outage: impl Fn(&BrokerError),
) -> Result<RunRecord, OpsError> {
    let start = clock::monotonic();
    let mut away = false;
    loop {
        let record = match find(broker, run_id).await {
            Ok(found) => found.record,
            Err(OpsError::Broker(error))
                if error.is_transient()
                    && at_most.is_none_or(|limit| clock::monotonic() - start < limit) =>
            {
                if !std::mem::replace(&mut away, true) {
                    on_outage(&error);
                }
                tokio::time::sleep(LOOK_EVERY * 10).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        away = false;
        if record.state.is_final() {
            return Ok(record);
        }
        let waited = clock::monotonic() - start;
        if at_most.is_some_and(|limit| waited >= limit) {
            return Err(OpsError::TimedOut {
                run: run_id.clone(),
                state: record.state,
                waited,
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

struct Found {
    record: RunRecord,
    revision: Option<Revision>,
    stored: Option<Pending>,
}

async fn find(broker: &dyn Broker, run_id: &RunId) -> Result<Found, OpsError> {
    // A run leaves the queue only after its record was written: looked at in this order, one that
    // exists is found, but for a claim between the two looks, hence the second.
    for _ in 0..2 {
        if let Some(entry) = broker.get(Bucket::Runs, &run_id.key()).await? {
            let record = RunRecord::read(run_id, &entry.value);
            let record = record.map_err(|reason| OpsError::Foreign {
                what: format!("record of `{run_id}`"),
                reason,
            })?;
            let stored = match record.state.is_final() {
                true => None,
                false => stored(broker, run_id, &record.queue).await?,
            };
            return Ok(Found {
                record,
                revision: Some(entry.revision),
                stored: stored.map(|(pending, _)| pending),
            });
        }
        // The definition names its queue now; it may have had another one, or be gone.
        for queue in likely_queues(broker, run_id.job()).await? {
            if let Some((pending, message)) = stored(broker, run_id, &queue).await? {
                return Ok(Found {
                    record: RunRecord::queued(&message),
                    revision: None,
                    stored: Some(pending),
                });
            }
        }
    }
    Err(match refused(broker, run_id).await? {
        Some(reason) => OpsError::Refused {
            run: run_id.clone(),
            reason,
        },
        None => OpsError::UnknownRun(run_id.clone()),
    })
}

/// How far back the letter of a run without a record is looked for.
const LETTERS: usize = 100;

/// Why a worker refused the run; a run that was refused has no record.
async fn refused(broker: &dyn Broker, run_id: &RunId) -> Result<Option<String>, OpsError> {
    let letters = broker.dead_letters(None, LETTERS).await?;
    let mut letters = letters.into_iter().map(|(_, letter)| letter);
    let letter =
        letters.find(|letter| letter.refused.is_some() && letter.run_id.as_ref() == Some(run_id));
    Ok(letter.map(|letter| letter.reason))
}

/// Every queue, that of the job's definition first.
async fn likely_queues(broker: &dyn Broker, job: &JobName) -> Result<Vec<QueueName>, OpsError> {
    let mut queues = match find_job(broker, job).await {
        Ok(job) => vec![job.queue],
        Err(OpsError::UnknownJob { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    let known = broker.queues().await?.into_iter().map(|depth| depth.queue);
    let others: Vec<_> = known.filter(|queue| !queues.contains(queue)).collect();
    queues.extend(others);
    Ok(queues)
}

/// The stored message of a run, if it still waits or is being executed.
async fn stored(
    broker: &dyn Broker,
    run_id: &RunId,
    queue: &QueueName,
) -> Result<Option<(Pending, RunMessage)>, OpsError> {
    // Whatever the definition says now: it may have changed since the run was published.
    for slot in [Slot::Job, Slot::Run, Slot::Next] {
        let Some(pending) = broker.occupant(queue, run_id, slot).await? else {
            continue;
        };
        if let Ok(message) = RunMessage::decode(&pending.payload)
            && message.run_id == *run_id
        {
            return Ok(Some((pending, message)));
        }
    }
    Ok(None)
}

async fn waiting(broker: &dyn Broker, at_most: usize) -> Result<Vec<Pending>, OpsError> {
    let (mut from, mut all) = (0, Vec::new());
    while all.len() < at_most {
        let batch = broker.pending(from, BATCH).await?;
        let Some(last) = batch.last() else { break };
        from = last.sequence + 1;
        all.extend(batch);
    }
    Ok(all)
}
