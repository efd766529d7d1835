use super::*;
use crate::job::{Execute, Policy, RunSpec, Trigger};

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_401_000 + second, 0).unwrap()
}

fn job(queue: &str) -> Job {
    Job {
        name: "crawl".parse().unwrap(),
        description: None,
        tags: Vec::new(),
        enabled: true,
        trigger: Trigger::OnDemand,
        timezone: chrono_tz::UTC,
        queue: queue.parse().unwrap(),
        policy: Policy::default(),
        unique: None,
        spec: RunSpec::new(Execute::Shell("true".to_owned())),
    }
}

#[test]
fn a_job_is_first_seen_at_any_time() {
    let mut job = job("a");
    job.policy.first_run = FirstRun::Now;
    let end = DateTime::<Utc>::MAX_UTC;
    assert!(
        JobState::first_seen(&job, at(0), end)
            .first_run_at
            .is_some()
    );
}

#[test]
fn a_run_of_a_time_to_come_anchors_nothing() {
    const AGE: i64 = 100 * 365 * 86_400;
    let mut job = job("a");
    let every_hour = crate::job::interval::Interval::new(3600, 0).unwrap();
    job.trigger = Trigger::Every(every_hour.with_anchor(Anchor::LastSuccess));
    let ended = |second| Past {
        last_success: Some((at(second), at(second))),
        ..Past::default()
    };
    let heard = |state: &JobState, second, now| {
        let past = ended(second);
        let next = state.heard(&job, (None, Some(&past)), at(0), at(now));
        next.unwrap_or_else(|| state.clone()).anchored_at
    };
    let mut state = JobState::first_seen(&job, at(0), at(0));
    assert_eq!(heard(&state, AGE, 10), None);
    state.anchored_at = Some(at(5));
    assert_eq!(heard(&state, AGE, 10), Some(at(5)));
    assert_eq!(
        heard(&state, 12, 10),
        Some(at(12)),
        "clocks differ a little"
    );
    state.anchored_at = Some(at(AGE));
    assert_eq!(heard(&state, AGE, 10), None, "it counts no more");
    assert_eq!(heard(&state, 9, 10), Some(at(9)));
}

#[test]
fn a_clock_that_was_set_back_changes_no_anchor() {
    let mut job = job("a");
    let every_hour = crate::job::interval::Interval::new(3600, 0).unwrap();
    job.trigger = Trigger::Every(every_hour.with_anchor(Anchor::LastSuccess));
    let mut state = JobState::first_seen(&job, at(0), at(0));
    state.anchored_at = Some(at(3600));
    assert_eq!(state.heard(&job, (None, None), at(3600), at(10)), None);
}

#[test]
fn a_job_that_moves_remembers_the_queues_that_it_left() {
    let mut state = JobState::first_seen(&job("a"), at(0), at(0));
    assert_eq!(state.redefined((None, &job("a")), at(1), at(1)), None);
    for queue in ["b", "c", "a", "d", "e", "f"] {
        state = state.redefined((None, &job(queue)), at(1), at(1)).unwrap();
    }
    let left: Vec<_> = state.left_queues.iter().map(QueueName::as_str).collect();
    assert_eq!(left, ["e", "d", "a", "c"]);
    assert_eq!(state.counts_from, at(0), "the trigger is the same");
}
