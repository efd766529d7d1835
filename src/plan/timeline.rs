//! The next tick of every job, in order of time.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, Utc};

use super::{Decision, JobState, MakeUp, Pause, catch_up::decide_from, decide};
use crate::{
    job::{Job, Trigger},
    run::RunId,
};

/// A job with the part of its state that decides when it is due.
#[derive(Debug, Clone)]
pub struct Scheduled {
    /// The definition.
    pub job: Arc<Job>,
    pub(super) counts_from: DateTime<Utc>,
    pub(super) first_run_at: Option<DateTime<Utc>>,
    /// See [`JobState::carried`].
    pub(super) carried: Vec<DateTime<Utc>>,
    pub(super) paused: Option<Pause>,
    pub(super) to_make_up: Option<MakeUp>,
}

impl Scheduled {
    /// Joins a definition and its state.
    pub fn new(job: Arc<Job>, state: &JobState) -> Self {
        let (job, counts_from) = match (&job.trigger, state.anchored_at) {
            (Trigger::Every(interval), Some(at)) if !interval.anchor().is_epoch() => {
                let trigger = Trigger::Every(interval.anchored_at(at));
                let job = Job {
                    trigger,
                    ..Job::clone(&job)
                };
                (Arc::new(job), state.counts_from.max(at))
            }
            _ => (job, state.counts_from),
        };
        Self {
            job,
            counts_from,
            first_run_at: state.first_run_at,
            carried: state.carried.clone(),
            paused: state.paused.clone(),
            to_make_up: state.to_make_up,
        }
    }

    /// When the run of a tick starts, jitter included; the additional tick of `first_run = "now"` has
    /// none.
    pub fn starts_at(&self, tick: DateTime<Utc>) -> DateTime<Utc> {
        starts_at(&self.job, self.first_run_at, tick)
    }

    /// Whether the run of a tick would start in a blackout.
    pub(super) fn is_blacked_out(&self, tick: DateTime<Utc>) -> bool {
        let mut blackouts = self.job.policy.blackouts.iter();
        blackouts.any(|one| one.covers(tick) || one.covers(self.starts_at(tick)))
    }

    /// When there is something to be decided, if everything up to `watermark` is.
    fn due_after(&self, watermark: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self.to_make_up {
            // With the next step, which is never empty.
            Some(_) => watermark.checked_add_signed(chrono::Duration::nanoseconds(1)),
            None => self.next_after(watermark),
        }
    }

    /// The first tick later than `after`.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if !self.job.enabled {
            return None;
        }
        let additional = self.additional().find(|tick| after < *tick);
        additional.or_else(|| self.job.next_after(after.max(self.counts_from)))
    }

    /// The ticks besides those of the trigger that come later than `counts_from`; they come before those.
    fn additional(&self) -> impl Iterator<Item = DateTime<Utc>> {
        let first = self.first_run_at;
        let first = first.filter(|first| self.job.policy.active.contains(*first));
        self.carried.iter().copied().chain(first)
    }

    /// All ticks in `(after, until]`, oldest first.
    pub fn between(
        &self,
        after: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> impl Iterator<Item = DateTime<Utc>> + '_ {
        std::iter::successors(self.next_after(after), |&tick| self.next_after(tick))
            .take_while(move |&tick| tick <= until)
    }

    /// How many ticks lie in `(after, until]`.
    pub fn count_between(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> u64 {
        match self.next_after(after) {
            Some(first) if first <= until => {
                let additional = self.additional();
                let additional = additional.filter(|tick| after < *tick && *tick <= until);
                let (count, last) =
                    additional.fold((0, after), |(count, _), tick| (count + 1, tick));
                count + self.job.count_between(last.max(self.counts_from), until)
            }
            Some(_) | None => 0,
        }
    }

    /// The last tick in `[first, until]`, where `first` is a tick.
    pub(super) fn last_before(&self, first: DateTime<Utc>, until: DateTime<Utc>) -> DateTime<Utc> {
        let mut reach = chrono::Duration::seconds(1);
        // Looks back over ever longer stretches, so that a long downtime is not walked through.
        while let Some(from) = until.checked_sub_signed(reach).filter(|from| *from > first) {
            if let Some(last) = self.between(from, until).last() {
                return last;
            }
            reach = reach * 4;
        }
        self.between(first, until).last().unwrap_or(first)
    }
}

/// What is to be done for one job in one step.
#[derive(Debug, Clone)]
pub struct JobStep {
    /// The definition.
    pub job: Arc<Job>,
    /// The fate of its ticks.
    pub decision: Decision,
    index: usize,
    first_run_at: Option<DateTime<Utc>>,
    /// Its first tick after the step.
    following: Option<DateTime<Utc>>,
}

fn starts_at(job: &Job, first_run_at: Option<DateTime<Utc>>, tick: DateTime<Utc>) -> DateTime<Utc> {
    match first_run_at {
        Some(first) if first == tick => tick,
        Some(_) | None => job.starts_at(tick),
    }
}

impl JobStep {
    /// When the run of a tick starts, jitter included.
    pub fn starts_at(&self, tick: DateTime<Utc>) -> DateTime<Utc> {
        starts_at(&self.job, self.first_run_at, tick)
    }

    /// The run of the newest fired tick.
    pub fn newest_run(&self) -> Option<RunId> {
        let newest = self.decision.fire.last()?;
        Some(RunId::for_tick(self.job.name.clone(), *newest))
    }
}

/// What is to be done for all ticks in `(from, to]`.
#[derive(Debug, Clone)]
pub struct Step {
    /// The watermark before.
    pub from: DateTime<Utc>,
    /// The watermark after.
    pub to: DateTime<Utc>,
    /// The jobs that have a tick in between.
    pub jobs: Vec<JobStep>,
}

/// The next tick of every job, in order of time.
#[derive(Debug, Default)]
pub struct Timeline {
    jobs: Vec<Scheduled>,
    /// When each job is due, by its index.
    due: Vec<Option<DateTime<Utc>>>,
    next: BTreeSet<(DateTime<Utc>, usize)>,
    /// The jobs that were replaced since the last step: what it knows of their ticks is out of date.
    replaced: BTreeSet<usize>,
}

impl Timeline {
    /// Lines up the first tick of each job after `watermark`.
    pub fn new(jobs: Vec<Scheduled>, watermark: DateTime<Utc>) -> Self {
        let due: Vec<_> = jobs.iter().map(|job| job.due_after(watermark)).collect();
        let indexed = due.iter().enumerate();
        let next = indexed
            .filter_map(|(index, due)| Some(((*due)?, index)))
            .collect();
        Self {
            jobs,
            due,
            next,
            replaced: BTreeSet::new(),
        }
    }

    /// Lines up one job anew, after its state has changed. The jobs must have been given in the
    /// order of their names.
    pub fn replace(&mut self, job: Scheduled, watermark: DateTime<Utc>) {
        let name = &job.job.name;
        let found = self.jobs.binary_search_by(|one| one.job.name.cmp(name));
        let Some((index, place)) = found.ok().and_then(|at| Some((at, self.jobs.get_mut(at)?)))
        else {
            return;
        };
        *place = job;
        self.replaced.insert(index);
        self.line_up(index, watermark);
    }

    fn line_up(&mut self, index: usize, watermark: DateTime<Utc>) {
        if let Some(job) = self.jobs.get(index) {
            self.set_due(index, job.due_after(watermark));
        }
    }

    fn set_due(&mut self, index: usize, due: Option<DateTime<Utc>>) {
        let Some(place) = self.due.get_mut(index) else {
            return;
        };
        if let Some(before) = std::mem::replace(place, due) {
            self.next.remove(&(before, index));
        }
        if let Some(due) = due {
            self.next.insert((due, index));
        }
    }

    /// When the next tick of any job is due.
    pub fn next_due(&self) -> Option<DateTime<Utc>> {
        self.next.first().map(|&(tick, _)| tick)
    }

    /// The next tick of each of the `limit` jobs that are due soonest.
    pub fn upcoming(&self, limit: usize) -> impl Iterator<Item = (DateTime<Utc>, &Arc<Job>)> {
        let jobs = self.next.iter().take(limit);
        jobs.filter_map(|&(tick, index)| Some((tick, &self.jobs.get(index)?.job)))
    }

    /// Decides on every tick in `(from, now]`. Changes nothing: call [`Timeline::advance`] once it
    /// was carried out.
    pub fn plan(&self, from: DateTime<Utc>, now: DateTime<Utc>) -> Step {
        let due = self.next.range(..=(now, usize::MAX));
        let jobs = due.filter_map(|&(tick, index)| {
            let scheduled = self.jobs.get(index)?;
            let (decision, following) = match scheduled.to_make_up {
                Some(_) => (decide(scheduled, from, now), scheduled.next_after(now)),
                None => decide_from(scheduled, tick, (from, now)),
            };
            Some(JobStep {
                job: Arc::clone(&scheduled.job),
                decision,
                index,
                first_run_at: scheduled.first_run_at,
                following,
            })
        });
        let jobs = jobs.collect();
        Step {
            from,
            to: now,
            jobs,
        }
    }

    /// Moves every job on to its first tick after `step`.
    pub fn advance(&mut self, step: &Step) {
        for job in &step.jobs {
            match self.replaced.contains(&job.index) {
                true => self.line_up(job.index, step.to),
                false => self.set_due(job.index, job.following),
            }
        }
        self.replaced.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Execute, FirstRun, Policy, RunSpec, Trigger, interval::Interval};

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-11-23T{text}Z").parse().unwrap()
    }

    fn scheduled(name: &str, seconds: u64, first_run: FirstRun, seen: &str) -> Scheduled {
        let job = Job {
            name: name.parse().unwrap(),
            description: None,
            tags: Vec::new(),
            enabled: true,
            trigger: Trigger::Every(Interval::new(seconds, 0).unwrap()),
            timezone: chrono_tz::UTC,
            queue: "default".parse().unwrap(),
            policy: Policy {
                first_run,
                ..Policy::default()
            },
            unique: None,
            spec: RunSpec::new(Execute::Shell("true".to_owned())),
        };
        let state = JobState::first_seen(&job, at(seen), at("00:00:00"));
        Scheduled::new(Arc::new(job), &state)
    }

    fn names(step: &Step) -> Vec<&str> {
        step.jobs.iter().map(|j| j.job.name.as_str()).collect()
    }

    #[test]
    fn steps_follow_each_other_without_gap_or_repeat() {
        let jobs = vec![
            scheduled("seven", 7, FirstRun::Next, "00:00:00"),
            scheduled("sixty", 60, FirstRun::Next, "00:00:00"),
        ];
        let mut timeline = Timeline::new(jobs, at("10:00:00"));
        let (mut watermark, mut fired) = (at("10:00:00"), Vec::new());
        while let Some(due) = timeline.next_due().filter(|due| *due <= at("11:00:00")) {
            let step = timeline.plan(watermark, due);
            for job in &step.jobs {
                fired.extend(job.decision.fire.iter().map(|t| (job.job.name.clone(), *t)));
            }
            timeline.advance(&step);
            watermark = step.to;
        }
        let distinct: BTreeSet<_> = fired.iter().cloned().collect();
        assert_eq!(distinct.len(), fired.len());
        let sevens = fired
            .iter()
            .filter(|(name, _)| name.as_str() == "seven")
            .count();
        assert_eq!((sevens, fired.len() - sevens), (514, 60));
    }

    #[test]
    fn planning_twice_gives_the_same_step() {
        let timeline = Timeline::new(
            vec![scheduled("seven", 7, FirstRun::Next, "00:00:00")],
            at("10:00:00"),
        );
        let plan = || timeline.plan(at("10:00:00"), at("10:00:30"));
        assert_eq!(plan().jobs[0].decision, plan().jobs[0].decision);
        assert_eq!(names(&plan()), ["seven"]);
    }

    #[test]
    fn a_first_run_comes_at_once_and_only_once() {
        let job = scheduled("cookie", 20 * 3600, FirstRun::Now, "10:00:00.7");
        let first = job.next_after(at("10:00:00")).unwrap();
        assert_eq!(first, at("10:00:01"));
        let second = job.next_after(first).unwrap();
        let third = job.next_after(second).unwrap();
        assert_eq!((third - second).num_hours(), 20);
        assert_eq!(job.count_between(at("10:00:00"), second), 2);
    }

    #[test]
    fn a_long_rhythm_survives_any_restart() {
        let seen = scheduled("cookie", 20 * 3600, FirstRun::Next, "00:00:00");
        let expected = seen.next_after(at("00:00:00"));
        for restart in ["01:00:00", "05:30:00", "11:59:59"] {
            let timeline = Timeline::new(vec![seen.clone()], at(restart));
            assert_eq!(timeline.next_due(), expected, "{restart}");
        }
    }

    #[test]
    fn the_last_of_many_missed_is_found_without_a_walk() {
        let job = scheduled("second", 1, FirstRun::Next, "00:00:00");
        let far = at("00:00:00") + chrono::Duration::days(3650);
        let first = job.next_after(at("00:00:00")).unwrap();
        assert_eq!(job.last_before(first, far), far);
        assert_eq!(job.count_between(at("00:00:00"), far), 3650 * 86_400);
    }
}
