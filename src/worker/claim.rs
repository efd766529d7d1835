//! Claims a delivered run on its record, or finds out what else is to be done with it.

use std::time::Duration;

use chrono::{DateTime, Utc};

use tracing::{debug, info, warn};

use super::{
    Shared,
    gate::NotTaken,
    heartbeat::silence_of,
    permits::{Permission, Permits},
    record::Foreign,
    registry::{Cause, Held},
    settle::Settling,
};
use crate::{
    broker::{BrokerError, Bucket, Cas, Delivery, Durability, Revision},
    clock,
    run::{
        ClaimRefused, Claimant, DeliveryMark, Refusal, RunMessage, RunRecord, RunState, Waiting,
        WorkerStatus,
    },
};

/// How often a contended record is tried.
const TRIES: usize = 8;

/// What is to be done with a delivery.
#[derive(Debug)]
pub(super) enum Step {
    /// It is ours: execute it.
    Execute(Box<Claimed>),
    /// Nothing more: it was dropped, ended or put off, or it is somebody else's.
    Done,
}

/// What follows from a permission.
#[derive(Debug, Clone, Copy)]
enum NotNow {
    /// The run may start.
    Start,
    /// It is put off, or has ended.
    Done,
    /// Its record has changed meanwhile.
    Again,
}

/// A run that is ours.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) record: RunRecord,
    pub(super) revision: Revision,
    pub(super) attempt: u32,
    pub(super) fence: u64,
    pub(super) permits: Permits,
}

impl Shared {
    pub(super) async fn claim(
        &self,
        delivery: &Delivery,
        message: &RunMessage,
    ) -> Result<Step, BrokerError> {
        let mut permits = Permits::default();
        let mut step = self.claim_with(delivery, message, &mut permits).await;
        match &mut step {
            Ok(Step::Execute(claimed)) => claimed.permits = permits,
            Ok(Step::Done) | Err(_) => self.give_back(&mut permits).await,
        }
        step
    }

    async fn claim_with(
        &self,
        delivery: &Delivery,
        message: &RunMessage,
        permits: &mut Permits,
    ) -> Result<Step, BrokerError> {
        let not_here = self.not_here(delivery, message).await;
        // On the first delivery there is no record, as a rule: then one write is enough.
        let mut found = match delivery.deliveries {
            ..=1 => Ok(None),
            2.. => self.read_record(message).await?,
        };
        for tried in 0..TRIES {
            let (record, revision) = match found {
                Ok(Some((record, revision))) => (record, Some(revision)),
                Ok(None) if tried > 0 && self.is_erased(message).await? => {
                    self.bury(delivery, &NotTaken::Refused(Refusal::Erased))
                        .await;
                    return Ok(Step::Done);
                }
                Ok(None) => (RunRecord::queued(message), None),
                Err(foreign) => return self.give_up(delivery, message, &foreign).await,
            };
            if self.is_left(delivery, message, &record).await? {
                return Ok(Step::Done);
            }
            let by = Claimant {
                worker: self.options.id.clone(),
                delivery: mark(delivery),
                at: clock::now(),
            };
            if let Some(not_here) = &not_here
                && let Some(refused) = record.clone().refuse(&by, &not_here.reason)
            {
                let stored = self.write(&refused, revision, Durability::Power).await?;
                if let Cas::Done(_) = stored {
                    self.end_refused(delivery, message, &refused, not_here)
                        .await?;
                    return Ok(Step::Done);
                }
                found = self.read_record(message).await?;
                continue;
            }
            let tried = self.try_claim(delivery, message, (record, revision), &by, permits);
            if let Some(step) = tried.await? {
                return Ok(step);
            }
            found = self.read_record(message).await?;
        }
        warn!(target: "orchestrator::worker", run_id = %message.run_id,
            "the record kept changing; the run is left to its lease");
        Ok(Step::Done)
    }

    /// Tries to make a run this worker's, as its record was found; `None`: it has changed meanwhile.
    async fn try_claim(
        &self,
        delivery: &Delivery,
        message: &RunMessage,
        (record, revision): (RunRecord, Option<Revision>),
        by: &Claimant,
        permits: &mut Permits,
    ) -> Result<Option<Step>, BrokerError> {
        let before = message.spec.is_limited().then(|| record.clone());
        match record.claim(by, message.expires_at, message.spec.retry.max_crashes) {
            Ok(claim) => {
                if let Some(before) = before {
                    let (now, about) = (by.at, (&before, claim.fence));
                    let permission = self.permit(delivery, message, about, permits).await?;
                    match self
                        .not_now(delivery, message, (before, revision), permission, now)
                        .await?
                    {
                        NotNow::Start => {}
                        NotNow::Done => return Ok(Some(Step::Done)),
                        NotNow::Again => return Ok(None),
                    }
                }
                let write = self.write(&claim.record, revision, Durability::Crash);
                if let Cas::Done(revision) = write.await? {
                    return Ok(Some(Step::Execute(Box::new(Claimed {
                        record: claim.record,
                        revision,
                        attempt: claim.attempt,
                        fence: claim.fence,
                        permits: Permits::default(),
                    }))));
                }
            }
            Err(ClaimRefused::Ended(_) | ClaimRefused::Stale) => {
                // Not ours to settle: the later delivery is.
                info!(target: "orchestrator::worker", run_id = %message.run_id,
                    "a delivery that had run out is dropped");
                return Ok(Some(Step::Done));
            }
            Err(ClaimRefused::EndNow(record)) => {
                let stored = self.write(&record, revision, Durability::Power).await?;
                if let Cas::Done(_) = stored {
                    self.end_unexecuted(delivery, message, &record).await?;
                    return Ok(Some(Step::Done));
                }
            }
        }
        // What it holds, it holds under a fence that may be somebody else's by now.
        self.give_back(permits).await;
        Ok(None)
    }

    /// Whether nothing is to be claimed: it is to come again later, may still be held, or has ended. What follows from
    /// that has been done.
    async fn is_left(
        &self,
        delivery: &Delivery,
        message: &RunMessage,
        record: &RunRecord,
    ) -> Result<bool, BrokerError> {
        if let Some(wait) = record.put_off_for(&message.spec.retry, clock::now()) {
            self.broker.release(&delivery.receipt, wait).await?;
            return Ok(true);
        }
        if let Some(wait) = self.is_held_by_another(record, delivery).await? {
            debug!(target: "orchestrator::worker", run_id = %message.run_id,
                "another message of a run that is being executed waits for its end");
            self.broker.release(&delivery.receipt, wait).await?;
            return Ok(true);
        }
        if self.may_be_early(record, delivery) {
            info!(target: "orchestrator::worker", run_id = %message.run_id,
                "delivered again after the broker was away: its holder has another lease to show itself");
            return Ok(true);
        }
        if self.is_replayed(record, delivery) {
            self.bury(delivery, &NotTaken::Refused(Refusal::Replayed))
                .await;
            return Ok(true);
        }
        if record.state.is_final() {
            info!(target: "orchestrator::worker", run_id = %message.run_id,
                state = %record.state, "a repeat of a run that has ended is dropped");
            // Whoever recorded its end may have been stopped before the rest was done.
            self.follow_up(delivery, message, record, Settling::Again)
                .await?;
            self.broker.ack(&delivery.receipt).await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether this is another message than the one by which the run is being executed, and for how long it is to wait: its
    /// lease says nothing of that one's. The holder keeps the run for a lease at least, and as long as it says that it
    /// executes it. Once it has been silent for longer than it may be, whatever it held has run out.
    async fn is_held_by_another(
        &self,
        record: &RunRecord,
        delivery: &Delivery,
    ) -> Result<Option<Duration>, BrokerError> {
        let open = record.attempts.last();
        let Some(open) = open.filter(|open| {
            record.state == RunState::Running && open.delivery.sequence != delivery.sequence
        }) else {
            return Ok(None);
        };
        if delivery.deliveries <= 1 {
            return Ok(Some(delivery.lease));
        }
        let asked = clock::monotonic();
        let told = match self.broker.get(Bucket::Workers, &open.worker).await {
            Err(BrokerError::NotPermitted { .. }) => None,
            told => told?,
        };
        let Some(told) = told else { return Ok(None) };
        let Ok(status) = serde_json::from_slice::<WorkerStatus>(&told.value) else {
            return Ok(None);
        };
        if !status.may_execute(&record.run_id, open.started_at) {
            return Ok(None);
        }
        let silence = silence_of(&status).max(delivery.lease);
        let left = silence.saturating_sub(self.said.silence_since(told.revision, asked));
        Ok((left > Duration::ZERO).then_some(left.min(delivery.lease)))
    }

    /// Whether a run that somebody else holds may have been delivered before its lease was over: the broker was away
    /// less than a lease ago, and may have forgotten when it was renewed. The delivery is left as it is: a
    /// holder that lives renews it, else it comes again.
    fn may_be_early(&self, record: &RunRecord, delivery: &Delivery) -> bool {
        record.state == RunState::Running && self.broker.undisturbed_for() < delivery.lease
    }

    /// Writes down what a run waits for, or that it has waited for too long.
    async fn not_now(
        &self,
        delivery: &Delivery,
        message: &RunMessage,
        (before, revision): (RunRecord, Option<Revision>),
        permission: Permission,
        now: DateTime<Utc>,
    ) -> Result<NotNow, BrokerError> {
        match permission {
            Permission::Granted => Ok(NotNow::Start),
            Permission::Unknown(error) => {
                let foreign = Foreign(format!("what it has to hold cannot be told: {error}"));
                self.give_up(delivery, message, &foreign).await?;
                Ok(NotNow::Done)
            }
            Permission::Wait(waiting, look) => {
                let after = before.clone().wait(now, waiting);
                if after != before
                    && self.write(&after, revision, Durability::Crash).await? == Cas::Conflict
                {
                    return Ok(NotNow::Again);
                }
                self.broker.release(&delivery.receipt, look).await?;
                Ok(NotNow::Done)
            }
            Permission::TooLate(Waiting { what, name, .. }, at_most) => {
                let reason = format!("the {what} `{name}` was not free within {at_most}");
                let after = before.give_up_waiting(now, &reason);
                if self.write(&after, revision, Durability::Power).await? == Cas::Conflict {
                    return Ok(NotNow::Again);
                }
                self.end_unexecuted(delivery, message, &after).await?;
                Ok(NotNow::Done)
            }
        }
    }

    /// Takes a run whose record says nothing to the dead letters: it cannot be told whether it ran.
    async fn give_up(
        &self,
        delivery: &Delivery,
        message: &RunMessage,
        Foreign(reason): &Foreign,
    ) -> Result<Step, BrokerError> {
        warn!(target: "orchestrator::worker", run_id = %message.run_id, reason,
            "a run became a dead letter");
        self.dead_letter(delivery, Some(message.run_id.clone()), (reason, None))
            .await?;
        self.broker.ack(&delivery.receipt).await?;
        Ok(Step::Done)
    }

    /// A run that has ended without another execution: cancelled, expired, or too many crashes.
    async fn end_unexecuted(
        &self,
        delivery: &Delivery,
        message: &RunMessage,
        record: &RunRecord,
    ) -> Result<(), BrokerError> {
        let reason = record.reason.as_deref().unwrap_or_default();
        warn!(target: "orchestrator::worker", run_id = %record.run_id, job = %record.run_id.job(),
            state = %record.state, reason, "run ended without another execution");
        self.follow_up(delivery, message, record, Settling::First)
            .await?;
        self.broker.ack(&delivery.receipt).await
    }

    /// A run that is executed here was delivered here again, because its lease ran out while the
    /// broker was away: it goes on, held by the new delivery. False if it is not held any more and
    /// may be claimed anew.
    pub(super) async fn adopt(
        &self,
        delivery: &Delivery,
        message: &RunMessage,
        held: &Held,
    ) -> Result<bool, BrokerError> {
        let Some(fence) = held.lease.fence() else {
            // Its claim is still on its way.
            return Ok(true);
        };
        for _ in 0..TRIES {
            let Some((mut record, revision)) = self.record(message).await? else {
                if self.has_lost(&held.lease.receipt()).await {
                    self.outlive(&message.run_id, held).await?;
                    continue;
                }
                return Ok(false);
            };
            if !record.is_held_by(&self.options.id, fence) {
                return Ok(false);
            }
            if record.cancel_requested_at.is_some() {
                held.ending.ask(Cause::Cancelled);
            }
            if !record.redelivered(mark(delivery)) {
                return Ok(true);
            }
            let stored = self
                .write(&record, Some(revision), Durability::Crash)
                .await?;
            if let Cas::Done(_) = stored {
                held.lease.adopt(delivery.receipt.clone());
                info!(target: "orchestrator::worker", run_id = %message.run_id,
                    "delivered here again after its lease had run out; it goes on");
                return Ok(true);
            }
        }
        Ok(true)
    }
}

fn mark(delivery: &Delivery) -> DeliveryMark {
    DeliveryMark {
        sequence: delivery.sequence,
        count: delivery.deliveries,
    }
}
