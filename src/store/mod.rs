//! A durable key-value store in one directory. The only importer of sled.
//!
//! Owns the directory: its lock, its files and the thread that writes. It knows nothing of
//! jobs, runs or brokers, and nothing outside this module may touch the files.
//!
//! # What a write goes through
//!
//! `submit` queues a batch, `writer` takes all that is queued, applies it to sled as one atomic
//! batch, flushes it to the operating system and confirms who asked for [`Durability::Crash`]. Then
//! it syncs the file (sled's own flush does not) and confirms [`Durability::Power`]. So a group of
//! any size costs one write and one sync, and writes are applied in the order in which they were
//! submitted. After a crash a write is there as a whole or not at all, and with it every write
//! submitted before.
//!
//! Every value carries a checksum, every group a digest over all entries and a generation, which is also written beside
//! the store once it is synced: what is not what was written, or is older than what was confirmed, is not opened.
//!
//! An I/O error is final: everything queued and all that comes after is refused with it.

mod again;
mod batch;
mod digest;
mod durability;
mod error;
mod foreign;
mod generation;
mod locality;
mod lock;
mod open;
mod parts;
mod scan;
mod set_aside;
mod writer;

use std::{
    ops::Bound,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

pub use batch::{Batch, Tree};
pub use durability::Durability;
pub use error::StoreError;
use lock::DirectoryLock;
pub use scan::Scan;
pub use set_aside::SetAside;
use writer::{Request, Shared};

/// How much may be queued, in units of [`UNIT`]: 32 MiB.
const QUEUE_UNITS: u32 = 32 * 1024;

/// What a batch costs at least, in bytes.
const UNIT: usize = 1024;

/// A store that is open; cheap to clone. The directory is free again when the last clone is gone,
/// or after [`Store::close`].
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Dropped in this order: the thread ends, then the database, then the lock.
    thread: Thread,
    room: Arc<Semaphore>,
    shared: Arc<Shared>,
    database: sled::Db,
    _lock: DirectoryLock,
}

/// The writing thread. Dropping waits for what is queued.
#[derive(Debug)]
struct Thread {
    queue: Mutex<Option<mpsc::UnboundedSender<Request>>>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

/// Room for one batch in the queue. Submit or drop it soon: closing the store waits for it.
#[derive(Debug)]
pub struct Room {
    permit: OwnedSemaphorePermit,
    queue: mpsc::UnboundedSender<Request>,
}

/// Tells when a submitted batch is durable. Dropping it does not take the batch back.
#[derive(Debug)]
#[must_use = "without it nobody learns whether the write succeeded"]
pub struct Confirmation {
    outcome: oneshot::Receiver<Result<(), StoreError>>,
    shared: Arc<Shared>,
}

impl Store {
    /// Opens the store in `directory`, creating it if needed. Blocks: milliseconds as a rule,
    /// bounded if the files are damaged.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        open::create_directory(directory)?;
        let lock = DirectoryLock::acquire(directory)?;
        Self::open_locked(directory, lock).map_err(|(error, _)| error)
    }

    /// The same; but files that are damaged are moved to a directory beside them, and an empty store is
    /// opened. Says so in the log.
    pub fn open_or_set_aside(directory: &Path) -> Result<(Self, Option<SetAside>), StoreError> {
        open::create_directory(directory)?;
        let lock = DirectoryLock::acquire(directory)?;
        match Self::open_locked(directory, lock) {
            Ok(store) => Ok((store, None)),
            Err((error @ StoreError::Damaged { .. }, lock)) => {
                let aside = set_aside::set_aside(directory, error)?;
                let store = Self::open_locked(directory, lock).map_err(|(error, _)| error)?;
                Ok((store, Some(aside)))
            }
            Err((error, _)) => Err(error),
        }
    }

    fn open_locked(
        directory: &Path,
        lock: DirectoryLock,
    ) -> Result<Self, (StoreError, DirectoryLock)> {
        let start = || {
            locality::look(directory);
            open::remove_unfinished(directory)?;
            let generations = open::generation_file(directory)?;
            let (database, last) = open::open_database(directory, &generations)?;
            let file = open::sync_created(directory)?;
            let shared = Arc::new(Shared::new(directory.to_owned()));
            let last = (generations, last);
            let (queue, handle) = writer::start(&database, file, &shared, last)?;
            Ok((database, shared, queue, handle))
        };
        let (database, shared, queue, handle) = match start() {
            Ok(started) => started,
            Err(error) => return Err((error, lock)),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                thread: Thread {
                    queue: Mutex::new(Some(queue)),
                    handle: Mutex::new(Some(handle)),
                },
                room: Arc::new(Semaphore::new(QUEUE_UNITS as usize)),
                shared,
                database,
                _lock: lock,
            }),
        })
    }

    /// Where the store is.
    pub fn directory(&self) -> &PathBuf {
        &self.inner.shared.directory
    }

    /// The value of a key, as of the last batch that was applied.
    pub fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        parts::read(&self.inner.database, &tree.full_key(key))
            .map_err(|error| self.inner.shared.reading(&error))
    }

    /// All keys of a tree in order, with their values.
    pub fn scan(&self, tree: Tree) -> Scan {
        self.range(tree, Bound::Unbounded, Bound::Unbounded)
    }

    /// The keys of a tree that start with `prefix`.
    pub fn scan_prefix(&self, tree: Tree, prefix: &[u8]) -> Scan {
        let after = batch::prefix_end(prefix);
        let end = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.range(tree, Bound::Included(prefix), end)
    }

    /// The keys of a tree between two bounds.
    pub fn range(&self, tree: Tree, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Scan {
        Scan::new(
            self.inner.database.clone(),
            Arc::clone(&self.inner.shared),
            tree,
            from,
            to,
        )
    }

    /// Writes a batch; returns when it has the durability that was asked for.
    pub async fn commit(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        let room = self.reserve(batch.bytes()).await?;
        self.submit(room, batch, durability, |_| {})
            .confirmed()
            .await
    }

    /// Fails with the first failure of the writing side, which is final: nothing is written any
    /// more, and only opening the store anew can mend it.
    pub fn check(&self) -> Result<(), StoreError> {
        self.inner.shared.alive()
    }

    /// Waits for room in the queue for a batch of about this many bytes.
    pub async fn reserve(&self, bytes: usize) -> Result<Room, StoreError> {
        let shared = &self.inner.shared;
        shared.alive()?;
        let queue = self.inner.thread.queue().ok_or_else(|| shared.closed())?;
        let units = u32::try_from(bytes / UNIT + 1).unwrap_or(QUEUE_UNITS);
        let room = Arc::clone(&self.inner.room);
        match room.acquire_many_owned(units.min(QUEUE_UNITS)).await {
            Ok(permit) => Ok(Room { permit, queue }),
            Err(_) => Err(shared.closed()),
        }
    }

    /// Queues a batch without waiting. Batches are applied in the order of these calls. `then` is
    /// called once, on the writing thread and never within this call, before the confirmation: it
    /// must be quick and must not own this store. It is called even when nobody awaits the
    /// confirmation any more.
    pub fn submit(
        &self,
        room: Room,
        batch: Batch,
        durability: Durability,
        then: impl FnOnce(&Result<(), StoreError>) + Send + 'static,
    ) -> Confirmation {
        let (confirm, outcome) = oneshot::channel();
        let Room { permit, queue } = room;
        let request = Request::new(batch, durability, permit, move |result| {
            then(&result);
            // Nobody waits if the caller was cancelled; the write stands all the same.
            let _ = confirm.send(result);
        });
        // Fails only if the writing thread panicked; then the confirmation says so.
        drop(queue.send(request));
        Confirmation {
            outcome,
            shared: Arc::clone(&self.inner.shared),
        }
    }

    /// Refuses new batches, waits until the queued ones are written, and ends the thread.
    pub async fn close(&self) {
        self.inner.room.close();
        let inner = Arc::clone(&self.inner);
        // Fails only if the runtime is going down; then dropping the store does the same.
        let _ = tokio::task::spawn_blocking(move || inner.thread.finish()).await;
    }
}

impl Confirmation {
    /// Returns when the batch is durable, or will not be.
    pub async fn confirmed(self) -> Result<(), StoreError> {
        match self.outcome.await {
            Ok(result) => result,
            Err(_) => Err(self.shared.closed()),
        }
    }
}

impl Thread {
    fn queue(&self) -> Option<mpsc::UnboundedSender<Request>> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.clone()
    }

    fn finish(&self) {
        drop(
            self.queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let handle = self
            .handle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(handle) = handle {
            // One that panicked has dropped its waiters, who were told.
            let _ = handle.join();
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests;
