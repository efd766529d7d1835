//! What is remembered of a job under a clock that was ahead, brought back to the time that counts.
//!
//! Nothing later than the watermark was decided on for good, so nothing that is remembered may lie later than both it
//! and the clock: the job would have no tick until then.

use chrono::{DateTime, Duration, Utc};

use super::{
    JobState, Ledger, MakeUp, Pause, Scheduled, Verdict, VerdictNote,
    state::{whole_second, whole_second_after},
};
use crate::run::latest;

impl JobState {
    /// Whether it says that something lies later than `limit`.
    pub fn is_ahead_of(&self, limit: DateTime<Utc>) -> bool {
        let first_run = self.first_run_at.into_iter();
        let moments = [self.first_seen, self.counts_from, self.as_of].into_iter();
        let moments = moments.chain(first_run).chain(self.anchored_at);
        let moments = moments.chain(self.carried.iter().copied());
        let moments = moments.chain(self.gone_since).chain(self.defined_at);
        let mut moments = moments.chain(self.to_make_up.map(|made_up| made_up.until));
        let mut notes = self.ledger.notes.iter();
        moments.any(|at| at > limit) || notes.any(|note| note.last > limit)
    }

    /// The state as it is when the time is `to`, and all up to `decided` was decided on by a clock that was ahead. What
    /// it says of later ticks is taken back: they are decided on anew. Of those that became runs the records tell.
    ///
    /// `scheduled` is the job, as far as it is in force: by it the ticks of a note are counted of which a part is taken
    /// back.
    #[must_use]
    pub fn brought_back(
        &self,
        scheduled: Option<&Scheduled>,
        to: DateTime<Utc>,
        decided: DateTime<Utc>,
    ) -> Self {
        let second = whole_second(to);
        let mut next = self.clone();
        next.first_seen = self.first_seen.min(to);
        next.counts_from = match self.counts_from > to {
            true => second,
            false => self.counts_from,
        };
        next.defined_at = self.defined_at.map(|at| at.min(to));
        next.as_of = self.as_of.min(to);
        // The run was, just now.
        next.anchored_at = self.anchored_at.map(|at| at.min(second));
        next.first_run_at = match self.first_run_at {
            Some(first) if first > to && first <= decided => None,
            Some(first) if first > to => Some(whole_second_after(to)),
            first => first,
        };
        let made_up = self.to_make_up.map(|made_up| MakeUp {
            until: made_up.until.min(to),
            ..made_up
        });
        next.to_make_up = made_up.filter(|made_up| made_up.from < made_up.until);
        next.carried.retain(|tick| *tick <= to);
        next.gone_since = self.gone_since.map(|at| at.min(to));
        next.paused = self.paused.clone().map(|pause| pause.begun_at(to));
        next.close_gaps_after(to);
        next.ledger.take_back_after(to, scheduled);
        next
    }
}

impl Pause {
    /// The same as it is to be understood when it is heard of at `now`: one that begins later was told by a clock that
    /// is ahead, and has begun.
    #[must_use]
    pub fn begun_at(self, now: DateTime<Utc>) -> Self {
        match self.since > latest(now) {
            true => Self { since: now, ..self },
            false => self,
        }
    }
}

impl Ledger {
    /// Takes back what is noted of the ticks after `to`.
    fn take_back_after(&mut self, to: DateTime<Utc>, scheduled: Option<&Scheduled>) {
        let notes = std::mem::take(&mut self.notes);
        for mut note in notes {
            let count = note.count;
            let kept = match (note.first > to, note.last > to) {
                (true, _) => 0,
                (false, true) => note.cut_off_after(to, scheduled),
                (false, false) => count,
            };
            let taken = count.saturating_sub(kept);
            let counter = match note.verdict {
                Verdict::Fired => None,
                Verdict::Coalesced => Some(&mut self.coalesced),
                Verdict::Missed => Some(&mut self.missed),
                Verdict::Skipped => Some(&mut self.skipped),
            };
            if let Some(counter) = counter {
                *counter = counter.saturating_sub(taken);
            }
            if kept > 0 {
                note.down_from = note.down_from.map(|at| at.min(to));
                note.down_to = note.down_to.map(|at| at.min(to));
                self.notes.push(note);
            }
        }
    }
}

impl VerdictNote {
    /// Leaves of its ticks those up to `to`, of which the first is one. Returns how many.
    fn cut_off_after(&mut self, to: DateTime<Utc>, scheduled: Option<&Scheduled>) -> u64 {
        match scheduled {
            Some(scheduled) => {
                let surplus = scheduled.job.count_between(to, self.last);
                self.count = self.count.saturating_sub(surplus).max(1);
                self.last = scheduled.last_tick(self.first, to);
            }
            None => self.last = to,
        }
        self.count
    }
}

impl Scheduled {
    /// The last tick of the grid in `[first, until]`, from whenever on it counts.
    fn last_tick(&self, first: DateTime<Utc>, until: DateTime<Utc>) -> DateTime<Utc> {
        let from = first.checked_sub_signed(Duration::nanoseconds(1));
        let before = Self {
            counts_from: from.unwrap_or(first),
            first_run_at: None,
            carried: Vec::new(),
            ..self.clone()
        };
        before.last_before(first, until)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        job::{Execute, FirstRun, Job, Policy, RunSpec, Trigger, interval::Interval},
        plan::{SkipReason, Timeline, decide},
    };

    fn at(hour: i64, second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_392_000 + hour * 3600 + second, 0).unwrap()
    }

    fn job() -> Job {
        Job {
            name: "crawl".parse().unwrap(),
            description: None,
            tags: Vec::new(),
            enabled: true,
            trigger: Trigger::Every(Interval::new(5, 0).unwrap()),
            timezone: chrono_tz::UTC,
            queue: "a".parse().unwrap(),
            policy: Policy::default(),
            unique: None,
            spec: RunSpec::new(Execute::Shell("true".to_owned())),
        }
    }

    /// As in beat: the step to `to` was carried out.
    fn stepped(job: &Job, state: &JobState, from: DateTime<Utc>, to: DateTime<Utc>) -> JobState {
        let scheduled = Scheduled::new(Arc::new(job.clone()), state);
        let step = Timeline::new(vec![scheduled], from).plan(from, to);
        let day = std::time::Duration::from_secs(86_400);
        let after = state.after(&step.jobs[0], &[], (from, to), day);
        after.unwrap_or_else(|| state.clone())
    }

    #[test]
    fn a_job_that_was_known_fires_at_once_though_its_ticks_were_decided_on() {
        let job = job();
        let known = JobState::first_seen(&job, at(0, 0), at(0, 0));
        let ahead = stepped(&job, &known, at(0, 100), at(8, 100));
        assert_eq!(
            (ahead.ledger.missed, ahead.ledger.coalesced, ahead.as_of),
            (7 * 720 - 1, 720, at(8, 100))
        );
        let now = at(0, 112);
        let scheduled = Scheduled::new(Arc::new(job.clone()), &ahead);
        let back = ahead.brought_back(Some(&scheduled), now, at(8, 100));
        // What it missed before it was set right stays missed: 105 and 110.
        let [missed] = &back.ledger.notes[..] else {
            panic!("{:?}", back.ledger)
        };
        assert_eq!((missed.first, missed.last), (at(0, 105), at(0, 110)));
        assert_eq!((missed.count, missed.down_to), (2, Some(now)));
        assert_eq!((back.ledger.missed, back.ledger.coalesced), (2, 0));
        assert_eq!(back.told_before(at(0, 115), at(0, 115)), None);
        assert!(!back.is_ahead_of(now));
        let scheduled = Scheduled::new(Arc::new(job), &back);
        assert_eq!(decide(&scheduled, now, at(0, 115)).fire, [at(0, 115)]);
        let again = back.brought_back(Some(&scheduled), now, at(8, 100));
        assert_eq!(again, back, "nothing more");
    }

    #[test]
    fn a_job_that_was_first_seen_ahead_counts_from_now() {
        let mut job = job();
        job.policy.first_run = FirstRun::Now;
        let seen = JobState::first_seen(&job, at(8, 0), at(8, 0));
        assert!(seen.is_ahead_of(at(0, 0)));
        let back = |decided| seen.brought_back(None, at(0, 3), decided);
        let (first_seen, counts_from) = (back(at(8, 0)).first_seen, back(at(8, 0)).counts_from);
        assert_eq!((first_seen, counts_from), (at(0, 3), at(0, 3)));
        assert_eq!(back(at(8, 0)).as_of, at(0, 3));
        assert_eq!(back(at(8, 0)).first_run_at, Some(at(0, 4)), "not yet");
        assert_eq!(back(at(8, 1)).first_run_at, None, "it was");
    }

    #[test]
    fn pauses_and_anchors_of_a_time_to_come_are_of_now() {
        let job = job();
        let mut ahead = JobState::first_seen(&job, at(0, 0), at(0, 0));
        ahead.anchored_at = Some(at(8, 0));
        ahead.to_make_up = Some(MakeUp {
            from: at(0, 0),
            until: at(8, 0),
            skipped_by: crate::plan::Skipper::default(),
        });
        ahead.carried = vec![at(0, 30), at(8, 30)];
        ahead.gone_since = Some(at(8, 0));
        ahead.paused = Some(Pause {
            since: at(8, 0),
            until: None,
            reason: None,
            catch_up: false,
        });
        ahead.ledger.skipped = 3;
        let paused = Some(SkipReason::Paused);
        ahead.ledger.notes = vec![VerdictNote::on(Verdict::Skipped, paused, at(8, 5))];
        let back = ahead.brought_back(None, at(1, 0), at(8, 10));
        assert_eq!(back.anchored_at, Some(at(1, 0)));
        assert_eq!(back.to_make_up.map(|made_up| made_up.until), Some(at(1, 0)));
        assert_eq!(
            (back.carried, back.gone_since),
            (vec![at(0, 30)], Some(at(1, 0)))
        );
        assert!(back.paused.is_some_and(|pause| pause.covers(at(1, 5))));
        assert_eq!((back.ledger.skipped, back.ledger.notes.len()), (2, 0));
        let made_up_for = Some(MakeUp {
            from: at(2, 0),
            until: at(8, 0),
            skipped_by: crate::plan::Skipper::default(),
        });
        ahead.to_make_up = made_up_for;
        assert_eq!(
            ahead.brought_back(None, at(1, 0), at(8, 0)).to_make_up,
            None
        );
    }
}
