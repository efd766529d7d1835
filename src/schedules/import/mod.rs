//! Schedules of other schedulers → a schedule file: crontabs, Celery's `beat_schedule`, Kubernetes
//! CronJobs.
//!
//! Pure: text in, TOML and findings out. Each format has a module that reads it into drafts; `write`
//! renders these, lets the loader itself read every one, and turns what it refuses into a comment. So
//! the result always passes `check`. What cannot be carried over stands both in the TOML, at its job,
//! and among the findings. No module here touches the disk, or knows how a job is executed.

mod celery;
mod crontab;
mod document;
mod kubernetes;
mod name;
mod write;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use thiserror::Error;

use super::diagnostic::Diagnostic;
use crate::job::JobName;

pub use celery::Target;
pub use crontab::Users;

/// No input is larger, in bytes.
pub const MAX_BYTES: usize = 4 << 20;

/// What is imported, and how.
#[derive(Debug, Clone, Copy)]
pub struct Input<'i> {
    /// How messages call the file.
    pub name: &'i str,
    /// Its text; see [`text`].
    pub text: &'i str,
    /// The zone of schedules that name none.
    pub timezone: Option<Tz>,
    /// Decides about warnings only.
    pub now: DateTime<Utc>,
}

/// A schedule file and what is to be said about it.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The file; it passes `check`.
    pub toml: String,
    /// The jobs in it, in the order of the source.
    pub jobs: Vec<JobName>,
    /// How many entries are in the file as comments only.
    pub left_out: usize,
    /// Errors: what was left out. Warnings: what was not carried over of the rest.
    pub findings: Vec<Diagnostic>,
}

/// Why nothing could be imported.
#[derive(Debug, Clone, Error)]
#[error("nothing could be imported: {diagnostic}")]
pub struct ImportError {
    /// The place, the mistake and the mend.
    pub diagnostic: Box<Diagnostic>,
}

/// The bytes of a file as text; refused if they are none, or too many.
pub fn text(name: &str, bytes: Vec<u8>) -> Result<String, ImportError> {
    let refused = |message: String, help: &str| ImportError {
        diagnostic: Box::new(Diagnostic::without_place(
            Some(name),
            message,
            Some(help.to_owned()),
        )),
    };
    if bytes.len() > MAX_BYTES {
        let message = "it is larger than 4 MiB".to_owned();
        return Err(refused(message, "split it into several files"));
    }
    let line_of = |at: usize| bytes[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
    if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
        let message = format!("line {}: a NUL character; this is not a text", line_of(at));
        return Err(refused(message, "is it the right file?"));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) if text.trim_start_matches('\u{feff}').trim().is_empty() => {
            let message = "it is empty: there is nothing to import".to_owned();
            Err(refused(message, "is it the right file?"))
        }
        Ok(text) => Ok(text.trim_start_matches('\u{feff}').to_owned()),
        Err(error) => {
            let at = error.valid_up_to();
            let message = format!("line {}: byte {:#04x} is not UTF-8", line_of(at), bytes[at]);
            Err(refused(message, "convert the file, for example with iconv"))
        }
    }
}

/// A crontab.
pub fn crontab(input: &Input<'_>, users: Users) -> Result<Imported, ImportError> {
    crontab::read(input, users)
}

/// A JSON dump of Celery's `beat_schedule`.
pub fn celery(input: &Input<'_>, target: &Target) -> Result<Imported, ImportError> {
    celery::read(input, target)
}

/// CronJobs of Kubernetes, in YAML or JSON.
pub fn kubernetes(input: &Input<'_>) -> Result<Imported, ImportError> {
    kubernetes::read(input)
}
