//! Run ids: `JOB@20261123T023000Z` for a tick, `JOB@<uuid-v7>` for a run made by hand.
//!
//! The id of a tick's run is a function of job and tick, so doing a tick twice is harmless.

use std::{fmt, str::FromStr};

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::job::JobName;

const TICK_FORMAT: &str = "%Y%m%dT%H%M%SZ";

/// Identifies a run in every store, log and message.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId {
    job: JobName,
    part: Part,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    Tick(DateTime<Utc>),
    Manual(Uuid),
}

/// Not a run id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a run id; one looks like `JOB@20261123T023000Z` or `JOB@<uuid>`")]
pub struct RunIdError(String);

impl RunId {
    /// The id of the run of `job` for the tick at `tick` (whole seconds; a fraction is dropped).
    pub fn for_tick(job: JobName, tick: DateTime<Utc>) -> Self {
        let whole = DateTime::from_timestamp(tick.timestamp(), 0).unwrap_or(tick);
        Self {
            job,
            part: Part::Tick(whole),
        }
    }

    /// The id of a run made by hand; `unique` is a version 7 UUID, so ids sort by time.
    pub fn manual(job: JobName, unique: Uuid) -> Self {
        Self {
            job,
            part: Part::Manual(unique),
        }
    }

    /// The job that is run.
    pub fn job(&self) -> &JobName {
        &self.job
    }

    /// The tick, if the run comes from one.
    pub fn tick(&self) -> Option<DateTime<Utc>> {
        match self.part {
            Part::Tick(tick) => Some(tick),
            Part::Manual(_) => None,
        }
    }

    /// The part behind the `@`: sorts by time within each of the two kinds.
    pub fn suffix(&self) -> String {
        match self.part {
            Part::Tick(tick) => tick.format(TICK_FORMAT).to_string(),
            Part::Manual(unique) => unique.hyphenated().to_string(),
        }
    }

    /// The key of the run's record and log, `JOB.SUFFIX`: keys cannot carry an `@`, and names
    /// have no dot, so `JOB.` is the prefix of all runs of a job.
    pub fn key(&self) -> String {
        format!("{}.{}", self.job, self.suffix())
    }

    /// Reads [`RunId::key`] back.
    pub fn from_key(key: &str) -> Result<Self, RunIdError> {
        key.replacen('.', "@", 1).parse()
    }
}

impl FromStr for RunId {
    type Err = RunIdError;

    fn from_str(text: &str) -> Result<Self, RunIdError> {
        let refuse = || RunIdError(text.to_owned());
        let (job, suffix) = text.split_once('@').ok_or_else(refuse)?;
        let job: JobName = job.parse().map_err(|_| refuse())?;
        if suffix.len() == 16 {
            let tick = NaiveDateTime::parse_from_str(suffix, TICK_FORMAT).map_err(|_| refuse())?;
            return Ok(Self::for_tick(job, tick.and_utc()));
        }
        match Uuid::try_parse(suffix) {
            Ok(unique) if suffix.len() == 36 => Ok(Self::manual(job, unique)),
            Ok(_) | Err(_) => Err(refuse()),
        }
    }
}

impl TryFrom<String> for RunId {
    type Error = RunIdError;

    fn try_from(text: String) -> Result<Self, RunIdError> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> String {
        id.to_string()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}@{}", self.job, self.suffix()))
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_text_and_key() {
        for text in [
            "crawl-full@20261123T023000Z",
            "crawl-page@01936b2e-7c1a-7d54-8a3f-0123456789ab",
        ] {
            let id: RunId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
            assert_eq!(RunId::from_key(&id.key()).unwrap(), id);
        }
    }

    #[test]
    fn refuses_what_is_no_id() {
        for text in [
            "crawl",
            "crawl@",
            "Crawl@20261123T023000Z",
            "crawl@20261323T023000Z",
            "crawl@2026-11-23T02:30",
            "crawl@01936b2e7c1a7d548a3f0123456789ab",
        ] {
            assert!(text.parse::<RunId>().is_err(), "{text}");
        }
    }
}
