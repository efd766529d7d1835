//! What is to be said of a tick of which neither a run nor a note tells: never more than is known.

use chrono::{DateTime, Utc};

use super::Account;
use crate::{
    broker::Bucket,
    job::Job,
    plan::{Gap, JobState},
};

/// What can be said of a tick that is past if neither a run nor a note tells of it.
pub(super) fn without_a_trace(
    (job, state): (&Job, &JobState),
    tick: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Account {
    if let Some(&Gap { from, until, why }) = state.gap_at(tick) {
        return Account::Undecided { from, until, why };
    }
    if tick <= state.first_seen {
        let counts_from = state.first_seen;
        return Account::BeforeItCounted { counts_from };
    }
    if tick <= state.counts_from && !state.carried.contains(&tick) {
        // Before that it had another trigger, which may have had this tick; its run would be kept as long as any.
        let counts_from = state.counts_from;
        let kept_for = Bucket::Runs.max_age().unwrap_or(std::time::Duration::MAX);
        let is_kept = (now - tick).to_std().is_ok_and(|age| age < kept_for);
        return match is_kept {
            true => Account::BeforeItCounted { counts_from },
            false => Account::Unknown,
        };
    }
    match (job.enabled, state.ledger.is_complete_at(tick)) {
        (false, _) => Account::Disabled {
            since: state.counts_from,
        },
        (true, true) => Account::Forgotten,
        (true, false) => Account::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        job::{Execute, Policy, RunSpec, Trigger, interval::Interval},
        plan::{SkipReason, Undecided, Verdict, VerdictNote},
    };

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_392_000 + hour * 3600, 0).unwrap()
    }

    fn hourly() -> (Job, JobState) {
        let job = Job {
            name: "crawl".parse().unwrap(),
            description: None,
            tags: Vec::new(),
            enabled: true,
            trigger: Trigger::Every(Interval::new(3600, 0).unwrap()),
            timezone: chrono_tz::UTC,
            queue: "a".parse().unwrap(),
            policy: Policy::default(),
            unique: None,
            spec: RunSpec::new(Execute::Shell("true".to_owned())),
        };
        let state = JobState::first_seen(&job, at(10), at(10));
        (job, state)
    }

    /// Two weeks later.
    const LATER: i64 = 24 * 14;

    fn said((job, state): (&Job, &JobState), tick: i64) -> Account {
        without_a_trace((job, state), at(tick), at(LATER))
    }

    #[test]
    fn a_tick_has_fired_only_if_nothing_else_can_have_become_of_it() {
        let (job, mut state) = hourly();
        assert!(matches!(said((&job, &state), 20), Account::Forgotten));
        assert!(matches!(
            said((&job, &state), 9),
            Account::BeforeItCounted { .. }
        ));
        // One was skipped, which is not noted any more.
        state.ledger.skipped = 1;
        assert!(matches!(said((&job, &state), 20), Account::Unknown));
        // Another one, which is: whatever came after it would be.
        state.ledger.skipped = 2;
        let paused = Some(SkipReason::Paused);
        state.ledger.notes = vec![VerdictNote::on(Verdict::Skipped, paused, at(15))];
        assert!(matches!(said((&job, &state), 20), Account::Forgotten));
        assert!(matches!(said((&job, &state), 14), Account::Unknown));
    }

    #[test]
    fn a_tick_in_an_absence_or_of_a_disabled_job_has_not_fired() {
        let (mut job, state) = hourly();
        let gone = state.gone(at(20)).unwrap();
        let back = gone.redefined((None, &job), at(30), at(30)).unwrap();
        let Account::Undecided { from, until, why } = said((&job, &back), 25) else {
            panic!("{:?}", said((&job, &back), 25));
        };
        assert_eq!((from, until, why), (at(20), at(30), Undecided::Removed));
        assert!(matches!(said((&job, &back), 31), Account::Forgotten));
        job.enabled = false;
        let disabled = back.redefined((None, &job), at(40), at(40)).unwrap();
        let said = said((&job, &disabled), 41);
        assert!(
            matches!(said, Account::Disabled { since } if since == at(40)),
            "{said:?}"
        );
    }

    #[test]
    fn what_a_former_trigger_did_is_not_known_once_records_are_forgotten() {
        let (mut job, state) = hourly();
        job.trigger = Trigger::Every(Interval::new(1800, 0).unwrap());
        let edited = state.redefined((None, &job), at(40), at(40)).unwrap();
        assert!(matches!(said((&job, &edited), 20), Account::Unknown));
        let soon = without_a_trace((&job, &edited), at(20), at(41));
        assert!(matches!(soon, Account::BeforeItCounted { counts_from } if counts_from == at(40)));
    }
}
