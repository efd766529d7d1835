//! From `schedules/*.toml` to a validated set of jobs, with every mistake of every file found in one
//! pass and shown with its place and its mend.
//!
//! Data's way: `files` reads → `document` walks the TOML of one file → `settings` reads the keys of
//! one table, through `reader`, `values` and `retry` → `build` lays them over `[defaults]` and applies
//! the rules that concern more than one key. Parsing is pure over names and texts; only `files` and
//! `watch` touch the disk. Nothing here knows brokers or beats.
//!
//! - `[defaults]` counts for the jobs of its own file. A job's own value wins as a whole; `args` and
//!   `env` are laid over the defaults key by key; a job with a trigger or a program of its own takes
//!   nothing of the kind from the defaults.
//! - A blackout may be named by the jobs of any file, and a webhook name the jobs of any file.
//! - A relative `working_dir` counts from the directory of its file.
//! - Without `timezone` a job is read in UTC, without `queue` it goes to `default`.

mod blackout;
mod build;
mod checks;
mod choices;
mod diagnostic;
mod document;
mod files;
mod http;
pub mod import;
mod limits;
mod moment;
mod nearest;
mod notify;
mod policy;
mod reader;
mod resources;
mod retry;
mod schema;
mod settings;
mod size;
mod source;
mod unique;
mod users;
mod values;
mod watch;
mod worker_policy;

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};

use crate::job::{Job, JobName, Webhook, WebhookName};
use diagnostic::Findings;
use document::Collected;

pub use diagnostic::{Diagnostic, LoadError, Severity};
pub use files::load;
pub use moment::{MomentError, moment};
pub use nearest::nearest;
pub use schema::schema;
pub use source::Source;
pub use watch::{Watch, WatchError, fingerprint, watch};
pub use worker_policy::{load_policy, parse_policy};

/// All jobs of all files, by name, and the webhooks. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobSet {
    /// The jobs.
    pub jobs: Arc<BTreeMap<JobName, Arc<Job>>>,
    /// Who is told what happens to them.
    pub webhooks: Arc<BTreeMap<WebhookName, Webhook>>,
}

/// Valid schedules.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The jobs.
    pub set: JobSet,
    /// How many files there were.
    pub files: usize,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Diagnostic>,
}

impl JobSet {
    /// A set of the given jobs; of several with one name the last is kept.
    pub fn new(jobs: impl IntoIterator<Item = Job>) -> Self {
        let named = jobs
            .into_iter()
            .map(|job| (job.name.clone(), Arc::new(job)));
        Self {
            jobs: Arc::new(named.collect()),
            webhooks: Arc::default(),
        }
    }

    /// The job of that name.
    pub fn get(&self, name: &JobName) -> Option<&Arc<Job>> {
        self.jobs.get(name)
    }

    /// The jobs in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.values()
    }

    /// How many jobs there are.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether there is no job.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The name that was probably meant by a wrong one.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        nearest(name, self.jobs.keys().map(JobName::as_str))
    }
}

/// Validates texts; pure. `now` decides only about warnings.
pub fn parse(sources: &[Source], now: DateTime<Utc>) -> Result<Loaded, LoadError> {
    let mut collected = Collected::new(Findings::default());
    for source in sources {
        document::read(&mut collected, source, now);
    }
    collected.finish(now)
}
