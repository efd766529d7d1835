//! A job whose state was lost with the broker's data, and begun anew by a beat that knew nothing of it, while another one
//! has kept what it was.

use chrono::{DateTime, Utc};

use super::{JobState, MakeUp, Skipper, Undecided};

impl JobState {
    /// The state that `begun` would be, had the beat that began it known this one, which decided on all ticks up to
    /// `kept_at`: the ticks since then are made up for. `None`: that beat knew it, or the job is another one.
    #[must_use]
    pub fn goes_on_in(&self, begun: &Self, kept_at: DateTime<Utc>) -> Option<Self> {
        let is_lost = begun.first_seen > kept_at && self.first_seen <= kept_at;
        if !is_lost || begun.fingerprint != self.fingerprint {
            return None;
        }
        let paused = self.paused.as_ref();
        let is_paused = paused.is_some_and(|pause| pause.until.is_none_or(|until| until > kept_at));
        let is_undecided = self.gone_since.is_none() && !is_paused;
        let made_up = MakeUp {
            from: kept_at,
            until: begun.counts_from,
            skipped_by: Skipper::Absence,
        };
        let mut next = Self {
            first_seen: self.first_seen,
            counts_from: self.counts_from,
            defined_at: self.defined_at,
            // It has had that.
            first_run_at: self.first_run_at,
            anchored_at: begun.anchored_at.max(self.anchored_at),
            to_make_up: is_undecided.then_some(made_up),
            ledger: self.ledger.followed_by(&begun.ledger),
            gaps: self.gaps.clone(),
            ..begun.clone()
        };
        if !is_undecided {
            next.leave_out((kept_at, begun.counts_from), Undecided::Lost);
        }
        next.left_queues.clone_from(&self.left_queues);
        if let (Some(queue), Some(before)) = (&begun.queue, &self.queue) {
            next.queue = Some(before.clone());
            next.move_to(queue);
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        job::{Execute, FirstRun, Job, Policy, RunSpec, Trigger, interval::Interval},
        plan::{Pause, Scheduled, Verdict, VerdictNote, decide},
    };

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_401_000 + second, 0).unwrap()
    }

    fn job(seconds: u64, queue: &str) -> Job {
        Job {
            name: "crawl".parse().unwrap(),
            description: None,
            tags: Vec::new(),
            enabled: true,
            trigger: Trigger::Every(Interval::new(seconds, 0).unwrap()),
            timezone: chrono_tz::UTC,
            queue: queue.parse().unwrap(),
            policy: Policy {
                first_run: FirstRun::Now,
                ..Policy::default()
            },
            unique: None,
            spec: RunSpec::new(Execute::Shell("true".to_owned())),
        }
    }

    #[test]
    fn the_ticks_that_nobody_decided_on_are_made_up_for() {
        let mut kept = JobState::first_seen(&job(60, "old"), at(0), at(0));
        let note = |second| VerdictNote::on(Verdict::Missed, None, at(second));
        kept.ledger.add(&job(60, "old"), note(60));
        let now = job(60, "new");
        let mut begun = JobState::first_seen(&now, at(700), at(700));
        begun.ledger.add(&now, note(720));
        let next = kept.goes_on_in(&begun, at(590)).unwrap();
        assert_eq!((next.first_seen, next.first_run_at), (at(0), Some(at(1))));
        assert_eq!((next.ledger.missed, next.ledger.notes.len()), (2, 2));
        assert_eq!(next.left_queues, ["old".parse().unwrap()]);
        let decision = decide(&Scheduled::new(Arc::new(now), &next), at(730), at(731));
        assert_eq!(decision.fire, [at(660)]);
        assert_eq!(decision.count(Verdict::Coalesced, None), 1);
        assert_eq!(kept.goes_on_in(&next, at(590)), None, "only once");
    }

    #[test]
    fn what_was_known_edited_or_paused_is_not_made_up_for() {
        let kept = JobState::first_seen(&job(60, "a"), at(0), at(0));
        let begun = |seconds, at_second| {
            JobState::first_seen(&job(seconds, "a"), at(at_second), at(at_second))
        };
        assert_eq!(kept.goes_on_in(&begun(60, 590), at(590)), None);
        assert_eq!(kept.goes_on_in(&begun(61, 700), at(590)), None);
        let paused = Pause {
            since: at(10),
            until: None,
            reason: None,
            catch_up: false,
        };
        let kept = JobState {
            paused: Some(paused),
            ..kept
        };
        let next = kept.goes_on_in(&begun(60, 700), at(590)).unwrap();
        assert_eq!((next.to_make_up, next.paused), (None, None));
    }
}
