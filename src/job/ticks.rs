//! The ticks of a job: those of its trigger, as far as the job is active, and when their runs start.

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Blackout, Job};

/// From when to when a job has ticks, both included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    /// Instants of the trigger before this are no ticks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<DateTime<Utc>>,
    /// Instants of the trigger after this are no ticks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<DateTime<Utc>>,
}

impl Active {
    /// Whether a tick may lie here.
    pub fn contains(&self, at: DateTime<Utc>) -> bool {
        self.start.is_none_or(|start| start <= at) && self.end.is_none_or(|end| at <= end)
    }

    /// Whether there is neither a start nor an end.
    pub fn is_always(&self) -> bool {
        *self == Self::default()
    }

    /// Moves `after` on, so that what follows it does not lie before the start.
    fn not_before_start(&self, after: DateTime<Utc>) -> DateTime<Utc> {
        let before = self.start.and_then(|start| {
            // Ticks are whole seconds.
            start.checked_sub_signed(Duration::nanoseconds(1))
        });
        before.map_or(after, |before| after.max(before))
    }
}

impl Job {
    /// The first tick later than `after`, whether or not the job is enabled.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let active = &self.policy.active;
        let next = self.trigger.next_after(active.not_before_start(after))?;
        active.contains(next).then_some(next)
    }

    /// How many ticks lie in `(after, until]`, whether or not the job is enabled.
    pub fn count_between(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> u64 {
        let active = &self.policy.active;
        let until = active.end.map_or(until, |end| until.min(end));
        let after = active.not_before_start(after);
        if after < until {
            self.trigger.count_between(after, until)
        } else {
            0
        }
    }

    /// The blackout in which the run of a tick would start.
    pub fn blackout_of(&self, tick: DateTime<Utc>) -> Option<&Blackout> {
        let mut blackouts = self.policy.blackouts.iter();
        blackouts.find(|one| one.covers(tick) || one.covers(self.starts_at(tick)))
    }

    /// When the run of a tick starts: `jitter` spreads the ticks of many jobs, always in the same
    /// way. The delay is the first eight bytes, big-endian, of the SHA-256 of the run's id
    /// (`JOB@20261123T023000Z`), modulo the jitter in milliseconds.
    pub fn starts_at(&self, tick: DateTime<Utc>) -> DateTime<Utc> {
        let jitter = self.policy.jitter.map_or(0, |jitter| {
            u64::try_from(jitter.get().as_millis()).unwrap_or(u64::MAX)
        });
        if jitter == 0 {
            return tick;
        }
        let id = format!("{}@{}", self.name, tick.format("%Y%m%dT%H%M%SZ"));
        let hash = Sha256::digest(id.as_bytes());
        let first = hash.iter().take(8);
        let number = first.fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let delay = i64::try_from(number % jitter).unwrap_or(i64::MAX);
        Duration::try_milliseconds(delay)
            .and_then(|delay| tick.checked_add_signed(delay))
            .unwrap_or(tick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Execute, Policy, RunSpec, Seconds, Trigger, interval::Interval};

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-11-23T{text}Z").parse().unwrap()
    }

    fn job(name: &str, policy: Policy) -> Job {
        Job {
            name: name.parse().unwrap(),
            description: None,
            tags: Vec::new(),
            enabled: true,
            trigger: Trigger::Every(Interval::new(600, 0).unwrap()),
            timezone: chrono_tz::UTC,
            queue: "default".parse().unwrap(),
            policy,
            unique: None,
            spec: RunSpec::new(Execute::Shell("true".to_owned())),
        }
    }

    #[test]
    fn start_and_end_are_included() {
        let active = Active {
            start: Some(at("10:00:00")),
            end: Some(at("10:30:00")),
        };
        let policy = Policy {
            active,
            ..Policy::default()
        };
        let job = job("crawl", policy);
        let mut ticks = Vec::new();
        let mut after = at("00:00:00");
        while let Some(next) = job.next_after(after) {
            ticks.push(next.format("%H:%M").to_string());
            after = next;
        }
        assert_eq!(ticks, ["10:00", "10:10", "10:20", "10:30"]);
        assert_eq!(job.count_between(at("00:00:00"), at("23:00:00")), 4);
        assert_eq!(job.count_between(at("10:00:00"), at("10:20:00")), 2);
        assert_eq!(job.count_between(at("11:00:00"), at("12:00:00")), 0);
        assert_eq!(job.count_between(at("08:00:00"), at("09:59:59")), 0);
    }

    #[test]
    fn jitter_is_the_same_everywhere_and_within_its_bound() {
        let jittered = |name: &str, seconds| {
            let policy = Policy {
                jitter: Some(Seconds::from_secs(seconds)),
                ..Policy::default()
            };
            job(name, policy)
        };
        let delay = |job: &Job, tick| (job.starts_at(tick) - tick).num_milliseconds();
        // Known values, for other implementations. printf 'crawl@20261123T100000Z' | sha256sum
        assert_eq!(delay(&jittered("crawl", 60), at("10:00:00")), 15_744);
        assert_eq!(delay(&jittered("crawl", 60), at("10:10:00")), 49_057);
        assert_eq!(delay(&job("crawl", Policy::default()), at("10:00:00")), 0);
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..1000 {
            let delay = delay(&jittered(&format!("job-{n}"), 60), at("10:00:00"));
            assert!((0..60_000).contains(&delay));
            seen.insert(delay / 1000);
        }
        assert_eq!(seen.len(), 60, "spread over the whole minute");
    }
}
