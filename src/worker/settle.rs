//! Records what became of an attempt, then settles its delivery.
//!
//! The record first, by compare-and-set under the fence; only if that succeeded is the delivery
//! settled, and only within the lease: the broker would take it from anybody. What is not settled
//! comes again and is dropped, because its record is final.

use std::time::Duration;

use tracing::{debug, info, warn};

use super::{Shared, claim::Claimed, registry::Held};
use crate::{
    broker::{BrokerError, Bucket, Cas, Delivery, Durability, RefusedBy},
    chance, clock,
    exec::PingEvent,
    job::Execute,
    run::{
        AttemptEnd, Disposition, Ending, Exit, LAST_RUN_PREFIX, LastRun, RunId, RunMessage,
        RunRecord, RunState, Timing, dispose, retry_after,
    },
};

/// How often a contended value is tried.
const TRIES: usize = 10;
/// The longest pause between two tries while the broker is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Why a run that is to be tried again is dead.
const BROKER_LOST_IT: &str = "the broker lost its data while the run was executed";

/// How far back the letter of a run that is settled again is looked for.
const LETTERS: usize = 1000;

/// Whether a final record may have been followed up before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settling {
    First,
    Again,
}

/// How it ended, and the result that the job left.
pub(super) type Outcome = (Ending, Option<serde_json::Value>);

impl Shared {
    /// Records the outcome of an attempt and settles its delivery.
    pub(super) async fn settle(
        &self,
        delivery: &Delivery,
        message: &RunMessage,
        claimed: Claimed,
        held: &Held,
        outcome: Outcome,
    ) -> Result<(), BrokerError> {
        let used = claimed.record.attempts_used.saturating_add(1);
        let timing = Timing {
            seed: chance::fraction(),
            retry_after: outcome.1.as_ref().and_then(retry_after),
        };
        let disposition = dispose(&message.spec, used, &outcome.0, timing);
        let fence = claimed.fence;
        let recording = self.record_outcome(message, claimed, held, (&outcome, disposition));
        let Some((record, disposition)) = self.kept(message, fence, held, recording).await? else {
            warn!(target: "orchestrator::worker", run_id = %message.run_id,
                "its outcome is not recorded: somebody else has the run");
            return Ok(());
        };
        point!("worker-recorded");
        tell(message, &record, &disposition);
        if record.state.is_final() {
            self.ping_end(message, &record);
            self.follow_up(delivery, message, &record, Settling::First)
                .await?;
        }
        if held.lease.is_alone() {
            // There is nothing to be settled.
            return Ok(());
        }
        if !held.lease.is_safe() {
            debug!(target: "orchestrator::worker", run_id = %message.run_id,
                "recorded after its lease: the delivery is not settled");
            return Ok(());
        }
        let receipt = held.lease.receipt();
        match disposition {
            Disposition::Final(_) => self.broker.ack(&receipt).await,
            Disposition::Retry(delay) => self.broker.release(&receipt, delay).await,
            Disposition::Release => self.broker.release(&receipt, Duration::ZERO).await,
        }
    }

    fn ping_end(&self, message: &RunMessage, record: &RunRecord) {
        let Some(url) = &message.spec.ping else {
            return;
        };
        let exit = record.attempts.last().and_then(|last| last.exit.as_ref());
        let event = match (record.state, exit) {
            (RunState::Succeeded, _) => PingEvent::Success,
            (RunState::Cancelled, _) => PingEvent::Log,
            (_, Some(Exit::Code(code))) => match u8::try_from(*code) {
                Ok(code) if code > 0 => PingEvent::Exit(code),
                _ => PingEvent::Fail,
            },
            _ => PingEvent::Fail,
        };
        let reason = record.reason.as_deref().unwrap_or_default();
        let run_id = record.run_id.to_string();
        self.pings.send(url, event, Some(&run_id), reason);
    }

    /// What follows from a final record, before its delivery is acknowledged. A crash in between
    /// leaves the delivery: then all of it is done again.
    pub(super) async fn follow_up(
        &self,
        delivery: &Delivery,
        message: &RunMessage,
        record: &RunRecord,
        settling: Settling,
    ) -> Result<(), BrokerError> {
        if record.state == RunState::Dead && !self.is_buried(&record.run_id, settling).await? {
            let reason = record.reason.as_deref().unwrap_or("all attempts failed");
            self.dead_letter(delivery, Some(record.run_id.clone()), (reason, None))
                .await?;
        }
        self.remember(message, record).await
    }

    async fn is_buried(&self, run_id: &RunId, settling: Settling) -> Result<bool, BrokerError> {
        match settling {
            Settling::First => Ok(false),
            Settling::Again => {
                let letters = match self.broker.dead_letters(None, LETTERS).await {
                    Ok(letters) => letters,
                    // Who may not look buries it once more rather than not at all.
                    Err(BrokerError::NotPermitted { .. }) => return Ok(false),
                    Err(error) => return Err(error),
                };
                // A message whose signature was refused may have called itself anything.
                let mut told = letters.iter().filter(|(_, letter)| {
                    let refused = letter.refused.as_ref();
                    refused.is_none_or(|refused| refused.by != RefusedBy::Signature)
                });
                Ok(told.any(|(_, letter)| letter.run_id.as_ref() == Some(run_id)))
            }
        }
    }

    /// Writes the outcome into the record, and returns it with what becomes of the run; `None` if the run belongs to
    /// somebody else by now. While the broker is away it tries again, until nothing is waited for any more.
    ///
    /// A broker that has lost its data is given the record again. It has no message any more that could bring the run
    /// back, so one that was to be tried again is dead.
    async fn record_outcome(
        &self,
        message: &RunMessage,
        claimed: Claimed,
        held: &Held,
        (outcome, mut disposition): (&Outcome, Disposition),
    ) -> Result<Option<(RunRecord, Disposition)>, BrokerError> {
        let now = clock::now();
        let (mut record, mut revision) = (claimed.record, Some(claimed.revision));
        let mut pause = Duration::from_millis(50);
        loop {
            let comes_again = !matches!(disposition, Disposition::Final(_));
            if comes_again && held.lease.is_alone() {
                disposition = Disposition::Final(RunState::Dead);
            }
            let durability = match disposition {
                Disposition::Final(_) => Durability::Power,
                Disposition::Retry(_) | Disposition::Release => Durability::Crash,
            };
            let mut wanted = closed(record.clone(), now, outcome, &disposition);
            if held.lease.is_alone() && wanted.state == RunState::Dead {
                let why = wanted.reason.map(|why| format!("; {why}"));
                wanted.reason = Some(format!("{BROKER_LOST_IT}{}", why.unwrap_or_default()));
            }
            let error = match self.write(&wanted, revision, durability).await {
                Ok(Cas::Done(_)) => return Ok(Some((wanted, disposition))),
                Ok(Cas::Conflict) => match self.record(message).await {
                    // An earlier try was carried out, only its answer was lost.
                    Ok(Some((current, _))) if current == wanted => {
                        return Ok(Some((wanted, disposition)));
                    }
                    Ok(Some((current, newer)))
                        if current.is_held_by(&self.options.id, claimed.fence) =>
                    {
                        (record, revision) = (current, Some(newer));
                        continue;
                    }
                    Ok(None) if revision.is_some() => {
                        match self.broker.is_of_before(&held.lease.receipt()).await {
                            Ok(true) => {
                                held.lease.leave_alone();
                                revision = None;
                                continue;
                            }
                            Ok(false) => return Ok(None),
                            Err(error) => error,
                        }
                    }
                    Ok(_) => return Ok(None),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if !error.is_transient() {
                return Err(error);
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause.mul_f64(1.0 - chance::fraction() / 2.0)) => {}
                () = self.at_once.cancelled() => return Err(error),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Keeps the job's last run and last success, for jobs that ask for it: those with ticks, and
    /// those whose command names the last success.
    pub(super) async fn remember(
        &self,
        message: &RunMessage,
        record: &RunRecord,
    ) -> Result<(), BrokerError> {
        if !is_remembered(message) {
            return Ok(());
        }
        let key = format!("{LAST_RUN_PREFIX}{}", record.run_id.job());
        for _ in 0..TRIES {
            let found = self.broker.get(Bucket::State, &key).await?;
            let before = found
                .as_ref()
                .and_then(|entry| serde_json::from_slice::<LastRun>(&entry.value).ok());
            let after = match before.clone() {
                Some(last) => last.after(record, clock::now()),
                None => LastRun::from(record),
            };
            if before.as_ref() == Some(&after) {
                return Ok(());
            }
            let value = serde_json::to_vec(&after).map_err(|error| BrokerError::Failed {
                broker: self.broker.describe(),
                operation: format!("write {key}"),
                reason: error.to_string(),
            })?;
            let revision = found.map(|entry| entry.revision);
            let done = self
                .broker
                .compare_and_set(Bucket::State, &key, revision, value, Durability::Crash)
                .await?;
            if let Cas::Done(_) = done {
                return Ok(());
            }
        }
        debug!(target: "orchestrator::worker", key, "the last run kept changing; others have told it");
        Ok(())
    }
}

fn is_remembered(message: &RunMessage) -> bool {
    let names_it = match &message.spec.execute {
        Execute::Command(_) | Execute::Http(_) => {
            let mut templates = message.spec.templates();
            templates.any(|part| part.source().contains("{last_success}"))
        }
        Execute::Shell(script) => script.contains("ORCHESTRATOR_LAST_SUCCESS"),
    };
    names_it || message.anchor.is_some() || message.run_id.tick().is_some()
}

/// The record after the attempt.
fn closed(
    mut record: RunRecord,
    at: chrono::DateTime<chrono::Utc>,
    (ending, result): &Outcome,
    disposition: &Disposition,
) -> RunRecord {
    let (end, exit) = match ending {
        Ending::Exited(exit) if *disposition == Disposition::Final(RunState::Succeeded) => {
            (AttemptEnd::Succeeded, Some(exit.clone()))
        }
        Ending::Exited(exit) => (AttemptEnd::Failed, Some(exit.clone())),
        Ending::TimedOut(exit) => (AttemptEnd::TimedOut, Some(exit.clone())),
        Ending::Cancelled(exit) => (AttemptEnd::Cancelled, Some(exit.clone())),
        Ending::HandedBack => (AttemptEnd::HandedBack, None),
    };
    let reason = reason(end, exit.as_ref(), record.cancel_reason.as_deref());
    record.close_attempt(at, end, exit);
    match disposition {
        Disposition::Final(state) => {
            record.end(*state, at, reason);
            record.result.clone_from(result);
        }
        Disposition::Retry(delay) => {
            let next = chrono::Duration::from_std(*delay).ok();
            let next = next.and_then(|delay| at.checked_add_signed(delay));
            record.put_off(RunState::Retrying, next);
            record.reason = reason;
        }
        Disposition::Release => record.put_off(RunState::Queued, None),
    }
    record
}

fn reason(end: AttemptEnd, exit: Option<&Exit>, cancelled: Option<&str>) -> Option<String> {
    let exit = exit.map(Exit::summary).unwrap_or_default();
    match end {
        AttemptEnd::Succeeded | AttemptEnd::HandedBack | AttemptEnd::Lost => None,
        AttemptEnd::Failed => Some(exit),
        AttemptEnd::TimedOut => Some(format!("timed out, ended with {exit}")),
        AttemptEnd::Cancelled => {
            let why = cancelled.unwrap_or("cancelled");
            Some(format!("{why}, ended with {exit}"))
        }
    }
}

fn tell(message: &RunMessage, record: &RunRecord, disposition: &Disposition) {
    let last = record.attempts.last();
    let attempt = last.map_or(0, |attempt| attempt.number);
    let took = last.and_then(|attempt| (attempt.finished_at? - attempt.started_at).to_std().ok());
    let seconds = took.unwrap_or_default().as_secs_f64();
    let reason = record.reason.as_deref();
    let (run_id, job, queue) = (&record.run_id, record.run_id.job(), &message.queue);
    match disposition {
        Disposition::Final(RunState::Succeeded) => {
            info!(target: "orchestrator::worker", %run_id, %job, %queue, attempt, seconds,
                state = %record.state, "run succeeded");
        }
        Disposition::Final(state) => {
            warn!(target: "orchestrator::worker", %run_id, %job, %queue, attempt, seconds, reason,
                %state, "run {state}");
        }
        Disposition::Retry(delay) => {
            warn!(target: "orchestrator::worker", %run_id, %job, %queue, attempt, seconds, reason,
                delay_seconds = delay.as_secs_f64(), state = %record.state, "run will be retried");
        }
        Disposition::Release => {
            info!(target: "orchestrator::worker", %run_id, %job, %queue, attempt, seconds,
                "run handed back");
        }
    }
}
