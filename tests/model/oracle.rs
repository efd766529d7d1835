//! The jobs of the model, and which ticks they have: by a walk over the minutes, without the planner.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, Duration, Utc};
use orchestrator::job::{
    Active, Anchor, Blackout, CatchUp, Execute, FirstRun, Job, Overlap, Policy, RunSpec, Seconds,
    Trigger, blackout::When, cron::CronTrigger, interval::Interval,
};

/// How many jobs there are.
pub const JOBS: usize = 9;

pub fn start() -> DateTime<Utc> {
    "2026-02-01T00:00:30Z".parse().unwrap()
}

fn every(minutes: u64, offset: u64) -> Trigger {
    Trigger::Every(Interval::new(minutes * 60, offset * 60).unwrap())
}

fn cron(expression: &str, zone: chrono_tz::Tz) -> Trigger {
    let expressions = vec![expression.to_owned()];
    let cron = CronTrigger::new(expressions, zone, Default::default(), Default::default());
    Trigger::Cron(cron.unwrap())
}

fn policy(catch_up: CatchUp, window: u64, overlap: Overlap) -> Policy {
    Policy {
        catch_up,
        catch_up_window: Seconds::from_secs(window),
        max_catch_up: 5,
        overlap,
        ..Policy::default()
    }
}

/// A job's trigger, the one that it has after an edit, and its policy.
fn definition(index: usize) -> (Trigger, Trigger, Policy) {
    let hour = 3600;
    match index {
        0 => (
            every(10, 0),
            every(7, 3),
            policy(CatchUp::Latest, hour, Overlap::Skip),
        ),
        1 => (
            every(15, 5),
            every(15, 6),
            policy(CatchUp::All, 24 * hour, Overlap::Allow),
        ),
        2 => (
            every(30, 0),
            every(60, 0),
            policy(CatchUp::Skip, hour, Overlap::Queue),
        ),
        3 => {
            let policy = Policy {
                first_run: FirstRun::Now,
                jitter: Some(Seconds::from_secs(45 * 60)),
                ..policy(CatchUp::Latest, 4 * hour, Overlap::Replace)
            };
            let cookie = |hours| {
                let interval = Interval::new(hours * hour, 0).unwrap();
                Trigger::Every(interval.with_anchor(Anchor::LastSuccess))
            };
            (cookie(20), cookie(10), policy)
        }
        4 => {
            let berlin = chrono_tz::Europe::Berlin;
            let policy = policy(CatchUp::Latest, 4 * hour, Overlap::Skip);
            (
                cron("30 2 * * *", berlin),
                cron("*/20 1-3 * * *", berlin),
                policy,
            )
        }
        5 => {
            let when = When::Repeated {
                cron: match cron("0 22 * * *", chrono_tz::UTC) {
                    Trigger::Cron(cron) => cron,
                    _ => unreachable!(),
                },
                duration: Seconds::from_secs(5 * hour),
            };
            let blackout = Blackout {
                name: "night".parse().unwrap(),
                when,
            };
            let policy = Policy {
                blackouts: vec![blackout],
                ..policy(CatchUp::All, 3 * hour, Overlap::Skip)
            };
            (every(20, 0), every(25, 0), policy)
        }
        6 => {
            let active = Active {
                start: Some(start() + Duration::days(3)),
                end: Some(start() + Duration::days(40)),
            };
            let policy = Policy {
                active,
                ..policy(CatchUp::Latest, hour, Overlap::Skip)
            };
            (every(12, 0), every(18, 0), policy)
        }
        7 => {
            let instants = |days: i64| {
                let each = (0..60).map(|n| start() + Duration::minutes(days * 24 * 60 * n + 7));
                // The start of the model is half past a minute.
                let whole = each.map(|at| at - Duration::seconds(30));
                Trigger::At(whole.collect())
            };
            (
                instants(1),
                instants(2),
                policy(CatchUp::All, 24 * hour, Overlap::Queue),
            )
        }
        _ => {
            let lord_howe = chrono_tz::Australia::Lord_Howe;
            let policy = policy(CatchUp::All, 12 * hour, Overlap::Allow);
            (
                cron("0,45 * * * *", lord_howe),
                cron("15 */2 * * MON", lord_howe),
                policy,
            )
        }
    }
}

pub fn job(index: usize, edited: bool) -> Job {
    let (trigger, other, policy) = definition(index);
    Job {
        name: format!("job-{index}").parse().unwrap(),
        description: None,
        tags: Vec::new(),
        enabled: true,
        trigger: if edited { other } else { trigger },
        timezone: chrono_tz::UTC,
        queue: "default".parse().unwrap(),
        policy,
        unique: None,
        spec: RunSpec::new(Execute::Shell("true".to_owned())),
    }
}

/// From where the ticks of a job count.
#[derive(Debug, Clone)]
pub struct Truth {
    pub job: Arc<Job>,
    pub counts_from: DateTime<Utc>,
    pub first_run_at: Option<DateTime<Utc>>,
    pub anchored_at: Option<DateTime<Utc>>,
}

impl Truth {
    pub fn first_seen(job: Arc<Job>, at: DateTime<Utc>) -> Self {
        let now = job.policy.first_run == FirstRun::Now && job.enabled;
        let first = now.then(|| whole(at) + Duration::seconds(1));
        Self {
            job,
            counts_from: at,
            first_run_at: first,
            anchored_at: None,
        }
    }

    /// The ticks in `(from, to]`.
    pub fn ticks(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> BTreeSet<DateTime<Utc>> {
        let mut ticks = BTreeSet::new();
        if !self.job.enabled {
            return ticks;
        }
        let after = from.max(self.counts_from);
        match (&self.job.trigger, self.anchored_at) {
            (Trigger::Every(interval), Some(anchor)) if !interval.anchor().is_epoch() => {
                let length = Duration::from_std(interval.length()).unwrap();
                let mut tick = anchor + length;
                while tick <= to {
                    ticks.insert(tick);
                    tick += length;
                }
            }
            (trigger, _) => {
                let first = after.timestamp().div_euclid(60) * 60;
                for second in (first..=to.timestamp()).step_by(60) {
                    if is_instant(trigger, second) {
                        ticks.insert(DateTime::from_timestamp(second, 0).unwrap());
                    }
                }
            }
        }
        ticks.retain(|tick| after < *tick && *tick <= to);
        ticks.extend(
            self.first_run_at
                .filter(|first| from < *first && *first <= to),
        );
        ticks.retain(|tick| self.job.policy.active.contains(*tick));
        ticks
    }
}

/// Whether the trigger fires at this second of Unix time.
fn is_instant(trigger: &Trigger, second: i64) -> bool {
    let at = || DateTime::from_timestamp(second, 0).unwrap();
    match trigger {
        Trigger::OnDemand => false,
        // Cron has an oracle of its own. All of these fire at a multiple of five minutes.
        Trigger::Cron(cron) => {
            second % 300 == 0 && cron.next_after(at() - Duration::seconds(1)) == Some(at())
        }
        Trigger::Every(interval) => {
            let length = i64::try_from(interval.length().as_secs()).unwrap();
            let phase = interval
                .next_after(DateTime::UNIX_EPOCH)
                .unwrap()
                .timestamp();
            (second - phase).rem_euclid(length) == 0
        }
        Trigger::At(instants) => instants.contains(&at()),
    }
}

pub fn whole(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(at.timestamp(), 0).unwrap()
}
