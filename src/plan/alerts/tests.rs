use super::*;
use crate::{
    job::{Anchor, Execute, Policy, RunSpec, Trigger, interval::Interval},
    plan::VerdictNote,
    run::{LastSuccess, Past},
};

fn at(minute: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_401_000 + 60 * minute, 0).unwrap()
}

fn job() -> Job {
    Job {
        name: "crawl".parse().unwrap(),
        description: None,
        tags: Vec::new(),
        enabled: true,
        trigger: Trigger::OnDemand,
        timezone: chrono_tz::UTC,
        queue: "high".parse().unwrap(),
        policy: Policy {
            alert_if_no_success_for: Some(Seconds::from_secs(3600)),
            ..Policy::default()
        },
        unique: None,
        spec: RunSpec::new(Execute::Shell("true".to_owned())),
    }
}

/// A webhook, and a job whose standing changes.
struct World {
    job: Job,
    last: Option<LastRun>,
    state: JobState,
    pause: Option<Pause>,
    told: Told,
}

impl World {
    fn new() -> Self {
        let job = job();
        Self {
            state: JobState::first_seen(&job, at(0), at(0)),
            job,
            last: None,
            pause: None,
            told: Told::default(),
        }
    }

    fn ends(&mut self, minute: i64, state: RunState) {
        let run_id = RunId::for_tick(self.job.name.clone(), at(minute));
        let before = self.last.take().and_then(|last| last.last_success);
        let success = (state == RunState::Succeeded).then(|| LastSuccess {
            run_id: run_id.clone(),
            started_at: at(minute),
            finished_at: at(minute),
        });
        self.last = Some(LastRun {
            run_id,
            state,
            scheduled_for: at(minute),
            started_at: Some(at(minute)),
            finished_at: Some(at(minute)),
            exit: Some("exit 1".to_owned()),
            last_success: success.or(before),
        });
    }

    /// Everything that is told now, with its time in minutes.
    fn told(&mut self, minute: i64) -> Vec<(Event, i64)> {
        let mut events = Vec::new();
        for _ in 0..10 {
            let standing = Standing {
                job: &self.job,
                last: self.last.as_ref(),
                state: Some(&self.state),
                pause: self.pause.as_ref(),
            };
            let repeat = Seconds::from_secs(600);
            let Some((alert, next)) = standing.news(&self.told, at(0), repeat, at(minute)) else {
                return events;
            };
            assert_ne!(next, self.told, "it would go on for ever");
            self.told = next;
            events.extend(alert.map(|alert| (alert.event, (alert.at - at(0)).num_minutes())));
        }
        panic!("it goes on for ever: {events:?}");
    }
}

#[test]
fn a_failure_is_told_at_once_and_again_only_after_a_while_until_it_is_over() {
    let mut world = World::new();
    world.ends(1, RunState::Succeeded);
    assert_eq!(world.told(1), []);
    world.ends(2, RunState::Failed);
    assert_eq!(world.told(2), [(Event::Failed, 2)]);
    assert_eq!(world.told(3), []);
    world.ends(4, RunState::Failed);
    assert_eq!(world.told(4), [], "told two minutes ago");
    world.ends(12, RunState::Expired);
    assert_eq!(world.told(12), [(Event::Failed, 12)]);
    world.ends(13, RunState::Cancelled);
    assert_eq!(world.told(13), []);
    world.ends(14, RunState::Succeeded);
    assert_eq!(world.told(14), [(Event::Recovered, 14)]);
    world.ends(15, RunState::Succeeded);
    assert_eq!(world.told(15), []);
    world.ends(16, RunState::Failed);
    assert_eq!(world.told(16), [(Event::Failed, 16)], "it had recovered");
}

/// The ends of the calendar, which whoever may write a value may write into it.
#[test]
fn a_success_of_any_time_is_judged() {
    let mut world = World::new();
    for edge in [DateTime::<Utc>::MAX_UTC, DateTime::<Utc>::MIN_UTC] {
        world.ends(1, RunState::Succeeded);
        let last = world.last.as_mut().unwrap();
        last.last_success.as_mut().unwrap().finished_at = edge;
        world.told(2);
    }
}

/// A worker whose clock was wrong once, or somebody who wants it quiet.
#[test]
fn an_end_of_a_time_to_come_silences_nothing() {
    const YEARS: i64 = 70 * 366 * 24 * 60;
    let mut world = World::new();
    world.ends(YEARS, RunState::Succeeded);
    assert_eq!(world.told(59), []);
    assert_eq!(world.told(60), [(Event::Overdue, 60)]);
    world.ends(61, RunState::Succeeded);
    assert_eq!(world.told(61), [(Event::Recovered, 61)]);
    world.ends(YEARS, RunState::Failed);
    assert_eq!(world.told(62), [(Event::Failed, YEARS)]);
    assert_eq!(world.told(63), [], "told once");
    world.ends(64, RunState::Succeeded);
    assert_eq!(world.told(64), [(Event::Recovered, 64)]);
    world.ends(65, RunState::Failed);
    assert_eq!(world.told(65), [(Event::Failed, 65)]);
}

#[test]
fn what_happened_before_the_webhook_was_there_is_not_told() {
    let mut world = World::new();
    world.ends(0, RunState::Failed);
    assert_eq!(world.told(1), []);
    world.ends(2, RunState::Succeeded);
    assert_eq!(world.told(2), [], "nobody was told that it failed");
}

#[test]
fn a_dead_run_is_told_by_its_letter_but_recovers_like_others() {
    let mut world = World::new();
    world.ends(1, RunState::Dead);
    assert_eq!(world.told(1), []);
    world.ends(2, RunState::Succeeded);
    assert_eq!(world.told(2), [(Event::Recovered, 2)]);
}

#[test]
fn missed_ticks_are_told_once_however_many() {
    let mut world = World::new();
    let miss = |first: i64, noticed: i64| VerdictNote {
        down_to: Some(at(noticed)),
        ..VerdictNote::on(Verdict::Missed, None, at(first))
    };
    world.state.ledger.notes = vec![miss(-5, 0)];
    assert_eq!(world.told(1), [], "noticed before");
    world.state.ledger.notes.push(miss(1, 5));
    world.state.ledger.notes.push(miss(3, 5));
    assert_eq!(world.told(5), [(Event::Missed, 5)]);
    assert_eq!(world.told(6), []);
    world.state.ledger.notes.push(miss(7, 8));
    assert_eq!(world.told(9), [(Event::Missed, 8)]);
}

#[test]
fn a_pause_is_told_once_and_excuses_a_missing_success() {
    let mut world = World::new();
    world.ends(1, RunState::Succeeded);
    world.pause = Some(Pause {
        since: at(2),
        until: None,
        reason: Some("the site is down".to_owned()),
        catch_up: false,
    });
    assert_eq!(world.told(3), [(Event::Paused, 2)]);
    assert_eq!(world.told(300), []);
    world.pause = world.pause.map(|pause| Pause {
        until: Some(at(300)),
        ..pause
    });
    assert_eq!(world.told(359), [], "counted from the end of the pause");
    assert_eq!(world.told(360), [(Event::Overdue, 360)]);
}

#[test]
fn an_overdue_success_is_told_again_and_again_until_it_comes() {
    let mut world = World::new();
    assert_eq!(world.told(59), []);
    assert_eq!(world.told(60), [(Event::Overdue, 60)]);
    assert_eq!(world.told(65), []);
    assert_eq!(world.told(70), [(Event::Overdue, 70)]);
    world.ends(71, RunState::Failed);
    assert_eq!(world.told(71), [(Event::Failed, 71)]);
    world.ends(72, RunState::Succeeded);
    assert_eq!(world.told(72), [(Event::Recovered, 72)]);
    assert_eq!(world.told(131), []);
    assert_eq!(world.told(132), [(Event::Overdue, 132)]);
    world.job.enabled = false;
    assert_eq!(world.told(200), []);
}

#[test]
fn a_job_that_counts_from_its_starts_is_overdue_while_it_starts_and_fails() {
    let mut world = World::new();
    let interval = Interval::new(600, 0).unwrap();
    world.job.trigger = Trigger::Every(interval.with_anchor(Anchor::LastStart));
    world.state = JobState::first_seen(&world.job, at(0), at(0));
    for minute in (10..60).step_by(10) {
        world.ends(minute, RunState::Failed);
        let past = world.last.as_ref().map(Past::from);
        let heard = (None, past.as_ref());
        let next = world.state.heard(&world.job, heard, at(minute), at(minute));
        world.state = next.expect("it is anchored anew");
        assert!(
            world
                .told(minute)
                .iter()
                .all(|told| told.0 == Event::Failed)
        );
    }
    assert_eq!(world.told(60), [(Event::Overdue, 60)]);
    // As it was stored before this was known apart.
    world.state.defined_at = None;
    assert_eq!(world.state.defined_at(), world.state.counts_from);
}

/// All was told by a clock that was eight hours ahead and is set right, to minute 1.
#[test]
fn what_a_clock_that_was_ahead_told_silences_nothing() {
    const AHEAD: i64 = 480;
    let mut world = World::new();
    let miss = |first: i64, noticed: i64| VerdictNote {
        down_to: Some(at(noticed)),
        ..VerdictNote::on(Verdict::Missed, None, at(first))
    };
    let pause = |since: i64| {
        Some(Pause {
            since: at(since),
            until: None,
            reason: None,
            catch_up: false,
        })
    };
    world.ends(AHEAD, RunState::Failed);
    world.state.ledger.notes = vec![miss(AHEAD - 60, AHEAD)];
    world.pause = pause(AHEAD - 1);
    let events = [
        (Event::Failed, AHEAD),
        (Event::Missed, AHEAD),
        (Event::Paused, AHEAD - 1),
    ];
    assert_eq!(world.told(AHEAD), events);
    let back = |world: &World, now| world.told.brought_back(Some(&world.state), at(now));
    assert_eq!(back(&world, AHEAD), None);
    assert_eq!(back(&world, AHEAD - 1), None, "clocks differ a little");
    // As long as the note is there it would be told again, and again.
    world.told = back(&world, 1).unwrap();
    assert_eq!(world.told.missed_until, Some(at(AHEAD)));
    assert_eq!(world.told.failure_told_at, Some(at(1)));
    assert_eq!(world.told(1), []);
    world.state.ledger.notes = vec![miss(1, 1)];
    world.told = back(&world, 1).unwrap();
    assert_eq!(world.told(1), [(Event::Missed, 1)]);
    assert_eq!(back(&world, 1), None);
    world.pause = pause(2);
    assert_eq!(world.told(3), [(Event::Paused, 2)]);
    world.ends(5, RunState::Failed);
    assert_eq!(world.told(5), [], "told four minutes ago");
    world.ends(11, RunState::Failed);
    assert_eq!(world.told(11), [(Event::Failed, 11)]);
    world.state.ledger.notes.push(miss(11, 12));
    assert_eq!(world.told(12), [(Event::Missed, 12)]);
    assert_eq!(world.told(13), []);
}

#[test]
fn a_webhook_hears_of_what_happens_from_when_the_clock_was_set_right() {
    let briefed = |minute| Briefing {
        since: at(minute),
        last_letter: 7,
    };
    assert_eq!(briefed(0).brought_back(at(0)), None);
    assert_eq!(
        briefed(1).brought_back(at(0)),
        None,
        "clocks differ a little"
    );
    assert_eq!(briefed(480).brought_back(at(3)), Some(briefed(2)));
}
