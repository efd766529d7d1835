//! Opening the files: whatever is wrong with them becomes an error, in bounded time.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use super::{
    StoreError, foreign,
    generation::GenerationFile,
    parts::{self, Last},
};
use crate::clock;

const CACHE_BYTES: u64 = 16 << 20;

/// Damaged files can make sled hang while it opens them. Whole ones are read at a thousandth of this pace
/// even by a slow disk.
const OPEN_LIMIT: Duration = Duration::from_secs(60);
const OPEN_BYTES_PER_SECOND: u64 = 1 << 20;

/// sled's own lock may outlive the handle that held it for a moment (sled#1289). We hold ours by
/// then, so nobody else has it.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Creates the directory, for this user alone, if it is not there, and makes it durable.
pub(super) fn create_directory(directory: &Path) -> Result<(), StoreError> {
    let create = || {
        let absolute = std::path::absolute(directory)?;
        let missing = absolute.ancestors().take_while(|level| !level.exists());
        let missing = missing.count();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&absolute)?;
        let parents = absolute.ancestors().skip(1);
        parents.take(missing).try_for_each(sync_parent)
    };
    create().map_err(|error| StoreError::from_creating(directory, &error))
}

/// Removes what an opening left behind that was cut off by a kill, or by a full disk: sled would take it for
/// its newest list of pages, which it becomes only by its last name.
pub(super) fn remove_unfinished(directory: &Path) -> Result<(), StoreError> {
    let is_unfinished = |name: &str| name.starts_with("snap.") && name.ends_with(".generating");
    let remove = || {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(is_unfinished) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    remove().map_err(|error| StoreError::from_io(directory, "clearing up", &error))
}

/// A database that was opened and looked at, and how far it has come.
pub(super) type Opened = (sled::Db, Last);

/// Opens sled and looks at all that is stored, on a thread of its own: damage may make both panic or hang.
pub(super) fn open_database(
    directory: &Path,
    generations: &GenerationFile,
) -> Result<Opened, StoreError> {
    let operation = "opening the store";
    let failed = |error: io::Error| StoreError::from_io(directory, operation, &error);
    let confirmed = generations.read().map_err(failed)?;
    // What was confirmed is missing in noise anyway: that is found below.
    if confirmed == 0 && foreign::is_noise(&directory.join("db")).map_err(failed)? {
        return Err(damaged(
            directory,
            "`db` is not a file of this store".to_owned(),
        ));
    }
    let limit = time_limit(directory);
    let config = sled::Config::new()
        .path(directory)
        .cache_capacity(CACHE_BYTES);
    let (report, opened) = mpsc::sync_channel(1);
    let owned = directory.to_owned();
    let opener = thread::Builder::new()
        .name("store-open".to_owned())
        .spawn(move || {
            // Nobody listens any more after the time limit; the database is closed again then.
            let (outcome, rejected) = open_and_look(&config, &owned, confirmed);
            let _ = report.send(outcome);
            drop(rejected);
        })
        .map_err(failed)?;
    match opened.recv_timeout(limit) {
        Ok(opened) => opened,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(damaged(directory, format!("not open after {limit:?}")))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            let panic = opener.join().err();
            let text = panic.map_or_else(String::new, |panic| panic_text(&*panic));
            Err(damaged(directory, text))
        }
    }
}

/// The database, or why not, and what is to be closed then.
fn open_and_look(
    config: &sled::Config,
    directory: &Path,
    confirmed: u64,
) -> (Result<Opened, StoreError>, Option<sled::Db>) {
    let database = match open_patiently(config) {
        Ok(database) => database,
        Err(error) => return (Err(StoreError::from_opening(directory, &error)), None),
    };
    match catch_unwind(AssertUnwindSafe(|| verify(directory, &database, confirmed))) {
        Ok(Ok(last)) => (Ok((database, last)), None),
        Ok(Err(error)) => (Err(error), Some(database)),
        Err(panic) => {
            // What made it panic may do so again when it is closed, which might end this process.
            std::mem::forget(database);
            (Err(damaged(directory, panic_text(&*panic))), None)
        }
    }
}

/// The file that says how far the store had come.
pub(super) fn generation_file(directory: &Path) -> Result<GenerationFile, StoreError> {
    GenerationFile::open(directory)
        .map_err(|error| StoreError::from_io(directory, "opening the generation file", &error))
}

/// Looks at all that is stored; how far it has come.
fn verify(directory: &Path, database: &sled::Db, confirmed: u64) -> Result<Last, StoreError> {
    let verified =
        parts::verify(database).map_err(|error| StoreError::from_looking(directory, &error))?;
    let last = verified.map_err(|reason| damaged(directory, reason))?;
    if last.generation < confirmed {
        return Err(damaged(
            directory,
            format!(
                "it is at generation {}, but {confirmed} had been reached: it was set back or emptied",
                last.generation
            ),
        ));
    }
    Ok(last)
}

fn damaged(directory: &Path, reason: String) -> StoreError {
    StoreError::Damaged {
        directory: directory.display().to_string(),
        reason,
    }
}

/// More than a store of this size takes, however slow the disk.
fn time_limit(directory: &Path) -> Duration {
    let bytes = fs::metadata(directory.join("db")).map_or(0, |file| file.len());
    OPEN_LIMIT + Duration::from_secs(bytes / OPEN_BYTES_PER_SECOND)
}

fn open_patiently(config: &sled::Config) -> sled::Result<sled::Db> {
    let start = clock::monotonic();
    loop {
        match config.open() {
            Err(error) if is_locked(&error) && clock::monotonic() - start < LOCK_PATIENCE => {
                thread::park_timeout(LOCK_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// Whether somebody else has the file open.
pub(super) fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("sled panicked").to_owned()
}

/// Syncs what opening may have created, and returns our own descriptor of the data file, which is for this user
/// alone: the directory may have been there before, and be open to others.
pub(super) fn sync_created(directory: &Path) -> Result<File, StoreError> {
    let sync = || {
        let file = File::options().write(true).open(directory.join("db"))?;
        match file.set_permissions(Permissions::from_mode(0o600)) {
            // It belongs to somebody else, who lets us write.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            done => done?,
        }
        file.sync_all()?;
        File::open(directory)?.sync_all()?;
        Ok(file)
    };
    sync().map_err(|error| StoreError::from_io(directory, "syncing the new files", &error))
}

/// The parent may belong to somebody else, who has made the directory durable then.
fn sync_parent(parent: &Path) -> std::io::Result<()> {
    match File::open(parent) {
        Ok(parent) => parent.sync_all(),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}
