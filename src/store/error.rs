//! What a store could not do.

use std::{io, path::Path};

use thiserror::Error;

use super::open::is_locked;

/// Names the directory and the mend. All but [`StoreError::Held`] are final for the handle.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Somebody else has it open.
    #[error("{directory} is held by {holder}: stop that one, or use another data directory")]
    Held {
        /// The directory of the store.
        directory: String,
        /// `process 1234 (since 2026-11-23T02:30:00Z)`.
        holder: String,
    },
    /// No right to read or write it.
    #[error(
        "{directory} cannot be used: {operation}: {reason}; give this user the right to read and \
         write there, or use another data directory"
    )]
    NotPermitted {
        /// The directory of the store.
        directory: String,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        reason: String,
    },
    /// There cannot be a directory.
    #[error("{directory} cannot be a data directory: {reason}; use another one")]
    NoDirectory {
        /// The directory of the store.
        directory: String,
        /// What the system said.
        reason: String,
    },
    /// On a file system that cannot be written.
    #[error(
        "{directory} is on a read-only file system ({operation}): mount it writable, or use \
         another data directory"
    )]
    ReadOnly {
        /// The directory of the store.
        directory: String,
        /// What was tried.
        operation: &'static str,
    },
    /// No space left.
    #[error(
        "the disk of {directory} is full ({operation}: {reason}): nothing more is accepted; make \
         room and start again"
    )]
    DiskFull {
        /// The directory of the store.
        directory: String,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        reason: String,
    },
    /// The files are not what was written.
    #[error(
        "the store in {directory} is damaged ({reason}): move the directory away and start again, \
         or put a copy of it back"
    )]
    Damaged {
        /// The directory of the store.
        directory: String,
        /// What was found.
        reason: String,
    },
    /// Somebody took the files of an open store away.
    #[error(
        "{directory} was deleted, moved or replaced while it was in use: nothing more is accepted; \
         start again"
    )]
    Deleted {
        /// The directory of the store.
        directory: String,
    },
    /// Any other failure of the system.
    #[error(
        "the store in {directory} failed: {operation}: {reason}; look at the disk and at what lies there, then start \
         again"
    )]
    Io {
        /// The directory of the store.
        directory: String,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        reason: String,
    },
    /// It was closed, in order.
    #[error("the store in {directory} is closed")]
    Closed {
        /// The directory of the store.
        directory: String,
    },
}

impl StoreError {
    pub(super) fn from_io(directory: &Path, operation: &'static str, error: &io::Error) -> Self {
        let reason = error.to_string();
        let directory = directory.display().to_string();
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted {
                directory,
                operation,
                reason,
            },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly {
                directory,
                operation,
            },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull {
                directory,
                operation,
                reason,
            },
            _ => Self::Io {
                directory,
                operation,
                reason,
            },
        }
    }

    /// The same for an error of creating the directory: where it is to be is the user's choice.
    pub(super) fn from_creating(directory: &Path, error: &io::Error) -> Self {
        match Self::from_io(directory, "creating the directory", error) {
            Self::Io {
                directory, reason, ..
            } => Self::NoDirectory { directory, reason },
            other => other,
        }
    }

    /// The same for an error of opening. sled is always opened with the same settings, so those in the
    /// directory that it does not support were not written by it.
    pub(super) fn from_opening(directory: &Path, error: &sled::Error) -> Self {
        let text = || directory.display().to_string();
        match error {
            error if is_locked(error) => Self::Held {
                directory: text(),
                holder: "a process that has its file `db` open".to_owned(),
            },
            sled::Error::Unsupported(_) | sled::Error::ReportableBug(_) => Self::Damaged {
                directory: text(),
                reason: error.to_string(),
            },
            _ => Self::from_sled(directory, "opening the store", error),
        }
    }

    /// The same for an error of looking at all that is stored. A file that is not there is one that the data name, which
    /// then are not what was written.
    pub(super) fn from_looking(directory: &Path, error: &sled::Error) -> Self {
        let operation = "reading the store";
        match error {
            sled::Error::Io(missing) if missing.kind() == io::ErrorKind::NotFound => {
                Self::Damaged {
                    directory: directory.display().to_string(),
                    reason: format!("{operation}: it names a file that is not there"),
                }
            }
            error => Self::from_sled(directory, operation, error),
        }
    }

    pub(super) fn from_sled(
        directory: &Path,
        operation: &'static str,
        error: &sled::Error,
    ) -> Self {
        match error {
            sled::Error::Io(error) => Self::from_io(directory, operation, error),
            sled::Error::Corruption { .. } | sled::Error::CollectionNotFound(_) => Self::Damaged {
                directory: directory.display().to_string(),
                reason: format!("{operation}: {error}"),
            },
            sled::Error::Unsupported(_) | sled::Error::ReportableBug(_) => Self::Io {
                directory: directory.display().to_string(),
                operation,
                reason: error.to_string(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen of stores that were cut off, or that hold noise: sled takes what it finds for the name of one of its files.
    #[test]
    fn data_that_name_a_missing_file_are_damaged() {
        let looking = |kind: io::ErrorKind| {
            StoreError::from_looking(Path::new("d"), &sled::Error::Io(kind.into()))
        };
        let missing = looking(io::ErrorKind::NotFound);
        assert!(matches!(missing, StoreError::Damaged { .. }), "{missing}");
        let broken = looking(io::ErrorKind::UnexpectedEof);
        assert!(matches!(broken, StoreError::Io { .. }), "{broken}");
    }
}
