//! Opening the files: whatever is wrong with them becomes an error, in bounded time.

use std::{
    fs::{DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use super::{StoreError, generation::GenerationFile, parts};
use crate::clock;

const CACHE_BYTES: u64 = 16 << 20;

/// Damaged files can make sled hang while it opens them.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// sled's own lock may outlive the handle that held it for a moment (sled#1289). We hold ours by
/// then, so nobody else has it.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Creates the directory, for this user alone, if it is not there.
pub(super) fn create_directory(directory: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| StoreError::from_io(directory, "creating the directory", &error))
}

/// Opens sled on a thread of its own: damage may make it panic or hang.
pub(super) fn open_database(directory: &Path) -> Result<sled::Db, StoreError> {
    let operation = "opening the store";
    let damaged = |reason: String| StoreError::Damaged {
        directory: directory.display().to_string(),
        reason,
    };
    let config = sled::Config::new()
        .path(directory)
        .cache_capacity(CACHE_BYTES);
    let (report, opened) = mpsc::sync_channel(1);
    let opener = thread::Builder::new()
        .name("store-open".to_owned())
        .spawn(move || {
            // Nobody listens any more after the time limit; the database is closed again then.
            let _ = report.send(open_patiently(&config));
        })
        .map_err(|error| StoreError::from_io(directory, operation, &error))?;
    match opened.recv_timeout(OPEN_LIMIT) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(error)) => Err(StoreError::from_sled(directory, operation, &error)),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(damaged(format!("not open after {OPEN_LIMIT:?}")))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            let panic = opener.join().err();
            Err(damaged(panic.map_or_else(String::new, |p| panic_text(&*p))))
        }
    }
}

/// The file that says how far the store had come.
pub(super) fn generation_file(directory: &Path) -> Result<GenerationFile, StoreError> {
    GenerationFile::open(directory)
        .map_err(|error| StoreError::from_io(directory, "opening the generation file", &error))
}

/// Looks at all that is stored; its generation.
pub(super) fn verify(
    directory: &Path,
    database: &sled::Db,
    generations: &GenerationFile,
) -> Result<u64, StoreError> {
    let operation = "reading the store";
    let damaged = |reason: String| StoreError::Damaged {
        directory: directory.display().to_string(),
        reason,
    };
    let failed = |error: sled::Error| StoreError::from_sled(directory, operation, &error);
    let confirmed = generations
        .read()
        .map_err(|error| StoreError::from_io(directory, operation, &error))?;
    let generation = parts::read_generation(database).map_err(failed)?;
    if generation < confirmed {
        return Err(damaged(format!(
            "it is at generation {generation}, but {confirmed} had been reached: it was set back or emptied"
        )));
    }
    match parts::verify(database).map_err(failed)? {
        None => Ok(generation),
        Some(key) => Err(damaged(format!(
            "the value of {} is not what was written",
            key.escape_ascii()
        ))),
    }
}

fn open_patiently(config: &sled::Config) -> sled::Result<sled::Db> {
    let start = clock::monotonic();
    loop {
        match config.open() {
            Err(sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock")
                    && clock::monotonic() - start < LOCK_PATIENCE =>
            {
                thread::park_timeout(LOCK_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("sled panicked").to_owned()
}

/// Syncs what opening may have created, and returns our own descriptor of the data file.
pub(super) fn sync_created(directory: &Path) -> Result<File, StoreError> {
    let sync = || {
        let file = File::options().write(true).open(directory.join("db"))?;
        file.sync_all()?;
        File::open(directory)?.sync_all()?;
        if let Some(parent) = directory.canonicalize()?.parent() {
            sync_parent(parent)?;
        }
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
