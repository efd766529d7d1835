//! One process at a time: a locked file in the directory that says who holds it.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use super::StoreError;
use crate::clock;

const FILE_NAME: &str = "LOCK";

/// More than the file ever holds.
const MAX_HOLDER_BYTES: u64 = 200;

/// Held until dropped, or until the process ends in any way.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    file: File,
}

impl DirectoryLock {
    /// Takes the lock or says at once who has it.
    pub(super) fn acquire(directory: &Path) -> Result<Self, StoreError> {
        let fail =
            |error: std::io::Error| StoreError::from_io(directory, "locking the directory", &error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(directory.join(FILE_NAME))
            .map_err(fail)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(StoreError::Held {
                    directory: directory.display().to_string(),
                    holder: read_holder(&mut file),
                });
            }
            Err(error) => return Err(fail(error.into())),
        }
        write_holder(&mut file).map_err(fail)?;
        Ok(Self { file })
    }
}

impl Drop for DirectoryLock {
    /// Closing the file is not enough: a child of another thread that has not executed its program yet has it as well.
    fn drop(&mut self) {
        // Should it fail, closing it follows.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

fn write_holder(file: &mut File) -> std::io::Result<()> {
    let since = clock::now().format("%Y-%m-%dT%H:%M:%SZ");
    let holder = format!("process {} (since {since})", std::process::id());
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(holder.as_bytes())
}

fn read_holder(file: &mut File) -> String {
    let mut holder = String::new();
    match file.take(MAX_HOLDER_BYTES).read_to_string(&mut holder) {
        Ok(_) if holder.starts_with("process ") => holder.trim_end().to_owned(),
        // It has the lock but has not written its name yet.
        Ok(_) | Err(_) => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_free_though_a_child_has_a_copy_still() {
        let directory = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::acquire(directory.path()).unwrap();
        let _copy = lock.file.try_clone().unwrap();
        drop(lock);
        DirectoryLock::acquire(directory.path()).unwrap();
    }
}
