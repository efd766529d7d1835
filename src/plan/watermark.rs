//! The one instant that beat keeps, and how it may move.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A clock that stepped back by more than this is believed: the watermark follows it.
pub const CLOCK_STEP_LIMIT: Duration = Duration::from_secs(3 * 3600);
/// Smaller steps back are corrections, and differences between machines: nobody need know of them.
const CLOCK_SLACK: Duration = Duration::from_secs(5);

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
    /// The same, but the watermark is further ahead, by this: nothing is fired for so long, which has to be told.
    Behind(Duration),
    /// The clock stepped back so far that waiting would stop the schedule: set the watermark to now.
    Reset,
}

/// Decides how to go on from watermark `at` when the clock shows `now`.
pub fn next_move(at: DateTime<Utc>, now: DateTime<Utc>) -> Move {
    match (at - now).to_std() {
        Ok(ahead) if ahead > CLOCK_STEP_LIMIT => Move::Reset,
        Ok(ahead) if ahead > CLOCK_SLACK => Move::Behind(ahead),
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
        let behind = |seconds| Move::Behind(Duration::from_secs(seconds));
        for (shows, expected) in [
            (3600, Move::Plan),
            (0, Move::Plan),
            (-1, Move::Wait),
            (-5, Move::Wait),
            (-6, behind(6)),
            (-3 * 3600, behind(3 * 3600)),
            (-3 * 3600 - 1, Move::Reset),
        ] {
            let now = at + chrono::Duration::seconds(shows);
            assert_eq!(next_move(at, now), expected, "{shows}");
        }
    }
}
