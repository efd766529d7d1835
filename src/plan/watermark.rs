//! The one instant that beat keeps, and how it may move.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A clock that stepped back by more than this is believed: the watermark follows it.
pub const CLOCK_STEP_LIMIT: Duration = Duration::from_secs(3 * 3600);
/// Smaller steps back are corrections, and differences between machines: nobody need know of them.
pub const CLOCK_SLACK: Duration = Duration::from_secs(5);

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
    /// Where it stood before it was set back, until it is past that again: ticks up to here may have become runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_back_from: Option<DateTime<Utc>>,
}

impl Watermark {
    /// The same when `beat` begins a step to `to`.
    #[must_use]
    pub fn announced(&self, to: DateTime<Utc>, beat: &str) -> Self {
        Self {
            next: Some(to),
            beat: beat.to_owned(),
            ..self.clone()
        }
    }

    /// The one that follows when `beat` has decided on all up to `at`, or sets it back to that.
    #[must_use]
    pub fn committed(&self, at: DateTime<Utc>, beat: &str) -> Self {
        Self {
            at,
            next: None,
            beat: beat.to_owned(),
            set_back_from: self
                .set_back_from
                .max(Some(self.at))
                .filter(|from| *from > at),
        }
    }
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

/// Whether a beat that stands by keeps its own `kept` watermark though the shared one is another: when that was set back,
/// as by a backup.
///
/// A leader whose clock stepped back by hours sets it back, too ([`Move::Reset`]); it shows in that the kept one lies
/// hours ahead of this beat's own clock. Half of [`CLOCK_STEP_LIMIT`] is left for the time since then.
pub fn outlives(kept: DateTime<Utc>, shared: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    let ahead = (kept - now).to_std().unwrap_or_default();
    shared < kept && ahead <= CLOCK_STEP_LIMIT / 2
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

    #[test]
    fn where_it_was_set_back_from_is_known_until_it_is_past_that() {
        let at = |hour: i64| DateTime::from_timestamp(1_795_392_000 + hour * 3600, 0).unwrap();
        let ahead = Watermark {
            at: at(8),
            next: None,
            beat: "ahead".to_owned(),
            set_back_from: None,
        };
        let back = ahead.committed(at(0), "right");
        assert_eq!((back.at, back.set_back_from), (at(0), Some(at(8))));
        let further = back.announced(at(5), "right").committed(at(5), "right");
        assert_eq!((further.at, further.set_back_from), (at(5), Some(at(8))));
        // Once more, by less.
        let again = further.committed(at(1), "right");
        assert_eq!(again.set_back_from, Some(at(8)));
        let over = again.announced(at(8), "right").committed(at(8), "right");
        assert_eq!(over.set_back_from, None);
        assert_eq!(over.committed(at(9), "right").set_back_from, None);
    }

    #[test]
    fn a_kept_watermark_outlives_a_backup_but_no_clock_that_was_set_back() {
        let kept: DateTime<Utc> = "2026-11-23T10:00:00Z".parse().unwrap();
        for (shared, now, expected) in [
            (0, 1, false),
            (1, 1, false),
            (-1, 1, true),
            (-86_400, 600, true),
            (-5, -5, true),
            (-3 * 3600 - 1, -3 * 3600 - 1, false),
            (-3 * 3600 - 1, -2 * 3600, false),
        ] {
            let at = |seconds| kept + chrono::Duration::seconds(seconds);
            assert_eq!(
                outlives(kept, at(shared), at(now)),
                expected,
                "{shared} {now}"
            );
        }
    }
}
