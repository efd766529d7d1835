//! Snapshots of `up`: written now and then, and taken up again when the store is lost.

use std::{path::Path, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::CliError;
use crate::{
    broker::{BrokerError, Bucket, SharedBroker, embedded::EmbeddedBroker},
    clock,
    ops::{self, Extent, Import},
    plan::{FailingSnapshots, SNAPSHOTS_KEY},
    store::{SetAside, StoreError},
};

/// Below the data directory.
const DIRECTORY: &str = "snapshots";
/// Making snapshots takes at most this part of the time.
const PART: u32 = 50;

/// Fills a broker without a state with the newest snapshot: one that was set aside, that was deleted, or that
/// this was begun for before and cut off.
pub(super) async fn take_up(
    broker: &SharedBroker,
    data_dir: &Path,
    aside: Option<&SetAside>,
) -> Result<(), CliError> {
    if ops::has_state(broker.as_ref()).await? {
        return Ok(());
    }
    let damaged = aside.map(|aside| aside.directory.display().to_string());
    let found = ops::read_snapshot(&data_dir.join(DIRECTORY))?;
    let Some((path, state)) = found else {
        if let Some(damaged) = damaged {
            warn!(target: "orchestrator::state", damaged,
                "there is no snapshot: the schedule begins anew, what waited is lost");
        }
        return Ok(());
    };
    let amount = ops::import_state(broker.as_ref(), &state, Import::default()).await?;
    warn!(target: "orchestrator::state", snapshot = %path.display(), taken_at = %state.exported_at,
        damaged, values = amount.values, runs = amount.runs, runs_left_out = state.runs_left_out,
        "the store is empty: going on from a snapshot; what happened since is forgotten, ticks since then are \
         caught up with");
    Ok(())
}

/// Writes one every so often until `stop`, and one at the end.
pub(super) async fn keep(
    embedded: Arc<EmbeddedBroker>,
    data_dir: Arc<Path>,
    every: Duration,
    stop: CancellationToken,
) {
    let directory = data_dir.join(DIRECTORY);
    let broker: SharedBroker = Arc::clone(&embedded) as SharedBroker;
    let mut pause = every;
    while !stop.is_cancelled() {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
        match embedded.check() {
            // What was deleted can still be read: this is all that is left of it.
            Ok(()) | Err(StoreError::Deleted { .. }) => {}
            // What is in memory may never have been written as a whole.
            Err(_) => return,
        }
        let start = clock::monotonic();
        let written = write(&broker, &directory).await;
        if let Err(error) = &written {
            error!(target: "orchestrator::state", directory = %directory.display(), %error,
                "no snapshot could be written");
        }
        if let Err(error) = share(&broker, &directory, written.err()).await {
            debug!(target: "orchestrator::state", %error, "`doctor` does not know how snapshots fare");
        }
        pause = every.max(start.elapsed().saturating_mul(PART));
    }
}

/// Lets `doctor` know why none could be written, until one is.
async fn share(
    broker: &SharedBroker,
    directory: &Path,
    reason: Option<String>,
) -> Result<(), BrokerError> {
    let known = broker.get(Bucket::State, SNAPSHOTS_KEY).await?;
    let Some(reason) = reason else {
        return match known {
            Some(_) => broker.delete(Bucket::State, SNAPSHOTS_KEY).await,
            None => Ok(()),
        };
    };
    let known =
        known.and_then(|known| serde_json::from_slice::<FailingSnapshots>(&known.value).ok());
    let failing = FailingSnapshots {
        since: known.map_or_else(clock::now, |known| known.since),
        directory: directory.to_owned(),
        reason,
    };
    let value = serde_json::to_vec(&failing).unwrap_or_default();
    let told = broker.put(Bucket::State, SNAPSHOTS_KEY, value);
    told.await.map(|_| ())
}

/// What went wrong, as text: nobody can do anything about it here.
async fn write(broker: &SharedBroker, directory: &Path) -> Result<(), String> {
    let state = ops::export_state(broker.as_ref(), Extent::Snapshot, clock::now()).await;
    let state = state.map_err(|error| error.to_string())?;
    let into = directory.to_owned();
    let writing = tokio::task::spawn_blocking(move || ops::write_snapshot(&into, &state));
    let written = writing.await.map_err(|error| error.to_string())?;
    let path = written.map_err(|error| error.to_string())?;
    debug!(target: "orchestrator::state", path = %path.display(), "snapshot written");
    Ok(())
}
