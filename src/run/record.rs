//! The record of a run: the one truth about its state. Every change is a compare-and-set on it,
//! and the transitions that may be asked for are the methods here.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Exit, RunId, RunMessage, RunState};
use crate::job::QueueName;

/// How many attempts a record keeps in detail; older ones are only counted.
pub(super) const KEPT_ATTEMPTS: usize = 20;

/// What is known of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run.
    pub run_id: RunId,
    /// Its route.
    pub queue: QueueName,
    /// Where it stands.
    pub state: RunState,
    /// The tick, or the time a run by hand was asked for.
    pub scheduled_for: DateTime<Utc>,
    /// When its message was made.
    pub published_at: DateTime<Utc>,
    /// When the first attempt started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it reached a final state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    /// Not before this the next attempt starts, while retrying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// What it waits for, while it is queued and could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Grows with every claim; who shows a smaller one has lost the run.
    pub fence: u64,
    /// Attempts that count against the retry policy.
    pub attempts_used: u32,
    /// Attempts whose worker died or lost its lease.
    pub crashes: u32,
    /// The last attempts in detail, oldest first.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// Why it ended as it did, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the job wrote to its result file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
    /// Since when somebody wants it cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// Why, in words, unless a person asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_reason: Option<String>,
    /// The run that asked for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<RunId>,
    /// The run that this one repeats, because a person asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<RunId>,
    /// The arguments of this run.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub args: serde_json::Map<String, serde_json::Value>,
}

/// What keeps a run from being started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The kind of thing.
    pub what: WaitingFor,
    /// The lock, or the key.
    pub name: String,
    /// Since when.
    pub since: DateTime<Utc>,
    /// When it will be started, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

/// The kinds of things that a run may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitingFor {
    /// A lock that somebody else holds.
    Lock,
    /// A place, where others hold all of them.
    Concurrency,
    /// Its turn under a rate.
    Rate,
}

impl std::fmt::Display for WaitingFor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lock => "lock",
            Self::Concurrency => "concurrency",
            Self::Rate => "rate",
        })
    }
}

/// One execution of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Counts from 1; handed back ones are not numbered anew.
    pub number: u32,
    /// The fence under which it ran.
    pub fence: u64,
    /// Who executed it.
    pub worker: String,
    /// The delivery on which it was claimed.
    #[serde(default)]
    pub delivery: DeliveryMark,
    /// When it was claimed.
    pub started_at: DateTime<Utc>,
    /// When its end was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    /// How it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<AttemptEnd>,
    /// How the program ended, if it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

/// Tells deliveries of the same stored message apart: the later one has the larger count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeliveryMark {
    /// The stored message.
    pub sequence: u64,
    /// How often it had been delivered, that time included.
    pub count: u64,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptEnd {
    /// Well.
    Succeeded,
    /// Badly.
    Failed,
    /// It took too long.
    TimedOut,
    /// On request.
    Cancelled,
    /// The worker handed it back.
    HandedBack,
    /// The worker died or lost its lease.
    Lost,
}

impl RunRecord {
    /// Reads the record that is stored for `run_id`. One of another run is none: who may write records could have
    /// that one run in its place. Fails with what is wrong.
    pub fn read(run_id: &RunId, value: &[u8]) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        match record.run_id == *run_id {
            true => Ok(record),
            false => Err(format!("it is that of another run, {}", record.run_id)),
        }
    }

    /// The record of a run that was accepted but never claimed.
    pub fn queued(message: &RunMessage) -> Self {
        Self {
            run_id: message.run_id.clone(),
            queue: message.queue.clone(),
            state: RunState::Queued,
            scheduled_for: message.scheduled_for,
            published_at: message.published_at,
            started_at: None,
            finished_at: None,
            next_attempt_at: None,
            waiting: None,
            fence: 0,
            attempts_used: 0,
            crashes: 0,
            attempts: Vec::new(),
            reason: None,
            result: None,
            cancel_requested_at: None,
            cancel_reason: None,
            parent: message.parent.clone(),
            retry_of: message.retry_of.clone(),
            args: message.spec.args.clone(),
        }
    }

    /// The record of a run that is not to be: its tick was decided on otherwise. Should it be published all
    /// the same, by a call that was late, it is dropped as a run that has ended.
    #[must_use]
    pub fn called_off(message: &RunMessage, at: DateTime<Utc>, why: &str) -> Self {
        let mut record = Self::queued(message);
        record.end(RunState::Cancelled, at, Some(why.to_owned()));
        record
    }

    /// Whether it was called off and not cancelled.
    pub fn is_called_off(&self) -> bool {
        self.state == RunState::Cancelled
            && self.cancel_requested_at.is_none()
            && self.attempts.is_empty()
    }

    /// Whether the attempt under `fence` still owns the run.
    pub fn is_held_under(&self, fence: u64) -> bool {
        self.state == RunState::Running && self.fence == fence
    }

    /// The same, if that attempt is one of `worker`: fences begin anew when a broker has lost its data.
    pub fn is_held_by(&self, worker: &str, fence: u64) -> bool {
        let open = self.attempts.last();
        self.is_held_under(fence) && open.is_some_and(|open| open.worker == worker)
    }

    /// Closes the running attempt.
    pub fn close_attempt(&mut self, at: DateTime<Utc>, end: AttemptEnd, exit: Option<Exit>) {
        if let Some(open) = self.attempts.last_mut().filter(|a| a.end.is_none()) {
            open.finished_at = Some(at);
            open.end = Some(end);
            open.exit = exit;
        }
        match end {
            AttemptEnd::Lost => self.crashes = self.crashes.saturating_add(1),
            AttemptEnd::HandedBack => {}
            AttemptEnd::Succeeded
            | AttemptEnd::Failed
            | AttemptEnd::TimedOut
            | AttemptEnd::Cancelled => {
                self.attempts_used = self.attempts_used.saturating_add(1);
            }
        }
    }

    /// Ends the run in `state` (a final one).
    pub fn end(&mut self, state: RunState, at: DateTime<Utc>, reason: Option<String>) {
        self.state = state;
        self.finished_at = Some(at);
        self.next_attempt_at = None;
        self.waiting = None;
        self.reason = reason;
    }

    /// Puts the run back for another attempt, not before `at`.
    pub fn put_off(&mut self, state: RunState, not_before: Option<DateTime<Utc>>) {
        self.state = state;
        self.next_attempt_at = not_before;
    }

    /// Asks for the end of the run. What is not running ends here and now; what is running is
    /// ended by its worker. Returns whether anything changed.
    pub fn request_cancel(&mut self, at: DateTime<Utc>, why: Option<&str>) -> bool {
        match self.state {
            RunState::Queued | RunState::Retrying => {
                self.cancel_requested_at.get_or_insert(at);
                let why = why.unwrap_or("cancelled before it ran");
                self.end(RunState::Cancelled, at, Some(why.to_owned()));
                true
            }
            RunState::Running if self.cancel_requested_at.is_none() => {
                self.cancel_requested_at = Some(at);
                self.cancel_reason = why.map(str::to_owned);
                true
            }
            RunState::Running
            | RunState::Succeeded
            | RunState::Failed
            | RunState::Cancelled
            | RunState::Expired
            | RunState::Dead => false,
        }
    }
}
