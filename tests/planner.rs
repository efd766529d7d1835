//! The planner in virtual time: whatever the restarts and downtimes, every tick of a simulated year
//! gets exactly one verdict.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Duration, Utc};
use orchestrator::{
    job::{
        CatchUp, Execute, FirstRun, Job, JobName, Policy, RunSpec, Seconds, Trigger,
        interval::Interval,
    },
    plan::{Decision, JobState, Move, Scheduled, Step, Timeline, Watermark, next_move},
};
use proptest::prelude::*;

fn job(name: &str, every: u64, catch_up: CatchUp, window: u64, first_run: FirstRun) -> Arc<Job> {
    Arc::new(Job {
        name: name.parse().unwrap(),
        description: None,
        tags: Vec::new(),
        enabled: true,
        trigger: Trigger::Every(Interval::new(every, every / 3).unwrap()),
        timezone: chrono_tz::UTC,
        queue: "default".parse().unwrap(),
        policy: Policy {
            catch_up,
            catch_up_window: Seconds::from_secs(window),
            max_catch_up: 5,
            first_run,
            ..Policy::default()
        },
        unique: None,
        spec: RunSpec::new(Execute::Shell("true".to_owned())),
    })
}

const WEEK: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);

/// A beat without anything around it: the same calls in the same order.
struct Beat {
    jobs: Vec<Arc<Job>>,
    states: BTreeMap<JobName, JobState>,
    watermark: Watermark,
    timeline: Timeline,
    /// What each step decided; a repeated step must decide the same.
    ledger: BTreeMap<(JobName, DateTime<Utc>, DateTime<Utc>), Decision>,
}

impl Beat {
    fn new(jobs: Vec<Arc<Job>>, now: DateTime<Utc>) -> Self {
        let states = jobs
            .iter()
            .map(|job| (job.name.clone(), JobState::first_seen(job, now, now)))
            .collect();
        let mut beat = Self {
            jobs,
            states,
            watermark: Watermark {
                at: now,
                next: None,
                beat: "test".to_owned(),
                set_back_from: None,
            },
            timeline: Timeline::default(),
            ledger: BTreeMap::new(),
        };
        beat.restart();
        beat
    }

    fn restart(&mut self) {
        let scheduled = self
            .jobs
            .iter()
            .map(|job| Scheduled::new(Arc::clone(job), &self.states[&job.name]))
            .collect();
        self.timeline = Timeline::new(scheduled, self.watermark.at);
    }

    fn record(&mut self, step: &Step) {
        for job in &step.jobs {
            let key = (job.job.name.clone(), step.from, step.to);
            if let Some(before) = self.ledger.insert(key, job.decision.clone()) {
                assert_eq!(before, job.decision, "a repeated step decided otherwise");
            }
        }
    }

    /// One turn; `dies` cuts it off between publishing and committing.
    fn turn(&mut self, now: DateTime<Utc>, dies: bool) {
        if let Some(to) = self.watermark.next {
            self.step(to, false);
        }
        match next_move(self.watermark.at, now) {
            Move::Wait | Move::Behind(_) => return,
            Move::Reset => panic!("the clock of this test never steps back that far"),
            Move::Plan => {}
        }
        if self.timeline.next_due().is_some_and(|due| due <= now) {
            self.watermark.next = Some(now);
            self.step(now, dies);
        }
    }

    fn step(&mut self, to: DateTime<Utc>, dies: bool) {
        let step = self.timeline.plan(self.watermark.at, to);
        self.record(&step);
        for job in &step.jobs {
            let state = &self.states[&job.job.name];
            if let Some(next) = state.after(job, &[], (step.from, to), WEEK) {
                self.states.insert(job.job.name.clone(), next);
            }
        }
        if dies {
            return self.restart();
        }
        self.watermark.at = to;
        self.watermark.next = None;
        self.timeline.advance(&step);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_tick_has_exactly_one_verdict(
        pauses in prop::collection::vec((1_u32..200_000, any::<bool>(), any::<bool>()), 1..120),
        back in 0_i64..3_000,
    ) {
        let start: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        let jobs = vec![
            job("minute", 60, CatchUp::Latest, 3600, FirstRun::Next),
            job("cookie", 20 * 3600, CatchUp::Latest, 4 * 3600, FirstRun::Now),
            job("all", 600, CatchUp::All, 86_400, FirstRun::Next),
            job("skip", 900, CatchUp::Skip, 3600, FirstRun::Next),
        ];
        let mut beat = Beat::new(jobs.clone(), start);
        let mut now = start;
        for (index, (pause, dies, restarts)) in pauses.iter().enumerate() {
            now += Duration::seconds(i64::from(*pause));
            if restarts & (index % 3 == 0) {
                beat.restart();
            }
            beat.turn(now, *dies);
            // The clock steps back now and then: nothing is decided again.
            beat.turn(now - Duration::seconds(back), false);
        }
        beat.turn(now, false);
        let end = beat.watermark.at;
        for job in &jobs {
            let state = JobState::first_seen(job, start, start);
            let expected = Scheduled::new(Arc::clone(job), &state).count_between(start, end);
            let of_job = beat.ledger.iter().filter(|((name, ..), _)| *name == job.name);
            let mut fired = Vec::new();
            let mut counted = 0;
            for (_, decision) in of_job {
                fired.extend(decision.fire.iter().copied());
                counted += decision.unfired.iter().map(|one| one.span.count).sum::<u64>();
            }
            let total = fired.len() as u64;
            fired.sort();
            fired.dedup();
            prop_assert_eq!(fired.len() as u64, total, "{} fired a tick twice", &job.name);
            prop_assert_eq!(total + counted, expected, "{}", &job.name);
            let state = &beat.states[&job.name];
            let ledger = &state.ledger;
            prop_assert_eq!(ledger.missed + ledger.coalesced, counted, "{}: counters", &job.name);
        }
    }
}
