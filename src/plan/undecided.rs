//! The ticks on which nobody decided, and never will: bounded, as intervals.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{JobState, Skipper};

/// How many intervals are kept of a job.
const KEPT: usize = 20;

/// Why nobody decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undecided {
    /// The job was not in the schedules.
    Removed,
    /// What was known of the job was lost with the broker's data, and it was paused or removed then.
    Lost,
}

/// The ticks in `(from, until]` of a job have no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Decided on up to here.
    pub from: DateTime<Utc>,
    /// And again after this.
    pub until: DateTime<Utc>,
    /// Why.
    pub why: Undecided,
}

impl JobState {
    /// The interval without verdicts in which `tick` lies.
    pub fn gap_at(&self, tick: DateTime<Utc>) -> Option<&Gap> {
        let mut gaps = self.gaps.iter().rev();
        gaps.find(|gap| gap.from < tick && tick <= gap.until)
    }

    /// Nobody decided on the ticks in `(from, until]`.
    pub(super) fn leave_out(
        &mut self,
        (from, until): (DateTime<Utc>, DateTime<Utc>),
        why: Undecided,
    ) {
        if from >= until {
            return;
        }
        self.gaps.push(Gap { from, until, why });
        let surplus = self.gaps.len().saturating_sub(KEPT);
        self.gaps.drain(..surplus);
    }

    /// What was to be made up for after an absence is not.
    pub(super) fn give_up_making_up(&mut self) {
        let absence = self.to_make_up.take();
        let absence = absence.filter(|made_up| made_up.skipped_by == Skipper::Absence);
        if let Some(absence) = absence {
            self.leave_out((absence.from, absence.until), Undecided::Removed);
        }
    }

    /// Forgets what lies after `to`: it is decided on anew.
    pub(super) fn close_gaps_after(&mut self, to: DateTime<Utc>) {
        self.gaps.retain(|gap| gap.from < to);
        for gap in &mut self.gaps {
            gap.until = gap.until.min(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Execute, Job, Policy, RunSpec, Trigger, interval::Interval};

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_401_000 + second, 0).unwrap()
    }

    fn job(seconds: u64) -> Job {
        Job {
            name: "crawl".parse().unwrap(),
            description: None,
            tags: Vec::new(),
            enabled: true,
            trigger: Trigger::Every(Interval::new(seconds, 0).unwrap()),
            timezone: chrono_tz::UTC,
            queue: "a".parse().unwrap(),
            policy: Policy::default(),
            unique: None,
            spec: RunSpec::new(Execute::Shell("true".to_owned())),
        }
    }

    /// Gone at `gone`, and back at `back` as `edited`.
    fn back(state: &JobState, edited: &Job, (gone, back): (i64, i64)) -> JobState {
        let gone = state.gone(at(gone)).unwrap();
        gone.redefined((None, edited), at(back), at(back)).unwrap()
    }

    #[test]
    fn ticks_of_an_absence_that_are_not_made_up_for_have_no_verdict() {
        let first = JobState::first_seen(&job(60), at(0), at(0));
        let soon = back(&first, &job(60), (100, 700));
        assert_eq!(soon.gap_at(at(660)), None, "it is made up for");
        let late = back(&first, &job(60), (100, 701));
        let gap = Gap {
            from: at(100),
            until: at(701),
            why: Undecided::Removed,
        };
        assert_eq!(late.gap_at(at(660)), Some(&gap));
        assert_eq!((late.gap_at(at(100)), late.gap_at(at(702))), (None, None));
        let edited = back(&first, &job(30), (100, 200));
        assert!(edited.gap_at(at(200)).is_some());
        let again = back(&soon, &job(60), (710, 2_000));
        assert!(again.gap_at(at(660)).is_some(), "it never was made up for");
        assert!(again.gap_at(at(720)).is_some());
        let mut set_back = late;
        set_back.close_gaps_after(at(300));
        assert!(set_back.gap_at(at(300)).is_some() && set_back.gap_at(at(301)).is_none());
    }

    #[test]
    fn gaps_are_bounded() {
        let mut state = JobState::first_seen(&job(60), at(0), at(0));
        for second in 0..100 {
            state.leave_out((at(second), at(second + 1)), Undecided::Removed);
        }
        assert_eq!((state.gaps.len(), state.gaps[0].from), (KEPT, at(80)));
    }
}
