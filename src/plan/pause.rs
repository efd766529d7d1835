//! Pausing a job: its ticks are skipped until it is resumed. Runs by hand are not concerned.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The prefix of the keys `pause.JOB` in the state bucket, which hold [`Pause`]. Written by
/// `pause` and `resume`; beat takes it over into the job's state before it plans with it.
pub const PAUSE_PREFIX: &str = "pause.";

/// The prefix of the keys `paused_queue.QUEUE` in the state bucket, which hold [`Pause`]: workers take
/// nothing from that queue as long as it covers now.
pub const QUEUE_PAUSE_PREFIX: &str = "paused_queue.";

/// A stretch of time in which the ticks of a job are skipped. The last one is kept when it is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Ticks after this are skipped.
    pub since: DateTime<Utc>,
    /// Ticks after this are run again; absent: until somebody resumes the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether the ticks that it skipped are to be made up for, as far as `catch_up` has it, once it
    /// is over.
    #[serde(default, skip_serializing_if = "is_false")]
    pub catch_up: bool,
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// Ticks that were passed over and that are to be decided on anew: those in `(from, until]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeUp {
    /// Excluded.
    pub from: DateTime<Utc>,
    /// Included.
    pub until: DateTime<Utc>,
    /// Why they were passed over.
    #[serde(default, skip_serializing_if = "Skipper::is_pause")]
    pub skipped_by: Skipper,
}

/// Why ticks that are to be made up for were passed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Skipper {
    /// The job was paused: what is not made up for stays skipped.
    #[default]
    Pause,
    /// The job was not defined: nobody decided on them.
    Absence,
}

impl Skipper {
    fn is_pause(&self) -> bool {
        *self == Self::Pause
    }
}

impl Pause {
    /// What stands for one that is stored and not understood: paused, until somebody says something else.
    pub fn not_understood() -> Self {
        Self {
            since: DateTime::UNIX_EPOCH,
            until: None,
            reason: Some("what is stored there is not understood".to_owned()),
            catch_up: false,
        }
    }

    /// Whether a tick at `at` is skipped.
    pub fn covers(&self, at: DateTime<Utc>) -> bool {
        self.since < at && self.until.is_none_or(|until| at <= until)
    }

    /// Its part of `(after, until]`, if any.
    pub fn within(
        &self,
        after: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let from = self.since.max(after);
        let to = self.until.map_or(until, |end| end.min(until));
        (from < to).then_some((from, to))
    }
}
