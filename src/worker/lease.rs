//! Keeps the lease of a delivery while its run is executed.
//!
//! As long as each renewal was confirmed within a lease of the one before, nobody else can have been
//! given the run. After a gap only the record knows.

use std::{
    convert::Infallible,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{
    Shared,
    registry::{Cause, Ending},
};
use crate::{
    broker::{BrokerError, Bucket, Delivery},
    clock,
    run::{RunId, RunRecord},
};

/// How long a lease is, and since when it counts.
#[derive(Debug)]
pub(super) struct Lease {
    length: Duration,
    confirmed: Mutex<Instant>,
}

impl Lease {
    /// A lease that was granted now.
    pub(super) fn new(length: Duration) -> Self {
        Self {
            length,
            confirmed: Mutex::new(clock::monotonic()),
        }
    }

    /// Whether nobody else can have been given the run.
    pub(super) fn is_safe(&self) -> bool {
        let confirmed = *self
            .confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        clock::monotonic() - confirmed < self.length
    }

    /// A renewal that was asked for at `asked` has been confirmed.
    fn confirm(&self, asked: Instant) {
        let mut confirmed = self
            .confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *confirmed = asked;
    }
}

impl Shared {
    /// Renews the lease every third of it. If it could not in time, the job goes on until the record
    /// says that somebody else has taken over; then it is ended.
    pub(super) async fn keep(
        &self,
        delivery: &Delivery,
        run_id: &RunId,
        fence: u64,
        lease: &Lease,
        ending: &Ending,
    ) -> Infallible {
        let pause = lease.length / 3;
        let mut failing = false;
        loop {
            // While the broker is away, more often: the lease is at stake.
            tokio::time::sleep(if failing { pause / 4 } else { pause }).await;
            let asked = clock::monotonic();
            let was_safe = lease.is_safe();
            let renewed = self.broker.renew(&delivery.receipt).await;
            let owned = match &renewed {
                Ok(()) if was_safe => Ok(true),
                Ok(()) | Err(BrokerError::Failed { .. }) => self.owns(run_id, fence).await,
                Err(error) => Err(error.clone()),
            };
            match (owned, renewed) {
                (Ok(true), Ok(())) => {
                    lease.confirm(asked);
                    if failing {
                        info!(target: "orchestrator::worker", %run_id, "the lease is renewed again");
                    }
                    failing = false;
                }
                (Ok(true), Err(_)) => failing = true,
                (Ok(false), _) => {
                    ending.ask(Cause::Lost);
                    return std::future::pending().await;
                }
                (Err(error), _) => {
                    if !failing {
                        warn!(target: "orchestrator::worker", %run_id, %error,
                            "the lease cannot be renewed; the job goes on");
                    }
                    failing = true;
                }
            }
        }
    }

    /// Whether the record still names this execution.
    async fn owns(&self, run_id: &RunId, fence: u64) -> Result<bool, BrokerError> {
        let entry = self.broker.get(Bucket::Runs, &run_id.key()).await?;
        let record = entry.and_then(|entry| serde_json::from_slice::<RunRecord>(&entry.value).ok());
        Ok(record.is_some_and(|record| record.is_held_under(fence)))
    }
}
