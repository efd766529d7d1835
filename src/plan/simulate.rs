//! What beat would do over a stretch of time, with the real planner and policies and nothing else:
//! no broker, no clock. Ticks are handed out one by one, so that years need no memory.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use super::{JobState, JobStep, Scheduled, SkipReason, Span, Timeline, Verdict};
use crate::job::{Job, JobName, Overlap};

/// A time in which no beat is at work, from its start to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Downtime {
    /// The last instant at which beat was there.
    pub from: DateTime<Utc>,
    /// When it is there again.
    pub to: DateTime<Utc>,
}

/// What is to be simulated.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The jobs; all are known at `from`.
    pub jobs: Vec<Arc<Job>>,
    /// Ticks after this are simulated.
    pub from: DateTime<Utc>,
    /// Ticks up to this are simulated.
    pub to: DateTime<Utc>,
    /// When beat is not there.
    pub down: Vec<Downtime>,
    /// How long every run takes, those named in `durations` aside.
    pub duration: Duration,
    /// How long the runs of these jobs take.
    pub durations: HashMap<JobName, Duration>,
}

/// A tick and what would become of it.
#[derive(Debug, Clone)]
pub struct SimulatedTick<'a> {
    /// Its job.
    pub job: &'a Arc<Job>,
    /// The nominal instant.
    pub tick: DateTime<Utc>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why, of skipped ones.
    pub reason: Option<SkipReason>,
    /// When its run starts, of fired ones: workers are assumed to be free.
    pub starts_at: Option<DateTime<Utc>>,
}

/// Hands every tick of the scenario to `visit`, step by step in the order of time.
pub fn simulate(scenario: &Scenario, mut visit: impl FnMut(&SimulatedTick<'_>)) {
    let jobs = scenario.jobs.iter().map(|job| {
        let state = JobState::first_seen(job, scenario.from, scenario.from);
        Scheduled::new(Arc::clone(job), &state)
    });
    let mut timeline = Timeline::new(jobs.collect(), scenario.from);
    let mut watermark = scenario.from;
    let mut live: HashMap<JobName, DateTime<Utc>> = HashMap::new();
    while let Some(due) = timeline.next_due().filter(|&due| due <= scenario.to) {
        let now = scenario.back_at(due).min(scenario.to);
        for step in &timeline.plan(watermark, now).jobs {
            scenario.carry_out(step, now, &mut live, &mut visit);
        }
        timeline.advance(now);
        watermark = now;
    }
}

impl Scenario {
    /// When beat comes to what is due at `due`.
    fn back_at(&self, due: DateTime<Utc>) -> DateTime<Utc> {
        let mut now = due;
        // One downtime may lead into the next.
        for _ in 0..=self.down.len() {
            let within = |down: &&Downtime| down.from < now && now < down.to;
            match self.down.iter().find(within) {
                Some(down) => now = down.to,
                None => break,
            }
        }
        now
    }

    fn carry_out(
        &self,
        step: &JobStep,
        now: DateTime<Utc>,
        live: &mut HashMap<JobName, DateTime<Utc>>,
        visit: &mut impl FnMut(&SimulatedTick<'_>),
    ) {
        let job = &step.job;
        let decision = &step.decision;
        for (span, verdict) in [
            (decision.missed, Verdict::Missed),
            (decision.coalesced, Verdict::Coalesced),
        ] {
            for tick in span.into_iter().flat_map(|span| ticks(job, span)) {
                visit(&SimulatedTick {
                    job,
                    tick,
                    verdict,
                    reason: None,
                    starts_at: None,
                });
            }
        }
        for &tick in &decision.fire {
            let overlaps = match job.policy.overlap {
                Overlap::Skip => live.get(&job.name).is_some_and(|until| now < *until),
                Overlap::Allow => false,
            };
            let starts_at = job.starts_at(tick).max(now);
            if overlaps {
                visit(&SimulatedTick {
                    job,
                    tick,
                    verdict: Verdict::Skipped,
                    reason: Some(SkipReason::Overlap),
                    starts_at: None,
                });
                continue;
            }
            let duration = self.durations.get(&job.name).unwrap_or(&self.duration);
            let ends = chrono::Duration::from_std(*duration)
                .ok()
                .and_then(|duration| starts_at.checked_add_signed(duration));
            // Most runs end before the next tick: they need no memory.
            if ends.is_none_or(|ends| ends > now) && job.policy.overlap == Overlap::Skip {
                live.insert(job.name.clone(), ends.unwrap_or(DateTime::<Utc>::MAX_UTC));
            }
            visit(&SimulatedTick {
                job,
                tick,
                verdict: Verdict::Fired,
                reason: None,
                starts_at: Some(starts_at),
            });
        }
    }
}

/// The ticks of a span; the first may be the additional one of `first_run = "now"`.
fn ticks(job: &Job, span: Span) -> impl Iterator<Item = DateTime<Utc>> + '_ {
    std::iter::successors(Some(span.first), |&tick| job.next_after(tick))
        .take_while(move |&tick| tick <= span.last)
}

/// How many runs start, by hour of the day and queue.
#[derive(Debug, Default)]
pub struct Load {
    rows: HashMap<(u32, crate::job::QueueName), Row>,
}

#[derive(Debug, Default)]
struct Row {
    starts: u64,
    /// Starts a second; only seconds that may still get more.
    open: std::collections::BTreeMap<i64, u64>,
    peak: u64,
}

/// One row of the load: an hour of the day (UTC) and a queue.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LoadRow {
    /// The hour of the day, in UTC.
    pub hour: u32,
    /// The queue.
    pub queue: crate::job::QueueName,
    /// How many runs start in this hour, over all days.
    pub starts: u64,
    /// The most that start in one second of it.
    pub at_once: u64,
}

/// A run starts at most so long after its tick: the longest jitter.
const SETTLED_AFTER: i64 = 86_400;

impl Load {
    /// Counts a tick, if it fired.
    pub fn count(&mut self, tick: &SimulatedTick<'_>) {
        let Some(starts_at) = tick.starts_at else {
            return;
        };
        let second = starts_at.timestamp();
        let hour = u32::try_from(second.rem_euclid(86_400) / 3600).unwrap_or(0);
        let key = (hour, tick.job.queue.clone());
        let row = self.rows.entry(key).or_default();
        row.starts += 1;
        let at_once = row.open.entry(second).or_default();
        *at_once += 1;
        row.peak = row.peak.max(*at_once);
        if row.open.len() > 2 * 3600 {
            row.open = row.open.split_off(&(second - SETTLED_AFTER));
        }
    }

    /// The rows by hour and queue.
    pub fn rows(&self) -> Vec<LoadRow> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by(|a, b| a.0.cmp(b.0));
        rows.into_iter()
            .map(|((hour, queue), row)| LoadRow {
                hour: *hour,
                queue: queue.clone(),
                starts: row.starts,
                at_once: row.peak,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Execute, Policy, RunSpec, Trigger, interval::Interval};

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-11-23T{text}Z").parse().unwrap()
    }

    fn job(name: &str, seconds: u64, policy: Policy) -> Arc<Job> {
        Arc::new(Job {
            name: name.parse().unwrap(),
            description: None,
            tags: Vec::new(),
            enabled: true,
            trigger: Trigger::Every(Interval::new(seconds, 0).unwrap()),
            timezone: chrono_tz::UTC,
            queue: "default".parse().unwrap(),
            policy,
            spec: RunSpec::new(Execute::Shell("true".to_owned())),
        })
    }

    fn scenario(jobs: Vec<Arc<Job>>) -> Scenario {
        Scenario {
            jobs,
            from: at("10:00:00"),
            to: at("12:00:00"),
            down: Vec::new(),
            duration: Duration::from_secs(1),
            durations: HashMap::new(),
        }
    }

    fn told(scenario: &Scenario) -> Vec<String> {
        let mut told = Vec::new();
        simulate(scenario, |tick| {
            told.push(format!("{} {:?}", tick.tick.format("%H:%M"), tick.verdict));
        });
        told
    }

    #[test]
    fn a_downtime_coalesces_and_misses_as_beat_would() {
        let mut scenario = scenario(vec![job("crawl", 1200, Policy::default())]);
        scenario.to = at("14:00:00");
        scenario.down = vec![Downtime {
            from: at("10:30:00"),
            to: at("13:10:00"),
        }];
        assert_eq!(
            told(&scenario),
            [
                "10:20 Fired",
                "10:40 Missed",
                "11:00 Missed",
                "11:20 Missed",
                "11:40 Missed",
                "12:00 Missed",
                "12:20 Coalesced",
                "12:40 Coalesced",
                "13:00 Fired",
                "13:20 Fired",
                "13:40 Fired",
                "14:00 Fired",
            ]
        );
    }

    #[test]
    fn long_runs_skip_ticks_and_short_ones_do_not() {
        let mut scenario = scenario(vec![job("crawl", 1800, Policy::default())]);
        scenario.duration = Duration::from_secs(2400);
        let skipping = [
            "10:30 Fired",
            "11:00 Skipped",
            "11:30 Fired",
            "12:00 Skipped",
        ];
        assert_eq!(told(&scenario), skipping);
        let name = scenario.jobs[0].name.clone();
        scenario.durations.insert(name, Duration::from_secs(1800));
        assert_eq!(told(&scenario).len(), 4);
        assert!(told(&scenario).iter().all(|tick| tick.ends_with("Fired")));
    }

    #[test]
    fn the_load_counts_what_starts_at_once() {
        let jobs = (0..3).map(|n| job(&format!("job-{n}"), 1800, Policy::default()));
        let mut load = Load::default();
        simulate(&scenario(jobs.collect()), |tick| load.count(tick));
        let rows = load.rows();
        let row = |hour, starts| LoadRow {
            hour,
            queue: "default".parse().unwrap(),
            starts,
            at_once: 3,
        };
        assert_eq!(rows, [row(10, 3), row(11, 6), row(12, 3)]);
    }
}
