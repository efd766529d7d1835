//! Reads and writes what beats share.

use serde::{Serialize, de::DeserializeOwned};
use tracing::{error, warn};
use uuid::Uuid;

use super::BeatError;
use crate::{
    broker::{Broker, BrokerError, Bucket, Durability, Entry, Revision, SharedBroker},
    job::JobName,
    plan::{IMPORTED_PREFIX, INSTALLATION_KEY, WATERMARK_KEY, Watermark},
};

/// How many of the things that are restored are named.
const NAMED: usize = 50;

/// Says what was shared again because the broker had lost it.
pub(super) fn tell_restored(what: &str, names: &[String]) {
    if !names.is_empty() {
        let named = names.get(..NAMED).unwrap_or(names).join(" ");
        warn!(target: "orchestrator::beat", what, count = names.len(), named, "restored from this beat's own copy");
    }
}

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
    Ok(entry.as_ref().and_then(|entry| as_name(&entry.value)))
}

/// The name of an installation; `None` for what no beat and no import gives one.
fn as_name(value: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(value).ok()?;
    let id = name.strip_prefix(IMPORTED_PREFIX).unwrap_or(name);
    id.parse::<Uuid>().ok()?;
    Some(name.to_owned())
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

/// Names for a line of the log, a few of them.
pub(super) fn names<'a>(jobs: impl Iterator<Item = &'a JobName>) -> String {
    const TOLD: usize = 20;
    let mut jobs = jobs.map(JobName::as_str);
    let told: Vec<_> = jobs.by_ref().take(TOLD).collect();
    let more = jobs.count();
    match more {
        0 => told.join(", "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}

pub(super) fn encode(key: &str, value: &impl Serialize) -> Result<Vec<u8>, BeatError> {
    serde_json::to_vec(value).map_err(|error| BeatError::NotEncoded {
        key: key.to_owned(),
        reason: error.to_string(),
    })
}

/// Writes `value` where a spoilt one of that revision stands. One that was written since stays, and so does the spoilt one
/// where this beat may not write.
pub(super) async fn write_anew(
    broker: &SharedBroker,
    key: &str,
    spoilt: Revision,
    value: Vec<u8>,
) -> Result<(), BeatError> {
    let expected = Some(spoilt);
    let written = broker
        .compare_and_set(Bucket::State, key, expected, value, Durability::Power)
        .await;
    match written {
        // Or written since: that is heard of.
        Ok(_) => Ok(()),
        // No reason to fire no tick.
        Err(refused @ BrokerError::NotPermitted { .. }) => {
            let help = refused.help();
            error!(target: "orchestrator::beat", key, error = %refused, help, "it stays as it is");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installations_are_named_by_beats_and_imports_alone() {
        let id = "01936b2e-7c1a-7d54-8a3f-0123456789ab";
        for name in [id.to_owned(), format!("{IMPORTED_PREFIX}{id}")] {
            assert_eq!(as_name(name.as_bytes()), Some(name));
        }
        for none in [b"".as_slice(), b"{}", b"imported-", b"x", &[0xff]] {
            assert_eq!(as_name(none), None, "{none:?}");
        }
    }
}
