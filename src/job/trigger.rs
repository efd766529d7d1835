//! What makes a job due: a set of instants, strictly increasing, whole seconds.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::{
    cron::CronTrigger,
    interval::{Anchor, Interval},
};

/// What makes a job due.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Nothing: runs are started by hand.
    OnDemand,
    /// The union of crontab expressions in one zone.
    Cron(CronTrigger),
    /// A grid of equal steps on Unix time.
    Every(Interval),
    /// Fixed instants, sorted, without repeats.
    At(Vec<DateTime<Utc>>),
}

impl Trigger {
    /// The first instant later than `after`, or `None` if there is no further one.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::OnDemand => None,
            Self::Cron(cron) => cron.next_after(after),
            Self::Every(interval) => interval.next_after(after),
            Self::At(instants) => instants.iter().copied().find(|&at| at > after),
        }
    }

    /// All instants in `(after, until]`, oldest first.
    pub fn between(
        &self,
        after: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> impl Iterator<Item = DateTime<Utc>> + '_ {
        std::iter::successors(self.next_after(after), |&at| self.next_after(at))
            .take_while(move |&at| at <= until)
    }

    /// How many instants lie in `(after, until]`; arithmetic for intervals, a walk for the rest.
    pub fn count_between(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> u64 {
        match self {
            Self::Every(interval) => interval.count_between(after, until),
            Self::OnDemand | Self::Cron(_) | Self::At(_) => {
                self.between(after, until).fold(0, |count, _| count + 1)
            }
        }
    }

    /// The kind of run at which the trigger counts anew.
    pub fn anchor(&self) -> Anchor {
        match self {
            Self::Every(interval) => interval.anchor(),
            Self::OnDemand | Self::Cron(_) | Self::At(_) => Anchor::Epoch,
        }
    }

    /// A text that is the same for equal triggers and differs where their instants may differ.
    pub fn canonical(&self, timezone: Tz) -> String {
        match self {
            Self::OnDemand => "on demand".to_owned(),
            Self::Cron(cron) => format!("cron {} {}", cron.canonical(), timezone.name()),
            Self::Every(interval) => format!("every {interval}"),
            Self::At(instants) => {
                let times: Vec<_> = instants.iter().map(|at| at.to_rfc3339()).collect();
                format!("at {}", times.join(" "))
            }
        }
    }

    /// The trigger in a few words, for listings: `cron 30 2 * * *`, `every 10m`, `on demand`.
    pub fn summary(&self) -> String {
        match self {
            Self::OnDemand => "on demand".to_owned(),
            Self::Cron(cron) => format!("cron {}", cron.canonical()),
            Self::Every(interval) => format!("every {interval}"),
            Self::At(instants) => match instants.as_slice() {
                [only] => format!("at {}", only.to_rfc3339()),
                all => format!("at {} instants", all.len()),
            },
        }
    }
}
