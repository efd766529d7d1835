//! The writing thread: applies what is queued in groups, and syncs each group before the next one is applied.
//!
//! Who asked for no sync does not wait for that of its own group. But the next group does: sled uses parts of its
//! file again as soon as what replaced them is handed to the operating system. Were a second group applied on
//! top of one that is not synced, a loss of power could keep the overwriting and lose the replacement, and
//! the store would not open any more.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, OnceLock},
    thread::{self, JoinHandle},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    Batch, Durability, StoreError,
    generation::GenerationFile,
    open,
    parts::{Group, Last},
};

/// Most batches, and most bytes, that are applied as one: less than one of sled's segments (512 KiB), so that
/// what a group makes free is not used again by itself.
const GROUP_BATCHES: usize = 1_000;
const GROUP_BYTES: usize = 256 << 10;

/// What the handle and its threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) directory: PathBuf,
    failure: OnceLock<StoreError>,
}

impl Shared {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            failure: OnceLock::new(),
        }
    }

    /// The first failure, which is final.
    pub(super) fn alive(&self) -> Result<(), StoreError> {
        match self.failure.get() {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }

    /// Why nothing is accepted any more.
    pub(super) fn closed(&self) -> StoreError {
        self.alive().err().unwrap_or_else(|| StoreError::Closed {
            directory: self.directory.display().to_string(),
        })
    }

    pub(super) fn reading(&self, error: &sled::Error) -> StoreError {
        StoreError::from_sled(&self.directory, "reading", error)
    }

    fn fail(&self, error: StoreError) -> StoreError {
        self.failure.get_or_init(|| error).clone()
    }
}

type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// A queued batch. Its room in the queue is free again when it is dropped.
pub(super) struct Request {
    batch: Batch,
    durability: Durability,
    finish: Finish,
    _room: OwnedSemaphorePermit,
}

impl Request {
    pub(super) fn new(
        batch: Batch,
        durability: Durability,
        room: OwnedSemaphorePermit,
        finish: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) -> Self {
        Self {
            batch,
            durability,
            finish: Box::new(finish),
            _room: room,
        }
    }

    pub(super) fn finish(self, result: Result<(), StoreError>) {
        (self.finish)(result);
    }
}

/// Starts the thread. It ends when the sender is dropped and all that was queued is done.
pub(super) fn start(
    database: &sled::Db,
    file: File,
    shared: &Arc<Shared>,
    (generations, last): (GenerationFile, Last),
) -> Result<(mpsc::UnboundedSender<Request>, JoinHandle<()>), StoreError> {
    // An unbounded channel, but whoever sends holds room in the queue (`Store::reserve`).
    let (queue, requests) = mpsc::unbounded_channel();
    let writer = Writer {
        database: database.clone(),
        file,
        shared: Arc::clone(shared),
        generations,
        last,
    };
    let thread = spawn("store-write", shared, move || writer.run(requests))?;
    Ok((queue, thread))
}

/// The thread. Should it panic, that is the end of the handle like any other failure.
fn spawn(
    name: &'static str,
    shared: &Arc<Shared>,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StoreError> {
    let owned = Arc::clone(shared);
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                owned.fail(StoreError::Io {
                    directory: owned.directory.display().to_string(),
                    operation: name,
                    reason: open::panic_text(&*panic),
                });
            }
        })
        .map_err(|error| StoreError::from_io(&shared.directory, "starting a thread", &error))
}

struct Writer {
    database: sled::Db,
    file: File,
    shared: Arc<Shared>,
    generations: GenerationFile,
    last: Last,
}

impl Writer {
    fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let group = collect(first, &mut requests);
            let written = self.write(&group);
            let (to_sync, done): (Vec<_>, Vec<_>) = group
                .into_iter()
                .partition(|request| request.durability == Durability::Power && written.is_ok());
            for request in done {
                request.finish(written.clone().map(drop));
            }
            let synced = match written {
                Ok(Wrote::Something) => self.sync(),
                // All that came before is synced.
                Ok(Wrote::Nothing) | Err(_) => self.shared.alive(),
            };
            for request in to_sync {
                request.finish(synced.clone());
            }
        }
    }

    /// Applies a group and hands it to the operating system: from here on it survives the
    /// process, not the machine.
    fn write(&mut self, group: &[Request]) -> Result<Wrote, StoreError> {
        self.shared.alive()?;
        let mut writes = HashMap::new();
        for request in group {
            writes.extend(request.batch.writes());
        }
        if writes.is_empty() {
            return Ok(Wrote::Nothing);
        }
        let apply = || {
            let mut group = Group::new(&self.database, self.last);
            for (key, value) in writes {
                group.write(key, value)?;
            }
            let (batch, last) = group.finish(self.last.generation + 1);
            self.database.apply_batch(batch)?;
            self.database.flush().map(|_| last)
        };
        match apply() {
            Ok(last) => {
                self.last = last;
                self.check_in_place().map(|()| Wrote::Something)
            }
            Err(error) => {
                let directory = &self.shared.directory;
                let error = StoreError::from_sled(directory, "writing", &error);
                Err(self.shared.fail(error))
            }
        }
    }

    /// A file that was deleted, or moved away, goes on taking writes that nobody will ever find.
    fn check_in_place(&self) -> Result<(), StoreError> {
        let directory = &self.shared.directory;
        let is_in_place = || -> io::Result<bool> {
            let (ours, found) = (self.file.metadata()?, directory.join("db").metadata()?);
            Ok((ours.dev(), ours.ino()) == (found.dev(), found.ino()))
        };
        let error = match is_in_place() {
            Ok(true) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                StoreError::from_io(directory, "looking at the data file", &error)
            }
            Ok(false) | Err(_) => StoreError::Deleted {
                directory: directory.display().to_string(),
            },
        };
        Err(self.shared.fail(error))
    }

    /// From here on it survives the machine.
    fn sync(&self) -> Result<(), StoreError> {
        let sync = || {
            self.file.sync_data()?;
            self.generations.write(self.last.generation)
        };
        sync().map_err(|error| {
            let directory = &self.shared.directory;
            self.shared
                .fail(StoreError::from_io(directory, "syncing", &error))
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrote {
    Something,
    Nothing,
}

fn collect(first: Request, requests: &mut mpsc::UnboundedReceiver<Request>) -> Vec<Request> {
    let mut bytes = first.batch.bytes();
    let mut group = vec![first];
    while group.len() < GROUP_BATCHES && bytes < GROUP_BYTES {
        match requests.try_recv() {
            Ok(request) => {
                bytes += request.batch.bytes();
                group.push(request);
            }
            Err(_) => break,
        }
    }
    group
}
