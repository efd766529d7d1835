//! What an edit of a trigger leaves as it is: the ticks that it has before and after.

use chrono::{DateTime, Duration, Utc};

use crate::job::Job;

/// So many of the ticks in common are carried over, the newest ones.
const MOST_CARRIED: usize = 100;
/// So many instants of the two triggers are looked at.
const LOOKED_AT: usize = 20_000;

/// The ticks in `(after, until]` that a job has by both of its definitions, oldest first: the newest of them, as far
/// as they are found without a long walk.
///
/// An interval that counts from a run has none: where its grid starts is not in its definition.
pub(super) fn ticks_in_common(
    (before, now): (&Job, &Job),
    (after, until): (DateTime<Utc>, DateTime<Utc>),
) -> Vec<DateTime<Utc>> {
    let mut found = Vec::new();
    if !(is_fixed(before) && is_fixed(now)) {
        return found;
    }
    let (mut reach, mut left) = (Duration::seconds(1), LOOKED_AT);
    // Looks back over ever longer stretches: the newest ticks are those that count.
    loop {
        let from = until.checked_sub_signed(reach).unwrap_or(after).max(after);
        match in_common((before, now), (from, until), &mut left) {
            Some(ticks) => found = ticks,
            None => return found,
        }
        if from <= after || found.len() >= MOST_CARRIED {
            found.drain(..found.len().saturating_sub(MOST_CARRIED));
            return found;
        }
        reach = reach * 4;
    }
}

/// Whether a job has this tick by its definition alone.
pub(super) fn has_tick(job: &Job, tick: DateTime<Utc>) -> bool {
    let before = tick.checked_sub_signed(Duration::nanoseconds(1));
    is_fixed(job) && before.and_then(|before| job.next_after(before)) == Some(tick)
}

fn is_fixed(job: &Job) -> bool {
    job.enabled && job.trigger.anchor().is_epoch()
}

/// All of them; `None`: there was too much to be looked at.
fn in_common(
    (one, other): (&Job, &Job),
    (after, until): (DateTime<Utc>, DateTime<Utc>),
    left: &mut usize,
) -> Option<Vec<DateTime<Utc>>> {
    let mut found = Vec::new();
    let mut at = after;
    while let (Some(a), Some(b)) = (one.next_after(at), other.next_after(at)) {
        let later = a.max(b);
        if later > until {
            break;
        }
        *left = left.checked_sub(1)?;
        at = match a == b {
            true => {
                found.push(a);
                a
            }
            // The earlier trigger may have that one, too.
            false => later.checked_sub_signed(Duration::nanoseconds(1))?,
        };
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        job::{Anchor, Execute, Policy, RunSpec, Trigger, interval::Interval},
        plan::{JobState, Pause, Scheduled, Verdict, decide},
    };

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_401_000 + second, 0).unwrap()
    }

    fn every(seconds: u64, offset: u64) -> Job {
        Job {
            name: "crawl".parse().unwrap(),
            description: None,
            tags: Vec::new(),
            enabled: true,
            trigger: Trigger::Every(Interval::new(seconds, offset).unwrap()),
            timezone: chrono_tz::UTC,
            queue: "default".parse().unwrap(),
            policy: Policy::default(),
            unique: None,
            spec: RunSpec::new(Execute::Shell("true".to_owned())),
        }
    }

    #[test]
    fn they_are_those_that_a_walk_over_all_instants_finds() {
        let of = |job: &Job, after, until| -> Vec<_> {
            let next = std::iter::successors(job.next_after(after), |tick| job.next_after(*tick));
            next.take_while(|tick| *tick <= until).collect()
        };
        for (one, other, reach) in [
            ((60, 0), (90, 0), 7_000),
            ((60, 30), (90, 0), 7_000),
            ((7, 3), (11, 5), 5_000),
            ((60, 0), (1, 0), 5_900),
            ((2, 0), (2, 1), 900),
            ((60, 0), (60, 0), 0),
        ] {
            let (one, other) = (every(one.0, one.1), every(other.0, other.1));
            let (after, until) = (at(0), at(reach));
            let others = of(&other, after, until);
            let mut expected = of(&one, after, until);
            expected.retain(|tick| others.contains(tick));
            let found = ticks_in_common((&one, &other), (after, until));
            assert_eq!(found, expected, "{:?} {:?}", one.trigger, other.trigger);
            let found = ticks_in_common((&other, &one), (after, until));
            assert_eq!(found, expected, "the other way round");
        }
    }

    #[test]
    fn of_many_the_newest_are_found_and_no_walk_is_endless() {
        let year = 366 * 86_400;
        let found = ticks_in_common((&every(1, 0), &every(2, 0)), (at(0), at(year)));
        assert_eq!((found.len(), found.last()), (MOST_CARRIED, Some(&at(year))));
        let none = ticks_in_common((&every(2, 0), &every(2, 1)), (at(0), at(year)));
        assert!(none.is_empty());
    }

    #[test]
    fn a_job_that_is_disabled_or_counts_from_its_runs_has_none() {
        let (job, mut other) = (every(60, 0), every(60, 0));
        let none = |one, other| assert!(ticks_in_common((one, other), (at(0), at(600))).is_empty());
        let interval = Interval::new(60, 0).unwrap();
        let mut anchored = every(60, 0);
        anchored.trigger = Trigger::Every(interval.with_anchor(Anchor::LastSuccess));
        none(&job, &anchored);
        none(&anchored, &job);
        other.enabled = false;
        none(&job, &other);
        none(&other, &job);
    }

    /// What is due of `job` in `(watermark, now]`.
    fn due(state: &JobState, job: &Job, watermark: i64, now: i64) -> Vec<DateTime<Utc>> {
        let scheduled = Scheduled::new(Arc::new(job.clone()), state);
        let due: Vec<_> = scheduled.between(at(watermark), at(now)).collect();
        let counted = scheduled.count_between(at(watermark), at(now));
        assert_eq!(counted, due.len() as u64);
        due
    }

    #[test]
    fn an_edit_takes_no_tick_away_that_both_triggers_have_and_adds_none() {
        let (before, edited) = (every(60, 0), every(90, 0));
        let state = JobState::first_seen(&before, at(0), at(0));
        let next = state.redefined((Some(&before), &edited), at(420), at(100));
        let next = next.unwrap();
        assert_eq!(due(&next, &edited, 100, 420), [at(180), at(360)]);
        assert_eq!(due(&next, &edited, 180, 450), [at(360), at(450)]);
        let decided = next.redefined((Some(&edited), &edited), at(421), at(420));
        assert_eq!(decided, None, "nothing else was edited");
        // Once more, before anybody has decided on more than the tick at 180.
        for (third, ticks) in [
            (&before, vec![360]),
            (&every(120, 0), vec![360]),
            (&every(50, 0), vec![]),
        ] {
            let again = next.redefined((Some(&edited), third), at(430), at(180));
            let expected: Vec<_> = ticks.into_iter().map(at).collect();
            assert_eq!(due(&again.unwrap(), third, 180, 430), expected);
        }
        let mut disabled = edited.clone();
        disabled.enabled = false;
        let off = next
            .redefined((Some(&edited), &disabled), at(430), at(180))
            .unwrap();
        assert!(off.carried.is_empty(), "somebody wants none");
        for unknown in [None, Some(&every(30, 0))] {
            let next = state.redefined((unknown, &edited), at(420), at(100));
            assert!(due(&next.unwrap(), &edited, 100, 420).is_empty());
        }
    }

    #[test]
    fn who_comes_back_goes_on_as_before() {
        let job = every(60, 0);
        let paused = Pause {
            since: at(10),
            until: None,
            reason: None,
            catch_up: false,
        };
        let state = JobState {
            paused: Some(paused),
            first_run_at: Some(at(1)),
            ..JobState::first_seen(&job, at(0), at(0))
        };
        let gone = state.gone(at(100)).unwrap();
        assert_eq!(gone.gone(at(200)), None, "it is gone already");
        let back = |gone: &JobState, watermark| {
            let back = gone.redefined((None, &job), at(watermark), at(watermark));
            back.unwrap()
        };
        let paused = back(&gone, 160);
        assert!(paused.gap_at(at(120)).is_some(), "nobody decides on that");
        let gaps = Vec::new();
        assert_eq!(JobState { gaps, ..paused }, state);
        // Not paused: nobody has decided on its ticks meanwhile.
        let gone = JobState {
            paused: None,
            ..gone
        };
        let soon = back(&gone, 700);
        let scheduled = Scheduled::new(Arc::new(job.clone()), &soon);
        let decision = decide(&scheduled, at(700), at(701));
        assert_eq!(decision.fire, [at(660)]);
        assert_eq!(decision.count(Verdict::Coalesced, None), 9);
        // It went once more before anybody decided.
        let again = back(&gone, 400).gone(at(400)).unwrap();
        let again = back(&again, 700);
        let scheduled = Scheduled::new(Arc::new(job.clone()), &again);
        assert_eq!(decide(&scheduled, at(700), at(701)), decision);
        let late = back(&gone, 701);
        assert_eq!((late.to_make_up, late.counts_from), (None, at(701)));
        assert_eq!(late.first_run_at, Some(at(1)), "it had that");
        let week = 7 * 86_400;
        assert!(!gone.is_gone_for_good(at(100 + week)));
        assert!(gone.is_gone_for_good(at(101 + week)));
    }
}
