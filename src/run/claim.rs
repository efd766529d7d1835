//! Claiming a run: how a delivery becomes an attempt, and when it must not.

use chrono::{DateTime, Utc};
use thiserror::Error;

use super::{
    RunRecord, RunState,
    record::{Attempt, AttemptEnd, DeliveryMark, KEPT_ATTEMPTS, Waiting},
};

/// Who claims a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimant {
    /// The worker's id.
    pub worker: String,
    /// The delivery that it answers.
    pub delivery: DeliveryMark,
    /// Now.
    pub at: DateTime<Utc>,
}

/// A granted claim.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The record as it has to be stored before the program is started.
    pub record: RunRecord,
    /// The number of the new attempt.
    pub attempt: u32,
    /// The fence of the new attempt.
    pub fence: u64,
}

/// Why a delivered run is not executed.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ClaimRefused {
    /// The record is final: the message is a repeat and can be acknowledged.
    #[error("the run has ended as {0}")]
    Ended(RunState),
    /// A later delivery of the same message was claimed already: this one lay about while its lease
    /// ran out, and is worth nothing.
    #[error("a later delivery of the run is being executed")]
    Stale,
    /// The run must end in this state now, without another attempt.
    #[error("the run ends as {}", .0.state)]
    EndNow(Box<RunRecord>),
}

impl RunRecord {
    /// Claims the run for a new attempt. An attempt that is still open belongs to a worker that
    /// lost its lease: it is closed as lost.
    pub fn claim(
        mut self,
        by: &Claimant,
        expires_at: Option<DateTime<Utc>>,
        max_crashes: u32,
    ) -> Result<Claim, ClaimRefused> {
        if self.state.is_final() {
            return Err(ClaimRefused::Ended(self.state));
        }
        if self.is_overtaken(by.delivery) {
            return Err(ClaimRefused::Stale);
        }
        self.close_lost(by.at);
        if self.cancel_requested_at.is_some() {
            return Err(self.end_now(RunState::Cancelled, by.at, "cancelled before it ran"));
        }
        if self.started_at.is_none() && expires_at.is_some_and(|limit| by.at > limit) {
            return Err(self.end_now(RunState::Expired, by.at, "not started before it expired"));
        }
        if self.crashes > max_crashes {
            let reason = format!("its worker died {} times", self.crashes);
            return Err(self.end_now(RunState::Dead, by.at, &reason));
        }
        // Only somebody who wrote it on purpose; a fence must never be smaller than one before.
        let Some(fence) = self.fence.checked_add(1) else {
            return Err(self.end_now(
                RunState::Dead,
                by.at,
                "its record has the last of all fences",
            ));
        };
        self.fence = fence;
        let attempts = self.attempts_used.saturating_add(self.crashes);
        let attempt = attempts.saturating_add(1);
        self.attempts.push(Attempt {
            number: attempt,
            fence: self.fence,
            worker: by.worker.clone(),
            delivery: by.delivery,
            started_at: by.at,
            finished_at: None,
            end: None,
            exit: None,
        });
        if self.attempts.len() > KEPT_ATTEMPTS {
            self.attempts.remove(0);
        }
        self.state = RunState::Running;
        self.started_at.get_or_insert(by.at);
        self.next_attempt_at = None;
        self.waiting = None;
        Ok(Claim {
            fence: self.fence,
            record: self,
            attempt,
        })
    }

    /// The record of a run that is delivered but cannot be started for what it waits for. An attempt that
    /// is still open is closed as lost.
    #[must_use]
    pub fn wait(mut self, at: DateTime<Utc>, waiting: Waiting) -> Self {
        self.close_lost(at);
        self.put_off(RunState::Queued, None);
        self.waiting = Some(waiting);
        self
    }

    /// The record of a run that ends because it has waited for too long.
    #[must_use]
    pub fn give_up_waiting(mut self, at: DateTime<Utc>, reason: &str) -> Self {
        self.close_lost(at);
        self.end(RunState::Expired, at, Some(reason.to_owned()));
        self
    }

    /// The record of a run that may not be executed here: it ends. `None` if a claim has to decide, because it has
    /// ended already, is somebody else's, or was cancelled.
    pub fn refuse(mut self, by: &Claimant, reason: &str) -> Option<Self> {
        let is_decided = self.state.is_final() || self.cancel_requested_at.is_some();
        if is_decided || self.is_overtaken(by.delivery) {
            return None;
        }
        self.close_lost(by.at);
        self.end(RunState::Dead, by.at, Some(reason.to_owned()));
        Some(self)
    }

    /// Whether the message stored as `sequence` is a copy of another one, by which the run was executed to its end. One that is
    /// still to be executed may have been stored anew: by `state import`, for example.
    pub fn is_copied_by(&self, sequence: u64) -> bool {
        let last = self.attempts.last().filter(|_| self.state.is_final());
        last.is_some_and(|attempt| attempt.delivery.sequence != sequence)
    }

    /// Takes note that the running attempt was delivered to its holder again: only a still later
    /// delivery may take it over. False if this one is no later than the one it has.
    pub fn redelivered(&mut self, delivery: DeliveryMark) -> bool {
        let later = !self.is_overtaken(delivery);
        if let Some(open) = self.attempts.last_mut().filter(|_| later) {
            open.delivery = delivery;
        }
        later
    }

    /// Whether the running attempt was claimed on `delivery` or a later one of the same message.
    fn is_overtaken(&self, delivery: DeliveryMark) -> bool {
        let open = self.attempts.last().filter(|attempt| attempt.end.is_none());
        open.is_some_and(|open| {
            open.delivery.sequence == delivery.sequence && open.delivery.count >= delivery.count
        })
    }

    fn close_lost(&mut self, at: DateTime<Utc>) {
        if self.state == RunState::Running {
            self.close_attempt(at, AttemptEnd::Lost, None);
        }
    }

    fn end_now(mut self, state: RunState, at: DateTime<Utc>, reason: &str) -> ClaimRefused {
        self.end(state, at, Some(reason.to_owned()));
        ClaimRefused::EndNow(Box::new(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        job::{Execute, RunSpec},
        run::{Exit, RunId, RunMessage},
    };

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_401_000 + second, 0).unwrap()
    }

    fn queued() -> RunRecord {
        let run_id = RunId::for_tick("crawl".parse().unwrap(), at(0));
        let spec = RunSpec::new(Execute::Shell("true".to_owned()));
        RunRecord::queued(&RunMessage {
            expires_at: Some(at(60)),
            ..RunMessage::new(run_id, "high".parse().unwrap(), at(0), spec)
        })
    }

    fn by(worker: &str, count: u64, second: i64) -> Claimant {
        Claimant {
            worker: worker.to_owned(),
            delivery: DeliveryMark { sequence: 7, count },
            at: at(second),
        }
    }

    fn claimed(record: RunRecord, claimant: &Claimant) -> RunRecord {
        record.claim(claimant, Some(at(60)), 3).unwrap().record
    }

    #[test]
    fn a_takeover_closes_the_lost_attempt_and_raises_the_fence() {
        let first = claimed(queued(), &by("a", 1, 1));
        let second = first
            .clone()
            .claim(&by("b", 2, 20), Some(at(60)), 3)
            .unwrap();
        assert_eq!((second.attempt, second.fence), (2, 2));
        assert_eq!(second.record.attempts[0].end, Some(AttemptEnd::Lost));
        assert_eq!((second.record.crashes, second.record.attempts_used), (1, 0));
        assert!(first.is_held_under(1) && !second.record.is_held_under(1));
    }

    #[test]
    fn a_delivery_that_lay_about_takes_nothing_from_a_later_one() {
        let held = claimed(claimed(queued(), &by("a", 1, 1)), &by("b", 3, 20));
        let refused = held.clone().claim(&by("a", 2, 21), None, 3);
        assert_eq!(refused, Err(ClaimRefused::Stale));
        let mut other = by("a", 1, 21);
        other.delivery.sequence = 8;
        assert!(
            held.claim(&other, None, 3).is_ok(),
            "another message is no repeat"
        );
    }

    #[test]
    fn a_copy_is_told_by_where_it_is_stored() {
        let mut record = queued();
        assert!(!record.is_copied_by(7), "nobody has begun");
        record = claimed(record, &by("a", 1, 1));
        assert!(!record.is_copied_by(8), "it may be stored anew");
        record.end(RunState::Succeeded, at(2), None);
        assert!(!record.is_copied_by(7) && record.is_copied_by(8));
        let mut cancelled = queued();
        cancelled.end(RunState::Cancelled, at(2), None);
        assert!(
            !cancelled.is_copied_by(7),
            "which message it was is not known"
        );
    }

    #[test]
    fn who_gets_its_own_run_again_holds_it_by_the_later_delivery() {
        let mut record = claimed(queued(), &by("a", 1, 1));
        let mark = |count| DeliveryMark { sequence: 7, count };
        assert!(!record.redelivered(mark(1)), "the same delivery");
        assert!(record.redelivered(mark(3)));
        let refused = record.clone().claim(&by("b", 2, 20), None, 3);
        assert_eq!(refused, Err(ClaimRefused::Stale));
        assert!(record.claim(&by("b", 4, 20), None, 3).is_ok());
    }

    #[test]
    fn crashes_are_bounded() {
        let mut record = queued();
        for count in 1..=4 {
            record = claimed(record, &by("a", count, 1));
        }
        let Err(ClaimRefused::EndNow(dead)) = record.claim(&by("a", 5, 1), None, 3) else {
            panic!("a fifth claim was granted");
        };
        assert_eq!((dead.state, dead.crashes), (RunState::Dead, 4));
    }

    #[test]
    fn what_has_ended_or_must_end_is_not_claimed() {
        let mut ended = queued();
        ended.end(RunState::Succeeded, at(1), None);
        assert_eq!(
            ended.claim(&by("a", 1, 2), None, 3),
            Err(ClaimRefused::Ended(RunState::Succeeded))
        );
        let late = queued().claim(&by("a", 1, 61), Some(at(60)), 3);
        let Err(ClaimRefused::EndNow(expired)) = late else {
            panic!("{late:?}")
        };
        assert_eq!(expired.state, RunState::Expired);
        let mut running = claimed(queued(), &by("a", 1, 1));
        assert!(running.request_cancel(at(2), None) && !running.request_cancel(at(3), None));
        let again = running.claim(&by("b", 2, 20), None, 3);
        let Err(ClaimRefused::EndNow(cancelled)) = again else {
            panic!("{again:?}")
        };
        assert_eq!(cancelled.state, RunState::Cancelled);
    }

    #[test]
    fn an_expiry_binds_only_the_first_start() {
        let mut record = claimed(queued(), &by("a", 1, 1));
        record.close_attempt(at(2), AttemptEnd::Failed, Some(Exit::Code(1)));
        record.put_off(RunState::Retrying, Some(at(100)));
        assert!(record.claim(&by("a", 2, 100), Some(at(60)), 3).is_ok());
    }

    #[test]
    fn attempts_are_kept_within_bounds() {
        let mut record = queued();
        for count in 1..=100 {
            record = record.claim(&by("a", count, 1), None, 1000).unwrap().record;
        }
        assert_eq!((record.attempts.len(), record.fence), (KEPT_ATTEMPTS, 100));
    }
}
