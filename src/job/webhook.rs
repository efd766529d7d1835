//! Who is told when something happens to a job: `[notify.NAME]`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{CredentialName, Job, JobName, Seconds, Template, WebhookName};

/// What a webhook may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A run failed, or expired, and will not be tried again.
    Failed,
    /// A run became a dead letter.
    Dead,
    /// Ticks were missed.
    Missed,
    /// Somebody paused the job.
    Paused,
    /// The job has not succeeded for longer than it should.
    Overdue,
    /// A run succeeded again, after one that failed or was overdue.
    Recovered,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Failed,
        Self::Dead,
        Self::Missed,
        Self::Paused,
        Self::Overdue,
        Self::Recovered,
    ];

    /// As in schedules and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Missed => "missed",
            Self::Paused => "paused",
            Self::Overdue => "overdue",
            Self::Recovered => "recovered",
        }
    }
}

/// A URL that is told what happens to jobs.
#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    /// Unique over all files.
    pub name: WebhookName,
    /// Where to; may name credentials, and nothing else.
    pub url: Template,
    /// The credential that messages are signed with.
    pub secret: Option<CredentialName>,
    /// What it is told.
    pub on: BTreeSet<Event>,
    /// Of which jobs.
    pub about: About,
    /// How long it is not told again that a job fails, or is overdue, as long as it does not recover.
    pub repeat: Seconds,
}

/// Of which jobs a webhook is told; of all if neither names nor tags are given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// Those of these names.
    pub jobs: BTreeSet<JobName>,
    /// Those with one of these tags.
    pub tags: BTreeSet<String>,
}

impl About {
    /// Whether it is every job.
    pub fn is_all(&self) -> bool {
        self.jobs.is_empty() && self.tags.is_empty()
    }

    /// Whether it is told of this job.
    pub fn covers(&self, job: &Job) -> bool {
        let has_tag = || job.tags.iter().any(|tag| self.tags.contains(tag));
        self.is_all() || self.jobs.contains(&job.name) || has_tag()
    }
}
