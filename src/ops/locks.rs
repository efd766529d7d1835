//! Locks and places that runs of the whole cluster share.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::OpsError;
use crate::{
    broker::{self, Broker, Bucket, clear_places, permits::Shared},
    run::{By, Places, RunId, RunRecord, RunState, WaitingFor},
};

/// A lock, or the places behind a key, with who holds them and who waits.
#[derive(Debug, Clone, Serialize)]
pub struct LockView {
    /// What it is.
    pub kind: WaitingFor,
    /// The lock, or the key.
    pub name: String,
    /// The token that was given last.
    pub token: Option<u64>,
    /// Who holds a place, the longest first.
    pub holders: Vec<HolderView>,
    /// Who waits, the longest first.
    pub waiters: Vec<WaiterView>,
}

/// Somebody with a place.
#[derive(Debug, Clone, Serialize)]
pub struct HolderView {
    /// The run, or the session of a command outside of jobs.
    pub holder: String,
    /// The attempt's fence, of a run.
    pub fence: Option<u64>,
    /// The token that it was given.
    pub token: u64,
    /// Since when.
    pub since: DateTime<Utc>,
    /// The run whose place it shares.
    pub under: Option<RunId>,
}

/// A run that waits.
#[derive(Debug, Clone, Serialize)]
pub struct WaiterView {
    /// The run.
    pub run_id: RunId,
    /// Since when.
    pub since: DateTime<Utc>,
    /// When it will start, if that is known.
    pub until: Option<DateTime<Utc>>,
}

/// Everything that is held or waited for, by kind and name.
pub async fn locks(broker: &dyn Broker) -> Result<Vec<LockView>, OpsError> {
    let mut views = BTreeMap::new();
    for shared in [Shared::Lock, Shared::Concurrency] {
        for entry in broker::list(broker, Bucket::Locks, shared.prefix()).await? {
            let Ok(places) = serde_json::from_slice::<Places>(&entry.value) else {
                continue;
            };
            if !places.holders.is_empty() {
                let kind = shared.word();
                views.insert((kind.to_string(), places.name.clone()), view(kind, places));
            }
        }
    }
    for entry in broker::list(broker, Bucket::Runs, "").await? {
        let Ok(record) = serde_json::from_slice::<RunRecord>(&entry.value) else {
            continue;
        };
        let (RunState::Queued, Some(waiting)) = (record.state, record.waiting) else {
            continue;
        };
        let key = (waiting.what.to_string(), waiting.name.clone());
        let view = views.entry(key).or_insert_with(|| LockView {
            kind: waiting.what,
            name: waiting.name,
            token: None,
            holders: Vec::new(),
            waiters: Vec::new(),
        });
        view.waiters.push(WaiterView {
            run_id: record.run_id,
            since: waiting.since,
            until: waiting.until,
        });
    }
    let mut views: Vec<_> = views.into_values().collect();
    for view in &mut views {
        view.waiters.sort_by_key(|waiter| waiter.since);
    }
    Ok(views)
}

fn view(kind: WaitingFor, places: Places) -> LockView {
    let holders = places.holders.into_iter().map(|holder| HolderView {
        holder: holder.by.to_string(),
        fence: match holder.by {
            By::Run { fence, .. } => Some(fence),
            By::Session { .. } => None,
        },
        token: holder.token,
        since: holder.since,
        under: holder.under,
    });
    LockView {
        kind,
        name: places.name,
        token: Some(places.token),
        holders: holders.collect(),
        waiters: Vec::new(),
    }
}

/// Takes a lock, or all places behind a key, from whoever holds it. Nobody is stopped by that. Returns how
/// many holders there were.
pub async fn release_lock(broker: &dyn Broker, name: &str) -> Result<usize, OpsError> {
    let mut released = 0;
    for shared in [Shared::Lock, Shared::Concurrency] {
        released += clear_places(broker, (shared, name)).await?;
    }
    match released {
        0 => Err(OpsError::NotHeld(name.to_owned())),
        released => Ok(released),
    }
}
