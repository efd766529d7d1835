//! Keeps the lease of a run from its claim to the record of its outcome.
//!
//! As long as each renewal was confirmed within a lease of the one before, nobody else can have been
//! given the run. After a gap only the record knows.

use std::{
    convert::Infallible,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tracing::{info, warn};

use super::{
    Shared,
    registry::{Cause, Held},
};
use crate::{
    broker::{BrokerError, Receipt},
    clock,
    exec::Stop,
    job::LeaseLoss,
    run::{RunId, RunMessage},
};

/// How much earlier than agreed a server may take a lease for over.
const EARLY: Duration = Duration::from_millis(1_250);

/// How long a lease is, since when it counts, and by which delivery it is held.
#[derive(Debug)]
pub(super) struct Lease {
    length: Duration,
    /// 0 until the run has been claimed; real ones begin at 1.
    fence: AtomicU64,
    /// The broker has lost its data since the run was delivered: nobody else is given it any more.
    alone: AtomicBool,
    hold: Mutex<Hold>,
    renewed: Notify,
}

#[derive(Debug)]
struct Hold {
    confirmed: Instant,
    receipt: Receipt,
    /// A job that must not outlive its lease had to end once, whatever was confirmed after that.
    lapsed: bool,
}

impl Hold {
    fn age(&self) -> Duration {
        clock::monotonic().saturating_duration_since(self.confirmed)
    }
}

impl Lease {
    /// A lease that was granted at `confirmed` or later.
    pub(super) fn new(length: Duration, receipt: Receipt, confirmed: Instant) -> Self {
        Self {
            length,
            fence: AtomicU64::new(0),
            alone: AtomicBool::new(false),
            hold: Mutex::new(Hold {
                confirmed,
                receipt,
                lapsed: false,
            }),
            renewed: Notify::new(),
        }
    }

    /// The run was claimed under `fence`.
    pub(super) fn claimed(&self, fence: u64) {
        self.fence.store(fence, Ordering::Release);
    }

    /// The fence of the claim.
    pub(super) fn fence(&self) -> Option<u64> {
        let fence = self.fence.load(Ordering::Acquire);
        (fence > 0).then_some(fence)
    }

    /// The broker has lost the run. Returns whether that is news.
    pub(super) fn leave_alone(&self) -> bool {
        !self.alone.swap(true, Ordering::AcqRel)
    }

    /// Whether the broker has lost the run, as far as that was noticed.
    pub(super) fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Acquire)
    }

    /// How long it is.
    pub(super) fn length(&self) -> Duration {
        self.length
    }

    /// What renews and settles the run now.
    pub(super) fn receipt(&self) -> Receipt {
        self.hold().receipt.clone()
    }

    /// Whether nobody else can have been given the run.
    pub(super) fn is_safe(&self) -> bool {
        self.age() < self.length
    }

    /// The run was delivered to this worker again: it is held by that delivery from now on.
    pub(super) fn adopt(&self, receipt: Receipt) {
        let mut hold = self.hold();
        hold.lapsed |= hold.age() >= self.killing();
        hold.confirmed = clock::monotonic();
        hold.receipt = receipt;
        drop(hold);
        self.alone.store(false, Ordering::Release);
        self.renewed.notify_one();
    }

    /// A renewal by `receipt`, asked for at `asked`, has been confirmed.
    fn confirm(&self, asked: Instant, receipt: &Receipt) {
        let mut hold = self.hold();
        if hold.receipt == *receipt {
            hold.lapsed |= hold.age() >= self.killing();
            hold.confirmed = hold.confirmed.max(asked);
            self.renewed.notify_one();
        }
    }

    /// Whether a job that must not outlive its lease may still run.
    pub(super) fn is_good(&self) -> bool {
        self.age() < self.killing()
    }

    /// Whether a job that must not outlive its lease had to end at any time. The guardian and the threads that spawn
    /// have done their part then, even if the lease was confirmed again before anybody looked.
    pub(super) fn has_lapsed(&self) -> bool {
        let hold = self.hold();
        hold.lapsed || hold.age() >= self.killing()
    }

    /// At which age a job that must not outlive its lease is asked to end: two tries to renew
    /// have failed by then.
    fn asking(&self) -> Duration {
        self.killing() * 4 / 5
    }

    /// At which age it is killed: it has to be gone before the lease is over. A nats-server that was killed
    /// counts from the whole second in which it had delivered, so its lease may end up to a second early.
    fn killing(&self) -> Duration {
        let length = self.length;
        length - (length / 6).max(EARLY.min(length / 3))
    }

    /// Has the job killed in time, even if this process stands still then.
    fn tell(&self, stop: &Stop) {
        stop.at(clock::uptime() + self.killing().saturating_sub(self.age()));
    }

    fn age(&self) -> Duration {
        self.hold().age()
    }

    fn hold(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a job that must not outlive its lease, if the lease is not renewed in time. What the job's
/// `kill.grace` allows beyond that is cut short.
async fn end_in_time(loss: LeaseLoss, held: &Held) -> Infallible {
    if loss == LeaseLoss::Continue {
        return std::future::pending().await;
    }
    let lease = &held.lease;
    loop {
        let age = lease.age();
        lease.tell(&held.ending.stop);
        if age >= lease.killing() {
            held.ending.force(Cause::Unrenewed);
            return std::future::pending().await;
        }
        let next = match age >= lease.asking() {
            true => {
                held.ending.ask(Cause::Unrenewed);
                lease.killing()
            }
            false => lease.asking(),
        };
        tokio::select! {
            biased;
            () = tokio::time::sleep(next.saturating_sub(age)) => {}
            () = lease.renewed.notified() => {}
        }
    }
}

impl Shared {
    /// Does `work` with the lease renewed meanwhile.
    pub(super) async fn kept<T>(
        &self,
        message: &RunMessage,
        fence: u64,
        held: &Held,
        work: impl Future<Output = T>,
    ) -> T {
        let loss = message.spec.lease_loss();
        if loss == LeaseLoss::Stop {
            // Before anything is started.
            held.lease.tell(&held.ending.stop);
        }
        tokio::select! {
            biased;
            done = work => done,
            never = self.keep(&message.run_id, fence, held) => match never {},
            never = end_in_time(loss, held) => match never {},
        }
    }

    /// Renews the lease every third of it. If it could not in time, the job goes on until the record
    /// says that somebody else has taken over; then it is ended.
    async fn keep(&self, run_id: &RunId, fence: u64, held: &Held) -> Infallible {
        let lease = &held.lease;
        let pause = lease.length / 3;
        let mut failing = false;
        // Whether the lease ever ran out before an answer came: from then on somebody else may have been given the run, and
        // may claim it late. Not every server refuses the renewals of who had it before.
        let mut doubtful = false;
        loop {
            let wait = match failing {
                false => pause.saturating_sub(lease.age()),
                // While the broker is away, more often: the lease is at stake.
                true => pause / 4,
            };
            tokio::time::sleep(wait).await;
            let asked = clock::monotonic();
            let receipt = lease.receipt();
            let renewed = self.broker.renew(&receipt).await;
            if matches!(renewed, Err(BrokerError::Failed { .. })) && self.has_lost(&receipt).await {
                // It may be delivered anew.
                let _ = self.outlive(run_id, held).await;
                tokio::time::sleep(pause).await;
                continue;
            }
            // So it is where nobody can see that this worker is there: another message of the run may have been given out.
            doubtful |= !lease.is_safe() || self.said.is_old(lease.length, clock::monotonic());
            let owned = match &renewed {
                Ok(()) if !doubtful => Ok(true),
                Ok(()) | Err(BrokerError::Failed { .. }) => self.owns(run_id, fence, held).await,
                Err(error) => Err(error.clone()),
            };
            match (owned, renewed) {
                (Ok(true), Ok(())) => {
                    lease.confirm(asked, &receipt);
                    if failing {
                        info!(target: "orchestrator::worker", %run_id, "the lease is renewed again");
                    }
                    failing = false;
                }
                (Ok(true), Err(_)) => failing = true,
                (Ok(false), _) => {
                    held.ending.ask(Cause::Lost);
                    return std::future::pending().await;
                }
                (Err(error), _) => {
                    if !failing {
                        warn!(target: "orchestrator::worker", %run_id, %error,
                            "the lease cannot be renewed");
                    }
                    failing = true;
                }
            }
        }
    }

    /// Whether the record still names this execution; if it was cancelled meanwhile, it is ended.
    async fn owns(&self, run_id: &RunId, fence: u64, held: &Held) -> Result<bool, BrokerError> {
        let Some(record) = self.record_if_ours(run_id, fence).await? else {
            return Ok(false);
        };
        if record.cancel_requested_at.is_some() {
            held.ending.ask(Cause::Cancelled);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(4);

    fn receipt(name: &str) -> Receipt {
        serde_json::from_value(name.into()).unwrap()
    }

    fn granted(ago: Duration) -> Lease {
        let now = clock::monotonic();
        Lease::new(LENGTH, receipt("first"), now.checked_sub(ago).unwrap())
    }

    #[test]
    fn a_lapse_is_remembered_whatever_confirms_the_lease_again() {
        let ages = [Duration::from_secs(3), LENGTH, 2 * LENGTH];
        for age in ages {
            let adopted = granted(age);
            adopted.adopt(receipt("second"));
            assert!(adopted.is_good() && adopted.has_lapsed(), "{age:?}");
            let renewed = granted(age);
            renewed.confirm(clock::monotonic(), &receipt("first"));
            assert!(renewed.is_good() && renewed.has_lapsed(), "{age:?}");
            assert!(granted(age).has_lapsed(), "{age:?}");
        }
    }

    #[test]
    fn a_lease_that_is_renewed_in_time_has_not_lapsed() {
        let lease = granted(Duration::from_secs(1));
        lease.confirm(clock::monotonic(), &receipt("first"));
        lease.adopt(receipt("second"));
        assert!(lease.is_good() && !lease.has_lapsed());
    }
}
