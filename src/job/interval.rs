//! Intervals: the grid `anchor + offset + k · every` on Unix time. Days are 86,400 s.
//!
//! With the epoch as its anchor the phase depends on nothing but the definition, so a restart,
//! another machine or a standby computes the same instants. Anchored at a run, the grid is that of
//! the epoch until there is such a run, and starts anew with each one.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest interval: 366 days.
pub const MAX_SECONDS: u32 = 366 * 86_400;

/// A grid of equal steps, whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Interval {
    every: u32,
    offset: u32,
    anchor: Anchor,
}

/// From where an interval counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anchor {
    /// The start of Unix time.
    #[default]
    Epoch,
    /// The end of the job's last successful run.
    LastSuccess,
    /// The start of the last attempt of the job's last run.
    LastStart,
}

impl Anchor {
    /// Whether this is the epoch.
    pub fn is_epoch(&self) -> bool {
        *self == Self::Epoch
    }
}

#[derive(Serialize, Deserialize)]
struct Raw {
    every: u64,
    #[serde(default)]
    offset: u64,
    #[serde(default, skip_serializing_if = "Anchor::is_epoch")]
    anchor: Anchor,
}

/// Why an interval was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IntervalError {
    /// Shorter than a second or longer than 366 days.
    #[error("an interval lies between 1s and 366days")]
    Length,
    /// The offset reaches the interval.
    #[error("the offset must be shorter than the interval")]
    Offset,
}

impl Interval {
    /// A grid of `every` seconds (1 s to 366 d), shifted by `offset` seconds (less than `every`).
    pub fn new(every: u64, offset: u64) -> Result<Self, IntervalError> {
        let every = u32::try_from(every).map_err(|_| IntervalError::Length)?;
        if !(1..=MAX_SECONDS).contains(&every) {
            return Err(IntervalError::Length);
        }
        match u32::try_from(offset) {
            Ok(offset) if offset < every => Ok(Self {
                every,
                offset,
                anchor: Anchor::Epoch,
            }),
            _ => Err(IntervalError::Offset),
        }
    }

    /// The same grid, to be anchored at runs.
    #[must_use]
    pub fn with_anchor(self, anchor: Anchor) -> Self {
        Self { anchor, ..self }
    }

    /// From where it counts.
    pub fn anchor(&self) -> Anchor {
        self.anchor
    }

    /// The grid that starts at `anchored_at`, a whole second.
    #[must_use]
    pub fn anchored_at(self, anchored_at: DateTime<Utc>) -> Self {
        let offset = anchored_at.timestamp().rem_euclid(i64::from(self.every));
        Self {
            offset: u32::try_from(offset).unwrap_or(0),
            ..self
        }
    }

    /// The step of the grid.
    pub fn length(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.every.into())
    }

    /// The first grid point later than `after`.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let index = self.index_at(after).checked_add(1)?;
        let seconds = index
            .checked_mul(i64::from(self.every))?
            .checked_add(i64::from(self.offset))?;
        DateTime::from_timestamp(seconds, 0)
    }

    /// How many grid points lie in `(after, until]`.
    pub fn count_between(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> u64 {
        u64::try_from(self.index_at(until) - self.index_at(after)).unwrap_or(0)
    }

    /// The index of the last grid point at or before `at`.
    fn index_at(&self, at: DateTime<Utc>) -> i64 {
        (at.timestamp() - i64::from(self.offset)).div_euclid(i64::from(self.every))
    }
}

impl TryFrom<Raw> for Interval {
    type Error = IntervalError;

    fn try_from(raw: Raw) -> Result<Self, IntervalError> {
        Ok(Self::new(raw.every, raw.offset)?.with_anchor(raw.anchor))
    }
}

impl From<Interval> for Raw {
    fn from(interval: Interval) -> Raw {
        Raw {
            every: interval.every.into(),
            offset: interval.offset.into(),
            anchor: interval.anchor,
        }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |seconds: u32| {
            humantime::format_duration(std::time::Duration::from_secs(seconds.into())).to_string()
        };
        f.write_str(&text(self.every))?;
        if self.offset > 0 {
            write!(f, " offset {}", text(self.offset))?;
        }
        match self.anchor {
            Anchor::Epoch => Ok(()),
            Anchor::LastSuccess => f.write_str(" after the last success"),
            Anchor::LastStart => f.write_str(" after the last start"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn the_grid_is_aligned_to_the_epoch() {
        let twenty_hours = Interval::new(20 * 3600, 0).unwrap();
        let next = twenty_hours.next_after(at("1970-01-01T00:00:00Z")).unwrap();
        assert_eq!(next, at("1970-01-01T20:00:00Z"));
        let shifted = Interval::new(600, 120).unwrap();
        assert_eq!(
            shifted.next_after(at("2026-11-23T10:02:00Z")),
            Some(at("2026-11-23T10:12:00Z"))
        );
        assert_eq!(
            shifted.next_after(at("2026-11-23T10:01:59.999Z")),
            Some(at("2026-11-23T10:02:00Z"))
        );
    }

    #[test]
    fn an_anchored_grid_starts_at_its_anchor() {
        let cookie = Interval::new(20 * 3600, 0).unwrap();
        let cookie = cookie.with_anchor(Anchor::LastSuccess);
        let success = at("2026-11-23T10:17:42Z");
        let grid = cookie.anchored_at(success);
        let first = grid.next_after(success).unwrap();
        assert_eq!(first, at("2026-11-24T06:17:42Z"));
        assert_eq!(grid.next_after(first), Some(at("2026-11-25T02:17:42Z")));
        assert_eq!(cookie.to_string(), "20h after the last success");
        let wire = serde_json::to_string(&cookie).unwrap();
        assert_eq!(serde_json::from_str::<Interval>(&wire).unwrap(), cookie);
    }

    #[test]
    fn works_before_the_epoch() {
        let minute = Interval::new(60, 0).unwrap();
        assert_eq!(
            minute.next_after(at("1969-12-31T23:58:30Z")),
            Some(at("1969-12-31T23:59:00Z"))
        );
    }

    #[test]
    fn counts_by_arithmetic_what_a_walk_would_count() {
        let interval = Interval::new(7, 3).unwrap();
        let (from, until) = (at("2026-01-01T00:00:01Z"), at("2026-01-01T01:00:00Z"));
        let walked = std::iter::successors(interval.next_after(from), |&t| interval.next_after(t))
            .take_while(|&t| t <= until)
            .count();
        assert_eq!(interval.count_between(from, until), walked as u64);
        assert_eq!(interval.count_between(until, from), 0);
    }

    #[test]
    fn refuses_what_has_no_grid() {
        assert_eq!(Interval::new(0, 0), Err(IntervalError::Length));
        assert_eq!(Interval::new(367 * 86_400, 0), Err(IntervalError::Length));
        assert_eq!(Interval::new(60, 60), Err(IntervalError::Offset));
    }
}
