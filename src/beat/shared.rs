//! Reads and writes what beats share.

use serde::{Serialize, de::DeserializeOwned};
use tracing::error;

use super::BeatError;
use crate::{
    broker::{Broker, Bucket, Entry, Revision},
    job::JobName,
    plan::{INSTALLATION_KEY, WATERMARK_KEY, Watermark},
};

/// The shared watermark, with the version that has to be replaced to move it; no watermark but a version: what is
/// there is none.
pub(super) async fn read_watermark(
    broker: &dyn Broker,
) -> Result<(Option<Watermark>, Option<Revision>), BeatError> {
    let entry = broker.get(Bucket::State, WATERMARK_KEY).await?;
    point!("beat-watermark-read");
    let watermark = entry.as_ref().and_then(read::<Watermark>);
    Ok((watermark, entry.map(|entry| entry.revision)))
}

pub(super) async fn read_installation(broker: &dyn Broker) -> Result<Option<String>, BeatError> {
    let entry = broker.get(Bucket::State, INSTALLATION_KEY).await?;
    point!("beat-installation-read");
    Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
}

/// A shared value. One that is not understood was written by no beat of this version: it is told, and counts for as
/// much as none.
pub(super) fn read<T: DeserializeOwned>(entry: &Entry) -> Option<T> {
    match serde_json::from_slice(&entry.value) {
        Ok(value) => Some(value),
        Err(error) => {
            error!(target: "orchestrator::beat", key = entry.key, %error,
                "a shared value is not understood, and is taken for none: who may write to the broker wrote over it, \
                 or a newer version did");
            None
        }
    }
}

/// A value under `PREFIX.NAME`, if it is understood.
pub(super) fn read_job<T: DeserializeOwned>(entry: &Entry, prefix: &str) -> Option<(JobName, T)> {
    let name = entry.key.strip_prefix(prefix)?.parse().ok()?;
    Some((name, read(entry)?))
}

pub(super) fn encode(key: &str, value: &impl Serialize) -> Result<Vec<u8>, BeatError> {
    serde_json::to_vec(value).map_err(|error| BeatError::NotEncoded {
        key: key.to_owned(),
        reason: error.to_string(),
    })
}
