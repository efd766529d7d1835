//! Says that this worker is there, and what it does.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Shared;
use crate::{
    broker::{BrokerError, Bucket},
    clock,
    job::Seconds,
    run::WorkerStatus,
};

/// How often.
const EVERY: Duration = Duration::from_secs(10);

/// Says so until `stop`; then takes it back.
pub(super) async fn beat(shared: Arc<Shared>, drain: CancellationToken, stop: CancellationToken) {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let started_at = clock::now();
    let mut draining = false;
    loop {
        let queues = shared.options.queues.borrow().clone();
        let mut status = WorkerStatus {
            id: shared.options.id.clone(),
            host: host.clone(),
            pid: std::process::id(),
            queues: queues.iter().map(ToString::to_string).collect(),
            concurrency: shared.options.concurrency,
            running: Vec::new(),
            started_at,
            seen_at: clock::now(),
            draining: drain.is_cancelled(),
            beat: shared.watchman.seen(),
            refused: shared.refused.count(),
            lease: Some(Seconds::new(shared.broker.lease())),
        };
        status.name_running(shared.registry.running().into_iter());
        if let Err(error) = tell(&shared, &status).await {
            debug!(target: "orchestrator::worker", %error, "`workers` does not see this one now");
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(EVERY) => {}
            () = drain.cancelled(), if !draining => draining = true,
            () = stop.cancelled() => break,
        }
    }
    if let Err(error) = shared
        .broker
        .delete(Bucket::Workers, &shared.options.id)
        .await
    {
        debug!(target: "orchestrator::worker", %error, "`workers` sees this one for another minute");
    }
}

async fn tell(shared: &Shared, status: &WorkerStatus) -> Result<(), BrokerError> {
    let Ok(value) = serde_json::to_vec(status) else {
        return Ok(());
    };
    shared
        .broker
        .put(Bucket::Workers, &status.id, value)
        .await
        .map(|_| ())
}
