//! The one instant that beat keeps, and how it may move.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A clock that stepped back by more than this is believed: the watermark follows it.
pub const CLOCK_STEP_LIMIT: Duration = Duration::from_secs(3 * 3600);

/// Every tick at or before `at` has its verdict.
///
/// Before a step publishes anything it announces its end in `next`. Whoever finds an announced step
/// repeats exactly that one first: then each tick gets the same verdict as in the first try, however
/// far that one came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// Every tick at or before this has its verdict.
    pub at: DateTime<Utc>,
    /// The end of a step that was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<DateTime<Utc>>,
    /// The beat that wrote this.
    pub beat: String,
}

/// What a look at the clock means for the watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Plan up to now.
    Plan,
    /// The clock stepped back a little: wait until it is past the watermark again.
    Wait,
    /// The clock stepped back so far that waiting would stop the schedule: set the watermark to now.
    Reset,
}

/// Decides how to go on from watermark `at` when the clock shows `now`.
pub fn next_move(at: DateTime<Utc>, now: DateTime<Utc>) -> Move {
    match (at - now).to_std() {
        Ok(ahead) if ahead > CLOCK_STEP_LIMIT => Move::Reset,
        Ok(ahead) if ahead > Duration::ZERO => Move::Wait,
        Ok(_) | Err(_) => Move::Plan,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_steps_back_fires_nothing_again() {
        let at: DateTime<Utc> = "2026-11-23T10:00:00Z".parse().unwrap();
        let hours = chrono::Duration::hours;
        assert_eq!(next_move(at, at + hours(1)), Move::Plan);
        assert_eq!(next_move(at, at), Move::Plan);
        assert_eq!(next_move(at, at - hours(1)), Move::Wait);
        assert_eq!(next_move(at, at - hours(3)), Move::Wait);
        assert_eq!(next_move(at, at - hours(4)), Move::Reset);
    }
}
