//! Values that somebody vouches for: where others can write to the broker, a value says itself whose it is.

use super::{Broker, Bucket, Entry};
use crate::run::Standing;

/// The value as it is to be stored under `key`: signed if the broker was given a key.
pub fn sealed(broker: &dyn Broker, bucket: Bucket, key: &str, value: Vec<u8>) -> Vec<u8> {
    match broker.authority() {
        Some(authority) => authority.sealed(&broker.address(bucket, key), value),
        None => value,
    }
}

/// What a value says, if somebody vouches for it who may publish. Where nothing is signed, everybody may.
pub fn opened(broker: &dyn Broker, bucket: Bucket, entry: &Entry) -> Result<Vec<u8>, Standing> {
    match broker.authority() {
        Some(authority) => authority.opened(&broker.address(bucket, &entry.key), &entry.value),
        None => Ok(entry.value.clone()),
    }
}
