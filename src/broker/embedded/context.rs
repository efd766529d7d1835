//! What every part needs to say what went wrong, and to read stored forms back.

use std::{fmt::Display, path::Path};

use crate::{broker::BrokerError, store::StoreError};

/// Names the broker in errors.
#[derive(Debug)]
pub(super) struct Context {
    directory: String,
    describe: String,
}

impl Context {
    pub(super) fn new(directory: &Path) -> Self {
        let directory = directory.display().to_string();
        Self {
            describe: format!("the embedded broker in {directory}"),
            directory,
        }
    }

    pub(super) fn describe(&self) -> &str {
        &self.describe
    }

    /// An error that trying again does not mend. Store errors are of this kind: they are final.
    pub(super) fn failed(&self, operation: impl Display, reason: impl Display) -> BrokerError {
        BrokerError::Failed {
            broker: self.describe.clone(),
            operation: operation.to_string(),
            reason: reason.to_string(),
        }
    }

    pub(super) fn full(&self, operation: impl Display, reason: impl Display) -> BrokerError {
        BrokerError::Full {
            broker: self.describe.clone(),
            operation: operation.to_string(),
            reason: reason.to_string(),
        }
    }

    pub(super) fn unreachable(&self, operation: impl Display, reason: impl Display) -> BrokerError {
        BrokerError::Unreachable {
            broker: self.describe.clone(),
            operation: operation.to_string(),
            reason: reason.to_string(),
        }
    }

    /// Something in the store is not what this program writes.
    pub(super) fn damaged(&self, what: &str, reason: impl Display) -> StoreError {
        StoreError::Damaged {
            directory: self.directory.clone(),
            reason: format!("{what}: {reason}"),
        }
    }
}

/// The first eight bytes as a number, and the rest.
pub(super) fn split_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}
