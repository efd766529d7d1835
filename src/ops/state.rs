//! What an installation knows, in one file: to move it to another broker, and to begin again with it
//! where the broker lost its data.

mod import;

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use super::OpsError;
use crate::{
    broker::{self, Broker, Bucket, DeadLetter},
    job::QueueName,
    plan::{
        COPY_KEY, DEFINITION_PREFIX, INSTALLATION_KEY, LEADER_KEY, Leader, RELOAD_KEY,
        SNAPSHOTS_KEY, WATERMARK_KEY,
    },
    run::RunMessage,
};

pub use import::{Import, import_state};

/// The version of the file that this build writes and reads.
const VERSION: u32 = 1;
/// In front of every file, before the checksum.
const MAGIC: &str = "orchestrator-state crc32c=";
/// How many stored runs or dead letters are asked for at once.
const PAGE: usize = 500;

/// What an installation knows: definitions, watermark, states, pauses and last runs; the runs that wait or
/// are being executed; the dead letters. Not the records of runs that have ended, nor their logs.
#[derive(Debug, Serialize, Deserialize)]
pub struct InstallationState {
    version: u32,
    /// When it was read.
    pub exported_at: DateTime<Utc>,
    /// From which broker.
    pub exported_from: String,
    /// Whether runs were left out because there were too many.
    #[serde(default)]
    pub runs_left_out: bool,
    values: Vec<StateValue>,
    runs: Vec<StoredRun>,
    dead: Vec<DeadLetter>,
}

/// How much is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    Whole,
    /// What cannot be had from the schedules: definitions of jobs with stored runs only, and of those the first
    /// [`Extent::RUNS`].
    Snapshot,
}

impl Extent {
    /// How many runs a snapshot holds.
    pub const RUNS: usize = 10_000;

    fn runs(self) -> usize {
        match self {
            Self::Whole => usize::MAX,
            Self::Snapshot => Self::RUNS,
        }
    }
}

/// What is the same in every version.
#[derive(Debug, Deserialize)]
struct Head {
    version: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct StateValue {
    key: String,
    value: Box<RawValue>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredRun {
    queue: QueueName,
    message: Box<RawValue>,
    /// What became of it so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    record: Option<Box<RawValue>>,
    /// Where it was published, if others could publish there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    subject: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

/// How much was exported or imported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Values of the state bucket.
    pub values: usize,
    /// Runs that wait or are being executed.
    pub runs: usize,
    /// Dead letters.
    pub dead: usize,
    /// Runs that nobody signed, where what is published is signed: they are among the dead letters.
    #[serde(skip_serializing_if = "is_none")]
    pub unsigned: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_none(count: &usize) -> bool {
    *count == 0
}

/// Why a file is not one.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NotAState {
    /// Something else.
    #[error("it does not begin like a file of `orchestrator state export`")]
    Foreign,
    /// Cut off or changed.
    #[error("it is damaged: its checksum is not that of its content")]
    Damaged,
    /// From another version.
    #[error("this version cannot read it: {0}")]
    Version(String),
}

impl InstallationState {
    /// How much it is.
    pub fn amount(&self) -> Amount {
        Amount {
            values: self.values.len(),
            runs: self.runs.len(),
            dead: self.dead.len(),
            unsigned: 0,
        }
    }

    /// As a file: a line with a checksum, and JSON.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let body = serde_json::to_vec(self)?;
        let mut file = format!("{MAGIC}{:08x}\n", crc32c::crc32c(&body)).into_bytes();
        file.extend_from_slice(&body);
        file.push(b'\n');
        Ok(file)
    }

    /// Reads a file.
    pub fn decode(file: &[u8]) -> Result<Self, NotAState> {
        let rest = file
            .strip_prefix(MAGIC.as_bytes())
            .ok_or(NotAState::Foreign)?;
        let (sum, rest) = rest.split_first_chunk::<8>().ok_or(NotAState::Damaged)?;
        let body = rest
            .strip_prefix(b"\n")
            .and_then(|rest| rest.strip_suffix(b"\n"));
        let body = body.ok_or(NotAState::Damaged)?;
        let sum = std::str::from_utf8(sum).ok();
        let sum = sum.and_then(|sum| u32::from_str_radix(sum, 16).ok());
        if sum != Some(crc32c::crc32c(body)) {
            return Err(NotAState::Damaged);
        }
        let foreign = |error: serde_json::Error| NotAState::Version(error.to_string());
        // First of all: the rest may look different in another version.
        match serde_json::from_slice(body).map_err(foreign)? {
            Head { version: VERSION } => serde_json::from_slice(body).map_err(foreign),
            Head { version } => Err(NotAState::Version(format!(
                "it has version {version}, and this one reads {VERSION}"
            ))),
        }
    }
}

/// Reads what an installation knows, also while it is at work: a run of which it knows too little is
/// refused as known already when it is published again.
pub async fn export_state(
    broker: &dyn Broker,
    extent: Extent,
    now: DateTime<Utc>,
) -> Result<InstallationState, OpsError> {
    // Before the runs: it must not claim more than they show.
    let watermark = broker.get(Bucket::State, WATERMARK_KEY).await?;
    let (runs, with_runs) = stored_runs(broker, extent.runs()).await?;
    let is_wanted = |key: &str| match key.strip_prefix(DEFINITION_PREFIX) {
        Some(job) if extent == Extent::Snapshot => with_runs.contains(job),
        _ => key != WATERMARK_KEY && !is_of_a_process(key),
    };
    let mut values = Vec::new();
    for entry in broker::list(broker, Bucket::State, "").await? {
        if is_wanted(&entry.key)
            && let Ok(value) = serde_json::from_slice(&entry.value)
        {
            values.push(StateValue {
                key: entry.key,
                value,
            });
        }
    }
    // The last one: whoever finds it finds the others.
    if let Some(entry) = watermark
        && let Ok(value) = serde_json::from_slice(&entry.value)
    {
        values.push(StateValue {
            key: entry.key,
            value,
        });
    }
    Ok(InstallationState {
        version: VERSION,
        exported_at: now,
        exported_from: broker.describe(),
        values,
        runs_left_out: runs.len() >= extent.runs(),
        runs,
        dead: dead_letters(broker).await?,
    })
}

/// What beats say of themselves: it is no part of what an installation knows.
fn is_of_a_process(key: &str) -> bool {
    [
        LEADER_KEY,
        COPY_KEY,
        RELOAD_KEY,
        INSTALLATION_KEY,
        SNAPSHOTS_KEY,
    ]
    .contains(&key)
}

/// The stored runs, at most `limit`, and the names of their jobs.
async fn stored_runs(
    broker: &dyn Broker,
    limit: usize,
) -> Result<(Vec<StoredRun>, HashSet<String>), OpsError> {
    let (mut runs, mut jobs, mut from) = (Vec::new(), HashSet::new(), 0);
    loop {
        let page = broker.pending(from, PAGE).await?;
        let Some(last) = page.last().filter(|_| runs.len() < limit) else {
            return Ok((runs, jobs));
        };
        from = last.sequence + 1;
        for stored in page {
            // What nobody understands becomes a dead letter where it is.
            let Ok(message) = RunMessage::decode(&stored.payload) else {
                continue;
            };
            let job = message.run_id.job().to_string();
            let record = broker.get(Bucket::Runs, &message.run_id.key()).await?;
            let Ok(message) = serde_json::from_slice(&stored.payload) else {
                continue;
            };
            if runs.len() == limit {
                break;
            }
            jobs.insert(job);
            runs.push(StoredRun {
                queue: stored.queue,
                message,
                record: record.and_then(|entry| serde_json::from_slice(&entry.value).ok()),
                subject: stored.subject,
                signature: stored.signature,
            });
        }
    }
}

async fn dead_letters(broker: &dyn Broker) -> Result<Vec<DeadLetter>, OpsError> {
    let (mut letters, mut below) = (Vec::new(), None);
    loop {
        let page = broker.dead_letters(below, PAGE).await?;
        let Some((last, _)) = page.last() else {
            letters.reverse();
            return Ok(letters);
        };
        below = Some(*last);
        letters.extend(page.into_iter().map(|(_, letter)| letter));
    }
}

/// Whether a beat has ever been at work on this broker.
pub async fn has_state(broker: &dyn Broker) -> Result<bool, OpsError> {
    Ok(broker.get(Bucket::State, WATERMARK_KEY).await?.is_some())
}

/// Refuses what must not be done while a beat fires: one whose lease is not over, as it says itself.
pub async fn refuse_beside_a_beat(broker: &dyn Broker, now: DateTime<Utc>) -> Result<(), OpsError> {
    let entry = broker.get(Bucket::State, LEADER_KEY).await?;
    let leader = entry.and_then(|entry| serde_json::from_slice::<Leader>(&entry.value).ok());
    match leader.as_ref().and_then(|leader| leader.at_work(now)) {
        Some(beat) => Err(OpsError::BeatAtWork {
            beat: beat.to_owned(),
            broker: broker.describe(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
