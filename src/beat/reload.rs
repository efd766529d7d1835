//! Reads the schedules again: all files are validated first, a broken edit keeps the old set running
//! and is shown in the log and, through the key `reload`, in `jobs`.

use std::path::PathBuf;

use tracing::{error, info, warn};

use super::{Beat, BeatError, BeatOptions, shared::encode};
use crate::{
    broker::Bucket,
    clock,
    plan::{RELOAD_KEY, ReloadStatus},
    schedules::{self, Diagnostic, JobSet},
};

/// How many of a broken edit's errors are shared.
const SHARED_ERRORS: usize = 20;

/// Why the schedules are read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadCause {
    /// A file changed.
    FilesChanged,
    /// SIGHUP.
    Signal,
}

/// What was read and is not yet in force everywhere. Kept until the broker has taken it.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// The new set; `None` keeps the old one.
    pub(super) set: Option<JobSet>,
    cause: Option<ReloadCause>,
    errors: Vec<String>,
}

/// Which jobs are in force after a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InForce {
    /// Those that were read.
    Others,
    /// Those from before.
    AsBefore,
}

impl Wanted {
    /// Puts `set` in force without being asked by anybody.
    pub(super) fn set(set: JobSet) -> Self {
        Self {
            set: Some(set),
            cause: None,
            errors: Vec::new(),
        }
    }
}

impl Beat {
    /// Reads the schedules again. They come into force with the next turn.
    pub(super) async fn reload(&mut self, cause: ReloadCause) {
        if let Some(wanted) = read(&self.options, cause).await {
            self.wanted = Some(wanted);
        }
    }

    /// Puts in force what was read. Repeated until the broker has taken all of it.
    pub(super) async fn bring_into_force(&mut self) -> Result<InForce, BeatError> {
        let Some(wanted) = self.wanted.clone() else {
            return Ok(InForce::AsBefore);
        };
        let in_force = match wanted.set {
            Some(set) => {
                self.adopt(set).await?;
                InForce::Others
            }
            None => InForce::AsBefore,
        };
        if wanted.cause.is_some() {
            // Somebody is at it.
            self.differing = None;
        }
        let home = match &self.options.own {
            Some(own) => own.home().await?,
            None => None,
        };
        let status = ReloadStatus {
            beat: self.options.id.clone(),
            at: clock::now(),
            schedules: self.options.schedules.clone(),
            jobs: self.jobs.len(),
            errors: wanted.errors,
            home,
            differing: self.differing.clone(),
        };
        let value = encode(RELOAD_KEY, &status)?;
        self.broker.put(Bucket::State, RELOAD_KEY, value).await?;
        self.wanted = None;
        if let (Some(cause), true) = (wanted.cause, status.errors.is_empty()) {
            info!(target: "orchestrator::beat", ?cause, jobs = status.jobs, "schedules reloaded");
        }
        Ok(in_force)
    }
}

/// Reads the schedules again, and tells what is wrong with them. `None`: no reading was possible.
pub(super) async fn read(options: &BeatOptions, cause: ReloadCause) -> Option<Wanted> {
    let read = read_files(options.schedules.clone(), cause).await;
    let errors = read.as_ref().map_or(&[][..], |read| &read.errors);
    options.pulse.has_reloaded(errors.first().map(|first| {
        format!("the schedules have errors, those read before are in force: {first}")
    }));
    read
}

async fn read_files(sources: Vec<PathBuf>, cause: ReloadCause) -> Option<Wanted> {
    let now = clock::now();
    let read = tokio::task::spawn_blocking(move || schedules::load(&sources, now)).await;
    match read {
        Ok(Ok(loaded)) => {
            for warning in &loaded.warnings {
                warn!(target: "orchestrator::beat", place = warning.location(),
                    "{}", warning.message());
            }
            Some(Wanted {
                set: Some(loaded.set),
                cause: Some(cause),
                errors: Vec::new(),
            })
        }
        Ok(Err(errors)) => {
            let errors: Vec<String> = errors.errors().map(line).collect();
            error!(target: "orchestrator::beat", ?cause, errors = errors.len(),
                first = errors.first(),
                "the schedules have errors; the old set stays in force (see `orchestrator check`)");
            Some(Wanted {
                set: None,
                cause: Some(cause),
                errors: errors.into_iter().take(SHARED_ERRORS).collect(),
            })
        }
        Err(panicked) => {
            error!(target: "orchestrator::beat", %panicked,
                "the schedules could not be read; the old set stays in force");
            None
        }
    }
}

/// A finding in one line: `crawler.toml:3:1: unknown key `evry`; is `every` meant?`
fn line(finding: &Diagnostic) -> String {
    let mut text = finding
        .location()
        .map_or_else(String::new, |place| format!("{place}: "));
    text.push_str(finding.message());
    if let Some(help) = finding.help() {
        text.push_str("; ");
        text.push_str(help);
    }
    text
}
