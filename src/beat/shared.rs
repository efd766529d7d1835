//! Reads and writes what beats share.

use serde::{Serialize, de::DeserializeOwned};
use tracing::warn;

use super::BeatError;
use crate::{
    broker::{Broker, Bucket, Entry, Revision},
    job::JobName,
    plan::{INSTALLATION_KEY, WATERMARK_KEY, Watermark},
};

pub(super) async fn read_watermark(
    broker: &dyn Broker,
) -> Result<Option<(Watermark, Revision)>, BeatError> {
    let found = broker.get(Bucket::State, WATERMARK_KEY).await?;
    point!("beat-watermark-read");
    let Some(entry) = found else {
        return Ok(None);
    };
    match serde_json::from_slice(&entry.value) {
        Ok(watermark) => Ok(Some((watermark, entry.revision))),
        Err(error) => Err(BeatError::Foreign {
            key: WATERMARK_KEY.to_owned(),
            reason: error.to_string(),
        }),
    }
}

pub(super) async fn read_installation(broker: &dyn Broker) -> Result<Option<String>, BeatError> {
    let entry = broker.get(Bucket::State, INSTALLATION_KEY).await?;
    point!("beat-installation-read");
    Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
}

/// A value under `PREFIX.NAME`; what cannot be read is told and passed over.
pub(super) fn read_job<T: DeserializeOwned>(entry: &Entry, prefix: &str) -> Option<(JobName, T)> {
    let name = entry.key.strip_prefix(prefix)?.parse().ok()?;
    match serde_json::from_slice(&entry.value) {
        Ok(value) => Some((name, value)),
        Err(error) => {
            warn!(target: "orchestrator::beat", key = entry.key, %error, "a shared value is not understood");
            None
        }
    }
}

pub(super) fn encode(key: &str, value: &impl Serialize) -> Result<Vec<u8>, BeatError> {
    serde_json::to_vec(value).map_err(|error| BeatError::Foreign {
        key: key.to_owned(),
        reason: error.to_string(),
    })
}
