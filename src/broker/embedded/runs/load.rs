//! Building the index from what is stored.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Context, HEADERS, Header, IDS, Index, QUEUES, Store, StoreError, clock, split_number};
use crate::run::RunId;

/// Who is given a run too early puts it off again. How long a delay was is not known: it may have been dated by a clock
/// that was ahead.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// Fills an empty index. Leases of an earlier process are void.
pub(super) fn index(
    store: &Store,
    context: &Context,
    mut index: Index,
) -> Result<Index, StoreError> {
    let (now, wall) = (clock::monotonic(), clock::now());
    for pair in store.scan(QUEUES) {
        let name = String::from_utf8_lossy(&pair?.0).into_owned();
        let queue = name.parse().map_err(|e| context.damaged("a queue", e))?;
        index.know(&queue);
    }
    for pair in store.scan(HEADERS) {
        let (key, value) = pair?;
        let (sequence, _) =
            split_number(&key).ok_or_else(|| context.damaged("a run", "its key is short"))?;
        let header: Header =
            serde_json::from_slice(&value).map_err(|e| context.damaged("a run", e))?;
        let left = header.not_before.map(|at| (at - wall).to_std());
        let delay = left.and_then(Result::ok).unwrap_or_default();
        let delay = delay.min(LONGEST_DELAY);
        index.restore(sequence, header, delay, now);
    }
    for (age, run_id) in ids(store, context, wall)? {
        index.restore_id(run_id, age, now);
    }
    Ok(index)
}

/// The remembered message ids, oldest first.
fn ids(
    store: &Store,
    context: &Context,
    wall: DateTime<Utc>,
) -> Result<Vec<(Duration, RunId)>, StoreError> {
    let mut ids = Vec::new();
    for pair in store.scan(IDS) {
        let (key, value) = pair?;
        let id = String::from_utf8_lossy(&key);
        let run_id: RunId = id.parse().map_err(|e| context.damaged("a run id", e))?;
        let accepted = value.as_slice().try_into().map_or(0, i64::from_be_bytes);
        // A clock that was set back makes it young, one that was set forward old: at worst the
        // record of the run has to decide.
        let age = wall.timestamp_millis().saturating_sub(accepted);
        let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
        ids.push((age, run_id));
    }
    ids.sort_unstable_by_key(|(age, _)| std::cmp::Reverse(*age));
    Ok(ids)
}
