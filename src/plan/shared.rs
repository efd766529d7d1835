//! What beats share with everybody through the broker's state bucket, and under which keys.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::job::JobName;

/// The key of the [`super::Watermark`].
pub const WATERMARK_KEY: &str = "watermark";
/// The key of the [`ReloadStatus`].
pub const RELOAD_KEY: &str = "reload";
/// The key of the name of this installation, made up by its first beat: another one means that the
/// broker was wiped meanwhile, or is another one.
pub const INSTALLATION_KEY: &str = "installation";
/// The key of the [`KeptCopy`].
pub const COPY_KEY: &str = "copy";
/// How the names of installations begin that somebody imported: what beats kept of the one before is no loss.
pub const IMPORTED_PREFIX: &str = "imported-";
/// The prefix of the keys `def.JOB`, which hold the definitions, as [`crate::job::Job`].
pub const DEFINITION_PREFIX: &str = "def.";
/// The prefix of the keys `job.JOB`, which hold [`super::JobState`].
pub const JOB_STATE_PREFIX: &str = "job.";

/// The key of the [`FailingSnapshots`]; there is none while snapshots are written.
pub const SNAPSHOTS_KEY: &str = "snapshots";

/// That no snapshot of `up` can be written, for `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailingSnapshots {
    /// When the first one failed.
    pub since: DateTime<Utc>,
    /// Where they belong.
    pub directory: std::path::PathBuf,
    /// Why the last one failed.
    pub reason: String,
}

/// A beat that stands by says on a broker that lost its data what it has kept of it: one that has nothing lets it lead first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptCopy {
    /// The beat.
    pub beat: String,
    /// How far its copy goes.
    pub watermark: DateTime<Utc>,
    /// When it said so.
    pub said_at: DateTime<Utc>,
}

/// The last reading of the schedules, for `jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// The beat that read them.
    pub beat: String,
    /// When.
    pub at: DateTime<Utc>,
    /// From where.
    pub schedules: Vec<std::path::PathBuf>,
    /// How many jobs are in force.
    pub jobs: usize,
    /// What is wrong with the files; the set read before stays in force. Empty: all is well.
    pub errors: Vec<String>,
    /// The data directory that the beat holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// It took over from a beat that had other schedules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differing: Option<Differing>,
}

/// How the schedules of a beat that took over differ from those of the beat before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differing {
    /// The beat before.
    pub before: String,
    /// The jobs that only one of the two has, or that they define otherwise; [`Differing::MOST_JOBS`] at most.
    pub jobs: Vec<JobName>,
    /// How many there are.
    pub count: usize,
}

impl Differing {
    /// So many jobs are named.
    pub const MOST_JOBS: usize = 20;
}
