//! Hears of cancelled runs while they are executed here.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::Shared;
use crate::{
    broker::{BrokerError, Bucket, Change},
    run::{CANCEL_PREFIX, RunId},
};

/// How long to wait before listening again after it broke off.
const AGAIN: Duration = Duration::from_secs(1);

/// Listens until `stop`.
pub(super) async fn follow(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let listened = tokio::select! {
            listened = listen(&shared) => listened,
            () = stop.cancelled() => return,
        };
        if let Err(error) = listened {
            debug!(target: "orchestrator::worker", %error, "not told of cancelled runs; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn listen(shared: &Shared) -> Result<(), BrokerError> {
    // Listening anew begins with what is there: nothing is missed in between.
    let mut changes = shared.broker.watch(Bucket::State, CANCEL_PREFIX).await?;
    while let Some(change) = changes.next().await {
        let Change::Put(entry) = change? else {
            continue;
        };
        let key = entry.key.strip_prefix(CANCEL_PREFIX).unwrap_or_default();
        let Ok(run_id) = RunId::from_key(key) else {
            continue;
        };
        if shared.registry.cancel(&run_id) {
            info!(target: "orchestrator::worker", %run_id, "cancelling");
        }
    }
    Ok(())
}
