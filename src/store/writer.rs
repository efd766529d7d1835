//! The two writing threads: one applies what is queued in groups, one syncs behind it, so that
//! who needs no sync does not wait for one.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, OnceLock, mpsc as std_mpsc},
    thread::{self, JoinHandle},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{Batch, Durability, StoreError, generation::GenerationFile, open, parts};

/// Most batches, and most bytes, that are applied as one.
const GROUP_BATCHES: usize = 1_000;
const GROUP_BYTES: usize = 4 << 20;

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

/// Starts both threads. They end when the sender is dropped and all that was queued is done.
pub(super) fn start(
    database: &sled::Db,
    file: File,
    shared: &Arc<Shared>,
    (generations, generation): (GenerationFile, u64),
) -> Result<(mpsc::UnboundedSender<Request>, Vec<JoinHandle<()>>), StoreError> {
    // Unbounded channels, but whoever sends holds room in the queue (`Store::reserve`).
    let (queue, requests) = mpsc::unbounded_channel();
    let (synced, to_sync) = std_mpsc::channel();
    let file = Arc::new(file);
    let writer = Writer {
        database: database.clone(),
        file: Arc::clone(&file),
        shared: Arc::clone(shared),
        synced,
        generation,
    };
    let syncing = Arc::clone(shared);
    let sync = spawn("store-sync", shared, move || {
        sync_loop(&file, &generations, &syncing, &to_sync);
    })?;
    let write = spawn("store-write", shared, move || writer.run(requests))?;
    Ok((queue, vec![write, sync]))
}

/// A writing thread. Should it panic, that is the end of the handle like any other failure.
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
    file: Arc<File>,
    shared: Arc<Shared>,
    synced: std_mpsc::Sender<Written>,
    generation: u64,
}

/// A request that waits for a sync, with the generation that wrote it.
type Written = (Request, u64);

impl Writer {
    fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let group = collect(first, &mut requests);
            match self.write(&group) {
                Ok(()) => self.pass_on(group),
                Err(error) => {
                    for request in group {
                        request.finish(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Applies a group and hands it to the operating system: from here on it survives the
    /// process, not the machine.
    fn write(&mut self, group: &[Request]) -> Result<(), StoreError> {
        self.shared.alive()?;
        let mut last = HashMap::new();
        for request in group {
            last.extend(request.batch.writes());
        }
        if last.is_empty() {
            return Ok(());
        }
        self.generation += 1;
        let apply = || {
            let mut batch = sled::Batch::default();
            parts::write_generation(&mut batch, self.generation);
            for (key, value) in last {
                parts::write(&self.database, &mut batch, key, value)?;
            }
            self.database.apply_batch(batch)?;
            self.database.flush()
        };
        match apply() {
            Ok(_) => self.check_in_place(),
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

    fn pass_on(&self, group: Vec<Request>) {
        for request in group {
            match request.durability {
                Durability::Crash => request.finish(Ok(())),
                Durability::Power => {
                    if let Err(unsent) = self.synced.send((request, self.generation)) {
                        let (request, _) = unsent.0;
                        request.finish(Err(self.shared.closed()));
                    }
                }
            }
        }
    }
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

/// Confirms what one sync covers: all that was written before it began.
fn sync_loop(
    file: &File,
    generations: &GenerationFile,
    shared: &Shared,
    requests: &std_mpsc::Receiver<Written>,
) {
    while let Ok(first) = requests.recv() {
        let group: Vec<_> = std::iter::once(first).chain(requests.try_iter()).collect();
        let newest = group.iter().map(|(_, generation)| *generation).max();
        let result = shared.alive().and_then(|()| {
            let sync = || {
                file.sync_data()?;
                newest.map_or(Ok(()), |newest| generations.write(newest))
            };
            sync().map_err(|error| {
                shared.fail(StoreError::from_io(&shared.directory, "syncing", &error))
            })
        });
        for (request, _) in group {
            request.finish(result.clone());
        }
    }
}
