//! What became of the ticks that were not run: bounded, consecutive ticks of a kind as one note.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{MakeUp, Span, Unfired};
use crate::{job::Job, run::RunId};

/// How many notes are kept of a job.
const KEPT_NOTES: usize = 100;

/// What became of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It became a run.
    Fired,
    /// A later tick stands for it.
    Coalesced,
    /// It was not to be run: see [`SkipReason`].
    Skipped,
    /// It was too late.
    Missed,
}

/// Why a tick was skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// A run of its job was still live.
    #[default]
    Overlap,
    /// The job was paused.
    Paused,
    /// The run would have started in a blackout that the job names.
    Blackout,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fired => "fired",
            Self::Coalesced => "coalesced",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
        })
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overlap => "overlap",
            Self::Paused => "paused",
            Self::Blackout => "blackout",
        })
    }
}

/// An unusual verdict on some ticks in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictNote {
    /// What became of them.
    pub verdict: Verdict,
    /// Why, of skipped ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<SkipReason>,
    /// How many.
    pub count: u64,
    /// The first tick.
    pub first: DateTime<Utc>,
    /// The last tick.
    pub last: DateTime<Utc>,
    /// Of missed ones: beat had last been at work at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_from: Option<DateTime<Utc>>,
    /// Of missed ones: beat was at work again at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_to: Option<DateTime<Utc>>,
    /// The run that stands for them, or that was in their way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
}

impl VerdictNote {
    /// A note on one tick, without any particulars.
    pub fn on(verdict: Verdict, reason: Option<SkipReason>, tick: DateTime<Utc>) -> Self {
        let span = Span {
            count: 1,
            first: tick,
            last: tick,
        };
        Self::from(Unfired {
            verdict,
            reason,
            span,
        })
    }

    fn is_kind(&self, verdict: Verdict, reason: Option<SkipReason>) -> bool {
        self.verdict == verdict && self.reason == reason
    }

    fn is_paused(&self) -> bool {
        self.is_kind(Verdict::Skipped, Some(SkipReason::Paused))
    }
}

impl From<Unfired> for VerdictNote {
    fn from(unfired: Unfired) -> Self {
        Self {
            verdict: unfired.verdict,
            reason: unfired.reason,
            count: unfired.span.count,
            first: unfired.span.first,
            last: unfired.span.last,
            down_from: None,
            down_to: None,
            run_id: None,
        }
    }
}

/// The last unusual verdicts of a job, oldest first, and how many there have been.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// Ticks that were too late to be run.
    pub missed: u64,
    /// Ticks that found a run of their job still live, the job paused, or a blackout in force.
    pub skipped: u64,
    /// Ticks that a later one stands for.
    pub coalesced: u64,
    /// The last unusual verdicts, oldest first.
    #[serde(default)]
    pub notes: Vec<VerdictNote>,
}

impl Ledger {
    /// The note on the tick at `at`.
    pub fn on(&self, at: DateTime<Utc>) -> Option<&VerdictNote> {
        let mut notes = self.notes.iter().rev();
        notes.find(|note| note.first <= at && at <= note.last)
    }

    /// Whether no note on the tick at `at` can have been forgotten: as many ticks are noted as were counted, or an older
    /// note is kept, which would have been forgotten first.
    pub fn is_complete_at(&self, at: DateTime<Utc>) -> bool {
        let counted = self.missed.saturating_add(self.skipped);
        let counted = counted.saturating_add(self.coalesced);
        let noted = self.notes.iter().map(|note| note.count);
        let noted = noted.fold(0_u64, u64::saturating_add);
        noted >= counted || self.notes.first().is_some_and(|oldest| oldest.last < at)
    }

    /// Adds a note; one that goes on with the last one, with no tick of `job` between the two, is
    /// joined to it.
    pub(super) fn add(&mut self, job: &Job, note: VerdictNote) {
        match note.verdict {
            Verdict::Fired => {}
            Verdict::Coalesced => self.coalesced = self.coalesced.saturating_add(note.count),
            Verdict::Missed => self.missed = self.missed.saturating_add(note.count),
            Verdict::Skipped => self.skipped = self.skipped.saturating_add(note.count),
        }
        if let Some(last) = self.notes.last_mut()
            && last.is_kind(note.verdict, note.reason)
            && last.run_id == note.run_id
            && last.down_to == note.down_to
            && last.last < note.first
            && job
                .next_after(last.last)
                .is_some_and(|next| next >= note.first)
        {
            last.count = last.count.saturating_add(note.count);
            last.last = note.last;
            return;
        }
        self.notes.push(note);
        let surplus = self.notes.len().saturating_sub(KEPT_NOTES);
        self.notes.drain(..surplus);
    }

    /// This one and a `later` one that was begun without it.
    pub(super) fn followed_by(&self, later: &Self) -> Self {
        let notes = self.notes.iter().chain(&later.notes);
        let surplus = (self.notes.len() + later.notes.len()).saturating_sub(KEPT_NOTES);
        Self {
            missed: self.missed.saturating_add(later.missed),
            skipped: self.skipped.saturating_add(later.skipped),
            coalesced: self.coalesced.saturating_add(later.coalesced),
            notes: notes.skip(surplus).cloned().collect(),
        }
    }

    /// Forgets the notes on ticks that lie longer back than `kept_for`.
    pub(super) fn forget(&mut self, now: DateTime<Utc>, kept_for: Duration) {
        let is_kept = |note: &VerdictNote| {
            // One of a time to come, by a clock that was set back, is kept.
            (now - note.last).to_std().is_ok_and(|age| age < kept_for) || now < note.last
        };
        self.notes.retain(is_kept);
    }

    /// The first and the last tick after `since` that are noted as skipped by a pause.
    pub(super) fn paused_after(
        &self,
        since: DateTime<Utc>,
    ) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let notes = self.notes.iter();
        let mut paused = notes.filter(|note| note.is_paused() && note.first > since);
        let first = paused.next()?;
        Some((first.first, paused.next_back().unwrap_or(first).last))
    }

    /// Takes back what was said of ticks that a pause skipped: they are decided on anew.
    pub(super) fn take_back_paused(&mut self, made_up: MakeUp) {
        let is_taken = |note: &VerdictNote| {
            note.is_paused() && made_up.from < note.first && note.last <= made_up.until
        };
        let taken = self.notes.iter().filter(|note| is_taken(note));
        let count = taken.fold(0_u64, |count, note| count.saturating_add(note.count));
        self.skipped = self.skipped.saturating_sub(count);
        self.notes.retain(|note| !is_taken(note));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_forgotten_after_their_time_and_counters_are_not() {
        let at = |hour: i64| DateTime::UNIX_EPOCH + chrono::Duration::hours(hour);
        let mut ledger = Ledger {
            missed: 2,
            notes: vec![
                VerdictNote::on(Verdict::Missed, None, at(1)),
                VerdictNote::on(Verdict::Missed, None, at(9)),
            ],
            ..Ledger::default()
        };
        let day = Duration::from_secs(86_400);
        ledger.forget(at(24), day);
        assert_eq!(ledger.notes.len(), 2);
        ledger.forget(at(26), day);
        assert_eq!((ledger.on(at(1)), ledger.missed), (None, 2));
        assert!(ledger.on(at(9)).is_some());
        // The clock was set back.
        ledger.forget(at(2), Duration::ZERO);
        assert!(ledger.on(at(9)).is_some());
    }
}
