//! Hears of cancelled runs while they are executed here.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::Shared;
use crate::{
    broker::{BrokerError, Bucket, Change},
    run::{CANCEL_PREFIX, RunId, RunRecord},
};

/// How long to wait before listening again after it broke off.
const AGAIN: Duration = Duration::from_secs(1);

/// Listens until `stop`.
pub(super) async fn follow(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let listened = tokio::select! {
            biased;
            listened = listen(&shared) => listened,
            () = stop.cancelled() => return,
        };
        if let Err(error) = listened {
            debug!(target: "orchestrator::worker", %error, "not told of cancelled runs; trying again");
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(AGAIN) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn listen(shared: &Shared) -> Result<(), BrokerError> {
    let mut changes = shared.broker.watch(Bucket::Workers, CANCEL_PREFIX).await?;
    // What was told while nobody listened may be forgotten by now; the records are not.
    for run_id in shared.registry.running() {
        shared.look_for_cancel(&run_id).await?;
    }
    while let Some(change) = changes.next().await {
        let Change::Put(entry) = change? else {
            continue;
        };
        let key = entry.key.strip_prefix(CANCEL_PREFIX).unwrap_or_default();
        let Ok(run_id) = RunId::from_key(key) else {
            continue;
        };
        // The key only makes it quick; the record says whether somebody who may has asked for it.
        if shared.registry.running().contains(&run_id) {
            shared.look_for_cancel(&run_id).await?;
        }
    }
    Ok(())
}

impl Shared {
    fn cancel(&self, run_id: &RunId) {
        if self.registry.cancel(run_id) {
            info!(target: "orchestrator::worker", %run_id, "cancelling");
        }
    }

    async fn look_for_cancel(&self, run_id: &RunId) -> Result<(), BrokerError> {
        let entry = self.broker.get(Bucket::Runs, &run_id.key()).await?;
        let record = entry.and_then(|entry| serde_json::from_slice::<RunRecord>(&entry.value).ok());
        if record.is_some_and(|record| record.cancel_requested_at.is_some()) {
            self.cancel(run_id);
        }
        Ok(())
    }
}
