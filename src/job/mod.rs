//! What the user defined, validated. Pure: no I/O, no clock, no async.
//!
//! A [`Job`] can only be built from valid parts, so nothing past `schedules/` needs to check one
//! again. It serialises, because beat shares its definitions through the broker so that any
//! machine can start a run by hand.

pub mod blackout;
pub mod cron;
mod duration;
mod glob;
mod http;
pub mod interval;
mod limits;
mod name;
pub mod policy;
mod resources;
mod retry;
mod spec;
mod template;
mod ticks;
pub mod trigger;
mod unique;
mod user;
mod webhook;

use serde::{Deserialize, Serialize};

pub use blackout::Blackout;
pub use duration::{Seconds, SecondsError};
pub use glob::Glob;
pub use http::{Body, HttpRequest, Json, Method};
pub use interval::Anchor;
pub use limits::{Concurrency, Lock, PerTime, Rate};
pub use name::{BlackoutName, CredentialName, JobName, NameError, QueueName, WebhookName};
pub use policy::{CatchUp, FirstRun, Overlap, Policy};
pub use resources::{Cpus, ResourceLimits};
pub use retry::{Backoff, Failure, RetryPolicy};
pub use spec::{Execute, Kill, LeaseLoss, RunSpec, SignalName, SuccessExit};
pub use template::{Template, TemplateError, Values};
pub use ticks::Active;
pub use trigger::Trigger;
pub use unique::{Holds, Unique};
pub use user::{UserName, UserNameError};
pub use webhook::{About, Event, Webhook};

/// One `[job.NAME]`, with `[defaults]` applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Unique over all files.
    pub name: JobName,
    /// For people; never interpreted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// For people and filters; never interpreted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// A disabled job has no ticks; it can still be run by hand.
    pub enabled: bool,
    /// What makes the job due.
    pub trigger: Trigger,
    /// The zone in which the trigger is read and in which times of this job are shown.
    pub timezone: chrono_tz::Tz,
    /// The route to workers.
    pub queue: QueueName,
    /// What becomes of ticks that are late or meet a live run.
    pub policy: Policy,
    /// Which runs by hand count as the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique: Option<Box<Unique>>,
    /// What a worker executes, and within which limits.
    pub spec: RunSpec,
}

impl Job {
    /// Identifies the trigger: when it changes, the schedule starts from now and nothing is
    /// back-filled. A change of anything else leaves it as it is.
    pub fn fingerprint(&self) -> String {
        let state = if self.enabled { "" } else { " disabled" };
        format!("{}{state}", self.trigger.canonical(self.timezone))
    }
}
