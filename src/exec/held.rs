//! Directories among the temporary files that are needed as long as this process lives. Each has a locked file: where
//! the lock is free its process was killed, and the next one to start removes it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, openat},
    process::geteuid,
};
use tracing::{debug, info, warn};

/// What their names begin with; a UUID follows.
const PREFIX: &str = "orchestrator-";
/// The locked file.
const LOCK: &str = "lock";
/// The same before it is locked: nobody looks for it there.
const UNLOCKED: &str = "lock.new";
/// How many a start removes at most.
const REMOVED: usize = 10_000;

/// A directory of this process, removed with everything in it when dropped.
#[derive(Debug)]
pub(super) struct HeldDirectory {
    path: PathBuf,
    /// `None` where the file system has no locks: then it stays if this process is killed.
    #[allow(dead_code, reason = "what counts is that it is held")]
    lock: Option<File>,
}

impl HeldDirectory {
    /// A new name in `parent`. Somebody may have made one by it: then it is not ours to use.
    pub(super) fn name_in(parent: &Path) -> PathBuf {
        parent.join(format!("{PREFIX}{}", uuid::Uuid::new_v4().simple()))
    }

    /// Makes `path`, with `mode` whatever the mask of this process is.
    pub(super) fn create(path: PathBuf, mode: u32) -> io::Result<Self> {
        DirBuilder::new().mode(0o700).create(&path)?;
        let mut held = Self { path, lock: None };
        held.lock = lock(&held.path)?;
        fs::set_permissions(&held.path, Permissions::from_mode(mode))?;
        Ok(held)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for HeldDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            warn!(%error, directory = %self.path.display(), "cannot remove the directory for result files");
        }
    }
}

fn lock(directory: &Path) -> io::Result<Option<File>> {
    let unlocked = directory.join(UNLOCKED);
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(&unlocked)?;
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        debug!(%error, directory = %directory.display(), "cannot be locked");
        return Ok(None);
    }
    // From here on others see it, and never without its lock.
    fs::rename(unlocked, directory.join(LOCK))?;
    Ok(Some(file))
}

/// Removes those in `parent` that processes of this user left behind when they were killed.
pub(super) fn remove_left_behind(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_name));
    let mut removed = 0;
    for directory in named.map(|entry| entry.path()) {
        if removed == REMOVED {
            break;
        }
        // Held until it is removed: nobody else takes it for his own meanwhile.
        let Some(_lock) = left_behind(&directory) else {
            continue;
        };
        match fs::remove_dir_all(&directory) {
            Ok(()) => removed += 1,
            Err(error) => {
                debug!(%error, directory = %directory.display(), "left behind, and cannot be removed");
            }
        }
    }
    if removed > 0 {
        info!(target: "orchestrator::exec", removed, parent = %parent.display(),
            "directories for result files were left behind by killed processes");
    }
}

fn is_name(name: &str) -> bool {
    let id = name.strip_prefix(PREFIX);
    id.is_some_and(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The lock of a directory that nobody holds, if it is one of ours: what others put there under such a name, links
/// among it, is none.
fn left_behind(path: &Path) -> Option<File> {
    let is_own = |file: &File| {
        let metadata = file.metadata().ok()?;
        (metadata.uid() == geteuid().as_raw()).then_some(metadata)
    };
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut options = OpenOptions::new();
    let as_directory = (flags | OFlags::DIRECTORY).bits().cast_signed();
    let directory = options.read(true).custom_flags(as_directory).open(path);
    let directory = directory.ok()?;
    is_own(&directory)?;
    let lock = openat(&directory, LOCK, flags | OFlags::RDWR, Mode::empty());
    let lock = File::from(lock.ok()?);
    is_own(&lock).filter(fs::Metadata::is_file)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(lock)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory of a process that was killed.
    fn abandoned(path: &Path) {
        fs::create_dir(path).unwrap();
        fs::write(path.join(LOCK), "").unwrap();
        fs::create_dir(path.join("inner")).unwrap();
        fs::write(path.join("inner/result"), "1").unwrap();
    }

    #[test]
    fn what_was_left_behind_is_removed_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let parent = parent.path();
        let new = || HeldDirectory::name_in(parent);
        let live = HeldDirectory::create(new(), 0o711).unwrap();
        let mode = fs::metadata(live.path()).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o711);
        let (dead, unlocked, other) = (new(), new(), parent.join("orchestrator-x"));
        abandoned(&dead);
        abandoned(&other);
        // Another one is just being made, or its file system has no locks.
        fs::create_dir(&unlocked).unwrap();
        fs::write(unlocked.join(UNLOCKED), "").unwrap();
        let (link, inner) = (new(), new());
        symlink(&other, &link).unwrap();
        fs::create_dir(&inner).unwrap();
        symlink(other.join(LOCK), inner.join(LOCK)).unwrap();
        let file = new();
        fs::write(&file, "").unwrap();
        remove_left_behind(parent);
        assert!(!dead.exists());
        for stays in [live.path(), &unlocked, &link, &inner, &file] {
            assert!(stays.symlink_metadata().is_ok(), "{}", stays.display());
        }
        assert!(other.join("inner/result").exists());
        let path = live.path().to_owned();
        drop(live);
        assert!(!path.exists());
    }

    #[test]
    fn what_belongs_to_somebody_else_is_left_alone() {
        if !geteuid().is_root() {
            println!("needs root");
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        let (directory, file) = (
            HeldDirectory::name_in(parent.path()),
            HeldDirectory::name_in(parent.path()),
        );
        abandoned(&directory);
        abandoned(&file);
        let somebody = Some(65_534);
        std::os::unix::fs::chown(&directory, somebody, None).unwrap();
        std::os::unix::fs::chown(file.join(LOCK), somebody, None).unwrap();
        remove_left_behind(parent.path());
        assert!(directory.exists() && file.exists());
    }
}
