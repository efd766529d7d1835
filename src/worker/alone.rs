//! Runs that are being executed when their broker loses all its data: it knows neither of the run nor of who holds it.
//!
//! Their records are put back at once, so that nobody is given them should their ticks be fired again. A job that must not
//! outlive its lease is ended; any other goes on, and its end is recorded. Whoever wants a place that one of them may hold
//! waits for a lease.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Shared,
    registry::{Cause, Held},
};
use crate::{
    broker::{BrokerError, Cas, Durability, Receipt},
    clock,
    job::LeaseLoss,
    run::{RunId, RunRecord},
};

/// How often it is looked whether the broker has lost its data. It costs no question unless the connection was lost.
const EVERY: Duration = Duration::from_millis(250);

/// What was written when a run was claimed.
#[derive(Debug, Clone, Default)]
pub(super) struct Claim(Arc<OnceLock<(RunRecord, LeaseLoss)>>);

impl Claim {
    /// The run was claimed.
    pub(super) fn note(&self, record: &RunRecord, loss: LeaseLoss) {
        self.0.get_or_init(|| (record.clone(), loss));
    }
}

/// Looks after the runs that are executed here, until `stop`.
pub(super) async fn watch(shared: Arc<Shared>, stop: CancellationToken) {
    let mut seen = None;
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
        // While it is away nothing can be told.
        let Ok(begun) = shared.broker.begun_anew_at().await else {
            continue;
        };
        if begun != seen && shared.outlive_all().await {
            seen = begun;
        }
    }
}

impl Shared {
    /// Returns whether all of them are seen to.
    async fn outlive_all(&self) -> bool {
        let mut done = true;
        for (run_id, held) in self.registry.all() {
            if self.has_lost(&held.lease.receipt()).await {
                done &= self.outlive(&run_id, &held).await.is_ok();
            }
        }
        done
    }

    /// Whether the broker has lost its data since a run was delivered, as far as it can be told now.
    pub(super) async fn has_lost(&self, receipt: &Receipt) -> bool {
        self.broker.is_of_before(receipt).await.unwrap_or(false)
    }

    /// Puts the record of a run back that the broker has lost. Ends the job if it must not outlive its lease, or if the run
    /// is somebody else's by now.
    pub(super) async fn outlive(&self, run_id: &RunId, held: &Held) -> Result<(), BrokerError> {
        let Some((record, loss)) = held.claim.0.get() else {
            // Not claimed yet: there is nothing to be claimed any more.
            return Ok(());
        };
        if held.lease.leave_alone() {
            let goes_on = *loss == LeaseLoss::Continue;
            warn!(target: "orchestrator::worker", %run_id, goes_on,
                "the broker has lost its data, and with it that this run is executed: its record is put back; a job that must \
                 not outlive its lease is ended");
        }
        if *loss == LeaseLoss::Stop {
            held.ending.ask(Cause::Unrenewed);
        }
        let put_back = self.write(record, None, Durability::Crash).await;
        let is_ours = match put_back {
            Ok(Cas::Done(_)) => Ok(true),
            Ok(Cas::Conflict) => {
                let ours = self.record_if_ours(run_id, record.fence).await;
                ours.map(|ours| ours.is_some())
            }
            Err(error) => Err(error),
        };
        match is_ours {
            Ok(true) => Ok(()),
            Ok(false) => {
                held.ending.ask(Cause::Lost);
                Ok(())
            }
            Err(error) => {
                debug!(target: "orchestrator::worker", %run_id, %error, "its record cannot be put back now");
                Err(error)
            }
        }
    }

    /// How long a place may still be held of which a broker knows nothing that has lost its data: whoever held it has
    /// ended when his lease is over.
    pub(super) async fn others_may_hold_it(
        &self,
        lease: Duration,
    ) -> Result<Option<Duration>, BrokerError> {
        let begun = self.broker.begun_anew_at().await?;
        let lease = lease.max(self.broker.lease());
        let left = begun.and_then(|at| (at + lease).checked_duration_since(clock::monotonic()));
        Ok(left.filter(|left| !left.is_zero()))
    }
}
