//! What is remembered of a job's last run, beyond the age of run records.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{RunId, RunRecord, RunState};
use crate::job::Anchor;

/// The prefix of the keys `last.JOB` in the state bucket, which hold [`LastRun`].
pub const LAST_RUN_PREFIX: &str = "last.";

/// How far the clocks of two machines that are well may be apart.
const APART: TimeDelta = TimeDelta::minutes(1);

/// The latest moment that another machine, whose clock may be ahead a little, may call past `now`.
pub fn latest(now: DateTime<Utc>) -> DateTime<Utc> {
    now.checked_add_signed(APART)
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// The last run of a job, and the last that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// The run whose last attempt started last.
    pub run_id: RunId,
    /// How it ended, or where it stands.
    pub state: RunState,
    /// Its tick, or when it was asked for.
    pub scheduled_for: DateTime<Utc>,
    /// When its last attempt started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    /// How its program ended, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<String>,
    /// The run that succeeded last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<LastSuccess>,
}

/// The last run that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSuccess {
    /// The run.
    pub run_id: RunId,
    /// When its last attempt started: what happened since may be unknown to it.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
}

impl From<&RunRecord> for LastRun {
    fn from(record: &RunRecord) -> Self {
        let attempt = record.attempts.last();
        let started_at = attempt.map(|attempt| attempt.started_at);
        let last_success = match (record.state, started_at, record.finished_at) {
            (RunState::Succeeded, Some(started_at), Some(finished_at)) => Some(LastSuccess {
                run_id: record.run_id.clone(),
                started_at,
                finished_at,
            }),
            _ => None,
        };
        Self {
            run_id: record.run_id.clone(),
            state: record.state,
            scheduled_for: record.scheduled_for,
            started_at,
            finished_at: record.finished_at,
            exit: attempt.and_then(|attempt| Some(attempt.exit.as_ref()?.summary())),
            last_success,
        }
    }
}

/// What the schedule of a job may depend on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Past {
    /// When the last attempt of the last run started.
    pub last_start: Option<DateTime<Utc>>,
    /// When the last attempt of the last run that succeeded started, and when it ended.
    pub last_success: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

impl Past {
    /// Where an interval starts that counts from a run of this kind.
    pub fn anchored(&self, anchor: Anchor) -> Option<DateTime<Utc>> {
        match anchor {
            Anchor::Epoch => None,
            Anchor::LastSuccess => self.last_success.map(|(_, finished_at)| finished_at),
            Anchor::LastStart => self.last_start,
        }
    }

    /// The same as it is to be understood when it is heard at `now`: what was told by a clock that is further ahead
    /// happened now.
    #[must_use]
    pub fn heard_at(self, now: DateTime<Utc>) -> Self {
        let latest = latest(now);
        let understood = |at: DateTime<Utc>| if at > latest { now } else { at };
        Self {
            last_start: self.last_start.map(understood),
            last_success: self
                .last_success
                .map(|(started_at, ended_at)| (understood(started_at), understood(ended_at))),
        }
    }
}

impl From<&LastRun> for Past {
    fn from(last: &LastRun) -> Self {
        let success = last.last_success.as_ref();
        Self {
            last_start: last.started_at,
            last_success: success.map(|success| (success.started_at, success.finished_at)),
        }
    }
}

impl LastRun {
    /// What is remembered after `record` has ended, as it is told at `now`. Runs may be told in any order, and
    /// repeatedly: of two, the one that started later is the last. One of a time to come gives way to every other.
    #[must_use]
    pub fn after(self, record: &RunRecord, now: DateTime<Utc>) -> Self {
        let told = Self::from(record);
        let latest = latest(now);
        let last_success = match (told.last_success.clone(), self.last_success.clone()) {
            (Some(told), Some(known)) => {
                let is_to_come = known.started_at.max(known.finished_at) > latest;
                let is_newer = told.started_at >= known.started_at || is_to_come;
                Some(if is_newer { told } else { known })
            }
            (told, known) => told.or(known),
        };
        let moments = |last: &Self| (last.started_at, last.scheduled_for);
        let is_to_come = self.started_at.is_some_and(|at| at > latest);
        let last = match is_to_come || moments(&told) >= moments(&self) {
            true => told,
            false => self,
        };
        Self {
            last_success,
            ..last
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        job::{Execute, RunSpec},
        run::{AttemptEnd, Claimant, DeliveryMark, Exit, RunMessage},
    };

    fn ended(minute: u32, state: RunState) -> RunRecord {
        let at: DateTime<Utc> = format!("2026-11-23T10:{minute:02}:00Z").parse().unwrap();
        let run_id = RunId::for_tick("crawl".parse().unwrap(), at);
        let spec = RunSpec::new(Execute::Shell("true".to_owned()));
        let message = RunMessage::new(run_id, "high".parse().unwrap(), at, spec);
        let by = Claimant {
            worker: "w".to_owned(),
            delivery: DeliveryMark::default(),
            at,
        };
        let mut record = RunRecord::queued(&message)
            .claim(&by, None, 3)
            .unwrap()
            .record;
        record.close_attempt(at, AttemptEnd::Succeeded, Some(Exit::Code(0)));
        record.end(state, at, None);
        record
    }

    #[test]
    fn a_run_of_a_time_to_come_is_not_the_last_one_for_ever() {
        let run = ended(1, RunState::Succeeded);
        let mut wrong = LastRun::from(&run);
        let far: DateTime<Utc> = "2100-01-01T00:00:00Z".parse().unwrap();
        wrong.started_at = Some(far);
        let success = wrong.last_success.as_mut().unwrap();
        (success.started_at, success.finished_at) = (far, far);
        let right = LastRun::from(&run);
        assert_eq!(wrong.after(&run, run.finished_at.unwrap()), right);
    }

    #[test]
    fn order_and_repetition_do_not_matter() {
        let runs = [
            ended(1, RunState::Succeeded),
            ended(2, RunState::Succeeded),
            ended(3, RunState::Failed),
        ];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 1, 2]] {
            let first = LastRun::from(&runs[order[0]]);
            let now = runs[2].finished_at.unwrap();
            let last = order
                .iter()
                .fold(first, |last, at| last.after(&runs[*at], now));
            assert_eq!(last.run_id, runs[2].run_id, "{order:?}");
            assert_eq!(
                last.last_success.unwrap().run_id,
                runs[1].run_id,
                "{order:?}"
            );
        }
    }
}
