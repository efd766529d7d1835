//! What was noted of webhooks by a clock that was ahead, brought back to the time that counts: they would not be told
//! of anything until then.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Briefing, Told};
use crate::{
    plan::{JobState, Verdict},
    run::latest,
};

/// What happened shortly before it is noticed that a clock was set right is told, at worst once more.
const MARGIN: TimeDelta = TimeDelta::minutes(1);

impl Briefing {
    /// The same as it is to be understood at `now`; `None`: it says nothing of a time to come.
    pub fn brought_back(&self, now: DateTime<Utc>) -> Option<Self> {
        (self.since > latest(now)).then(|| Self {
            since: now - MARGIN,
            ..self.clone()
        })
    }
}

impl Told {
    /// The same as it is to be understood at `now`, when this is the job's `state`; `None`: nothing is to be changed.
    ///
    /// Which run and which pause was told is known by its time, right or not: that stays. So does up to where missed
    /// ticks were told, as long as there is a note of them.
    pub fn brought_back(&self, state: Option<&JobState>, now: DateTime<Utc>) -> Option<Self> {
        let is_ahead = |at: &DateTime<Utc>| *at > latest(now);
        let bounded = |at: Option<DateTime<Utc>>| match at.filter(is_ahead) {
            Some(_) => Some(now),
            None => at,
        };
        let notes = state.into_iter().flat_map(|state| &state.ledger.notes);
        let missed = notes.filter(|note| note.verdict == Verdict::Missed);
        let noted = missed.filter_map(|note| note.down_to).max();
        let missed_until = match self.missed_until.filter(is_ahead) {
            Some(until) if noted.is_none_or(|noted| noted < until) => Some(now - MARGIN),
            _ => self.missed_until,
        };
        let back = Self {
            missed_until,
            failing_since: bounded(self.failing_since),
            overdue_since: bounded(self.overdue_since),
            failure_told_at: bounded(self.failure_told_at),
            overdue_told_at: bounded(self.overdue_told_at),
            ..self.clone()
        };
        (back != *self).then_some(back)
    }
}
