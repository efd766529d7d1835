//! The file in which a job may leave its result, and the private directory of these files.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rustix::fs::{Gid, OFlags, Uid, fchown};
use serde_json::Value;
use thiserror::Error;

use super::{
    ExecError,
    held::{self, HeldDirectory},
};
use crate::run::{DEEPEST, is_shallow};

/// Bytes of a result at most.
const MAX_BYTES: u64 = 64 * 1024;

/// A directory that only this user can enter; removed with everything in it when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    directory: HeldDirectory,
    /// Made when it is needed: others can reach the files in it, each of which is one user's.
    shared: Mutex<Option<HeldDirectory>>,
    next: AtomicU64,
}

/// A path at which nothing exists yet, or a file of another user; what a job puts there is removed when this is dropped.
#[derive(Debug)]
pub(super) struct ResultFile {
    path: PathBuf,
    /// The file that was made for another user. Whatever that user does, no other one is read.
    made: Option<File>,
    /// The job has ended, and there was none.
    is_absent: AtomicBool,
}

/// Why a result is left out.
#[derive(Debug, Error)]
pub(super) enum Unusable {
    #[error("the result is left out: ORCHESTRATOR_RESULT has more than 64 KiB")]
    TooLarge,
    #[error("the result is left out: ORCHESTRATOR_RESULT is nested deeper than {DEEPEST} levels")]
    TooDeep,
    #[error("the result is left out: ORCHESTRATOR_RESULT is not JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("the result is left out: ORCHESTRATOR_RESULT is not a regular file")]
    NotAFile,
    #[error("the result is left out: ORCHESTRATOR_RESULT cannot be read: {0}")]
    Unreadable(io::Error),
}

impl Scratch {
    pub(super) fn create() -> Result<Self, ExecError> {
        let parent = std::env::temp_dir();
        held::remove_left_behind(&parent);
        let path = HeldDirectory::name_in(&parent);
        let shown = path.display().to_string();
        let directory = HeldDirectory::create(path, 0o700);
        Ok(Self {
            shared: Mutex::default(),
            directory: directory.map_err(|source| ExecError::Scratch {
                path: shown,
                source,
            })?,
            next: AtomicU64::new(0),
        })
    }

    pub(super) fn file(&self) -> ResultFile {
        ResultFile {
            path: self.directory.path().join(self.name()),
            made: None,
            is_absent: AtomicBool::new(false),
        }
    }

    /// A file that is there already, because its user may make none in this directory: so nothing else can be put in its
    /// place, and nothing is left but files.
    pub(super) fn file_of(&self, (uid, gid): (Uid, Gid)) -> io::Result<ResultFile> {
        let path = self.shared()?.join(self.name());
        let mut options = OpenOptions::new();
        let made = options.read(true).write(true).create_new(true).mode(0o600);
        let file = ResultFile {
            made: Some(made.open(&path)?),
            path,
            is_absent: AtomicBool::new(false),
        };
        if let Some(made) = &file.made {
            fchown(made, Some(uid), Some(gid))?;
        }
        Ok(file)
    }

    /// The directory of files of other users.
    fn shared(&self) -> io::Result<PathBuf> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*shared {
            return Ok(made.path().to_owned());
        }
        let path = HeldDirectory::name_in(&std::env::temp_dir());
        let made = HeldDirectory::create(path, 0o711)?;
        Ok(shared.insert(made).path().to_owned())
    }

    fn name(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("result-{number}.json")
    }
}

impl ResultFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The result, if the job left one.
    pub(super) fn read(&self) -> Result<Option<Value>, Unusable> {
        let found = match &self.made {
            Some(made) => made.try_clone(),
            None => open(&self.path),
        };
        let file = match found {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.is_absent.store(true, Ordering::Relaxed);
                return Ok(None);
            }
            Err(error) => return Err(Unusable::Unreadable(error)),
        };
        if !file.metadata().map_err(Unusable::Unreadable)?.is_file() {
            return Err(Unusable::NotAFile);
        }
        let mut bytes = Vec::new();
        let mut limited = file.take(MAX_BYTES + 1);
        limited
            .read_to_end(&mut bytes)
            .map_err(Unusable::Unreadable)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Unusable::TooLarge);
        }
        if bytes.trim_ascii().is_empty() {
            return Ok(None);
        }
        let value = serde_json::from_slice(&bytes).map_err(Unusable::NotJson)?;
        match is_shallow(&value) {
            true => Ok(Some(value)),
            false => Err(Unusable::TooDeep),
        }
    }
}

impl Drop for ResultFile {
    fn drop(&mut self) {
        if !self.is_absent.load(Ordering::Relaxed) {
            // What cannot be removed now goes with the directory.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens without waiting for the other end of a pipe and without following a link.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn takes_json_and_refuses_the_rest() {
        let scratch = Scratch::create().unwrap();
        let file = scratch.file();
        assert_eq!(file.read().unwrap(), None);
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        let large = format!("\"{}\"", "x".repeat(64 * 1024));
        for (text, expected) in [
            ("{\"pages\": 3}", Ok(Some(json!({"pages": 3})))),
            ("  \n", Ok(None)),
            ("pages: 3", Err("not JSON")),
            (large.as_str(), Err("more than 64 KiB")),
            (deep.as_str(), Err("deeper than 64 levels")),
        ] {
            std::fs::write(file.path(), text).unwrap();
            match (file.read(), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn a_link_is_not_followed() {
        let scratch = Scratch::create().unwrap();
        let file = scratch.file();
        std::os::unix::fs::symlink("/etc/hostname", file.path()).unwrap();
        assert!(matches!(file.read(), Err(Unusable::Unreadable(_))));
    }

    #[test]
    fn nothing_stays() {
        let scratch = Scratch::create().unwrap();
        let directory = scratch.directory.path().to_owned();
        let file = scratch.file();
        std::fs::write(file.path(), "1").unwrap();
        let path = file.path().to_owned();
        drop(file);
        assert!(!path.exists() && directory.exists());
        drop(scratch);
        assert!(!directory.exists());
    }
}
