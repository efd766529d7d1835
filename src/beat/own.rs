//! Beat's own copy of what it remembers, in sled: replaces the shared copy if that was lost, and is
//! written after it, so that it can only be older.
//!
//! Beat does not start without it, but goes on without it: a disk that is full, or a directory that was
//! deleted, must not keep ticks from being fired. A failure is final for the handle; so the directory is
//! opened again until that works, and all is written anew.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures::FutureExt;
use thiserror::Error;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::others::Others;
use crate::{
    chance, clock,
    job::JobName,
    plan::{JobState, Watermark},
    store::{Batch, Durability, Store, StoreError, Tree},
};

const TREE: Tree = Tree::named("beat");
const WATERMARK: &[u8] = b"watermark";
const JOB: &[u8] = b"job.";
/// In front of the keys of what [`Others`] wrote.
const OTHER: &[u8] = b"other:";
const HOME: &[u8] = b"home";
const INSTALLATION: &[u8] = b"installation";

/// Why the own copy cannot be used.
#[derive(Debug, Error)]
pub enum OwnError {
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The watermark is not one.
    #[error(
        "beat's own copy in {directory} is not understood: {reason}; move that directory away to go on from the shared copy"
    )]
    NotUnderstood {
        /// The directory of the store.
        directory: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// How long ticks wait for a disk.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait between two tries to open a directory again.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// Beat's own copy of its state.
#[derive(Debug)]
pub struct OwnState {
    directory: PathBuf,
    handle: Mutex<Handle>,
}

#[derive(Debug)]
enum Handle {
    Open(Store),
    /// Open again after a failure; what is in it may be old, or nothing.
    OpenAgain(Store),
    /// Closing the one that failed, and opening the directory again.
    Opening(oneshot::Receiver<Result<Store, StoreError>>),
    /// That failed too.
    Failed {
        try_at: Instant,
    },
}

/// Whether the copy can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    /// With what has changed.
    Ready,
    /// With everything.
    Anew,
    /// Not now.
    Broken,
}

/// How far the copy goes, and of what.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    pub(super) installation: Option<String>,
    pub(super) watermark: Option<Watermark>,
}

/// A watermark and the states that go with it.
pub(super) type Kept = (Watermark, Vec<(JobName, JobState)>);

impl OwnState {
    /// Opens the copy in `directory`, creating it if needed. Nobody else can open it meanwhile. A damaged
    /// one is set aside: what is shared takes its place. To be called within a tokio runtime.
    pub fn open(directory: &Path) -> Result<Self, OwnError> {
        let handle = match Store::open_or_set_aside(directory) {
            Ok((store, _)) => Handle::Open(store),
            // A disk may fill up at any time, also before a start.
            Err(error @ StoreError::DiskFull { .. }) => {
                tell(&error);
                Handle::failed()
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            directory: directory.to_owned(),
            handle: Mutex::new(handle),
        })
    }

    /// The name of this directory: nobody else holds it now. `None` if it cannot have one.
    pub(super) async fn home(&self) -> Result<Option<String>, OwnError> {
        if let Some(home) = self.text(HOME)? {
            return Ok(Some(home));
        }
        let Some(store) = self.store() else {
            return Ok(None);
        };
        let home = chance::uuid().to_string();
        let mut batch = Batch::default();
        batch.put(TREE, HOME, home.as_bytes().to_vec());
        match store.commit(batch, Durability::Power).await {
            Ok(()) => Ok(Some(home)),
            Err(error) => {
                self.fails(store, &error);
                Ok(None)
            }
        }
    }

    /// The installation whose state is kept here, if it is known.
    pub(super) fn installation(&self) -> Result<Option<String>, OwnError> {
        self.text(INSTALLATION)
    }

    fn text(&self, key: &[u8]) -> Result<Option<String>, OwnError> {
        let Some(store) = self.store() else {
            return Ok(None);
        };
        let value = store.get(TREE, key)?;
        Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    /// What was kept last; `None` if nothing was, or it cannot be read.
    pub(super) fn load(&self) -> Result<Option<Kept>, OwnError> {
        let Some(store) = self.store() else {
            return Ok(None);
        };
        let Some(watermark) = self.watermark(&store)? else {
            return Ok(None);
        };
        let mut states = Vec::new();
        for entry in store.scan_prefix(TREE, JOB) {
            let (key, value) = entry?;
            let name = key
                .get(JOB.len()..)
                .and_then(|name| std::str::from_utf8(name).ok());
            let name = name.and_then(|name| name.parse().ok());
            match (name, serde_json::from_slice(&value)) {
                (Some(name), Ok(state)) => states.push((name, state)),
                (_, state) => {
                    warn!(target: "orchestrator::beat", key = %String::from_utf8_lossy(&key),
                    error = ?state.err(), "an entry of beat's own copy is not understood")
                }
            }
        }
        Ok(Some((watermark, states)))
    }

    fn watermark(&self, store: &Store) -> Result<Option<Watermark>, OwnError> {
        let Some(watermark) = store.get(TREE, WATERMARK)? else {
            return Ok(None);
        };
        let watermark = serde_json::from_slice(&watermark);
        watermark
            .map(Some)
            .map_err(|error| OwnError::NotUnderstood {
                directory: self.directory.display().to_string(),
                reason: error.to_string(),
            })
    }

    /// How far the copy goes; of nothing, if it cannot be read.
    pub(super) fn head(&self) -> Result<Head, OwnError> {
        let Some(store) = self.store() else {
            return Ok(Head::default());
        };
        Ok(Head {
            installation: self.installation()?,
            watermark: self.watermark(&store)?,
        })
    }

    /// Copies all of it, which goes as far as `at`, to a directory of its own within this one. Nothing reads that again,
    /// unless somebody puts it in the place of this one. Returns the directory; `None` if there is nothing to read now.
    pub(super) async fn copy_aside(&self, at: DateTime<Utc>) -> Result<Option<PathBuf>, OwnError> {
        let Some(store) = self.store() else {
            return Ok(None);
        };
        let mut all = Batch::default();
        for entry in store.scan_prefix(TREE, b"") {
            let (key, value) = entry?;
            all.put(TREE, &key, value);
        }
        // The same one, should this be cut off and done again.
        let aside = self
            .directory
            .join(format!("kept-{}", at.format("%Y%m%dT%H%M%S%.3fZ")));
        let directory = aside.clone();
        let opened = tokio::task::spawn_blocking(move || Store::open(&directory)).await;
        let Ok(opened) = opened else {
            return Ok(None);
        };
        let opened = opened?;
        opened.commit(all, Durability::Power).await?;
        opened.close().await;
        Ok(Some(aside))
    }

    /// What others wrote, as it was kept last.
    pub(super) fn others(&self) -> Result<Others, OwnError> {
        let Some(store) = self.store() else {
            return Ok(Others::default());
        };
        let entries = store.scan_prefix(TREE, OTHER).map(|entry| {
            let (key, value) = entry?;
            let key = String::from_utf8_lossy(key.get(OTHER.len()..).unwrap_or_default());
            Ok((key.into_owned(), value))
        });
        Ok(Others::kept(entries.collect::<Result<_, StoreError>>()?))
    }

    /// Keeps the watermark, the name of the installation, the jobs that changed and what others wrote; a job without a
    /// state was removed. Whether that was possible: if not, it is told, and the copy is not ready for a while.
    pub(super) async fn keep<'a>(
        &self,
        watermark: &Watermark,
        installation: Option<&str>,
        changed: impl Iterator<Item = (&'a JobName, Option<&'a JobState>)>,
        others: &Others,
    ) -> bool {
        let Some(store) = self.store() else {
            return false;
        };
        let batch = match encode(watermark, installation, changed, others) {
            Ok(batch) => batch,
            Err(error) => {
                error!(target: "orchestrator::beat", %error, "beat's own copy cannot be encoded");
                return false;
            }
        };
        let commit = tokio::time::timeout(PATIENCE, store.commit(batch, Durability::Power));
        match commit.await.unwrap_or_else(|_| Err(self.hangs())) {
            Ok(()) => {
                *self.handle() = Handle::Open(store);
                true
            }
            Err(error) => {
                self.fails(store, &error);
                false
            }
        }
    }

    fn hangs(&self) -> StoreError {
        StoreError::Io {
            directory: self.directory.display().to_string(),
            operation: "write",
            reason: format!(
                "nothing is confirmed within {PATIENCE:?}: its disk or its network hangs"
            ),
        }
    }

    /// Whether it can be written now. Opens it again, in the background, after a failure.
    pub(super) fn readiness(&self) -> Readiness {
        let mut handle = self.handle();
        let opened = match &mut *handle {
            Handle::Open(_) => return Readiness::Ready,
            Handle::OpenAgain(_) => return Readiness::Anew,
            Handle::Failed { try_at } if clock::monotonic() < *try_at => return Readiness::Broken,
            Handle::Failed { .. } => {
                *handle = self.open_again(None);
                return Readiness::Broken;
            }
            Handle::Opening(opening) => match opening.now_or_never() {
                None => return Readiness::Broken,
                Some(opened) => opened,
            },
        };
        match opened {
            Ok(Ok(store)) => {
                info!(target: "orchestrator::beat", directory = %self.directory.display(),
                    "beat's own copy is written again");
                *handle = Handle::OpenAgain(store);
                Readiness::Anew
            }
            Ok(Err(_)) | Err(_) => {
                *handle = Handle::failed();
                Readiness::Broken
            }
        }
    }

    /// Whether what beat commits is kept here too.
    pub(super) fn is_kept(&self) -> bool {
        matches!(*self.handle(), Handle::Open(_))
    }

    fn fails(&self, store: Store, error: &StoreError) {
        tell(error);
        let mut handle = self.handle();
        *handle = self.open_again(Some(store));
    }

    fn open_again(&self, failed: Option<Store>) -> Handle {
        let opening = Store::open_again(self.directory.clone(), failed);
        opening.map_or_else(Handle::failed, Handle::Opening)
    }

    fn store(&self) -> Option<Store> {
        match &*self.handle() {
            Handle::Open(store) | Handle::OpenAgain(store) => Some(store.clone()),
            Handle::Opening(_) | Handle::Failed { .. } => None,
        }
    }

    fn handle(&self) -> MutexGuard<'_, Handle> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    fn failed() -> Self {
        let try_at = clock::monotonic() + TRY_AGAIN;
        Self::Failed { try_at }
    }
}

fn tell(error: &StoreError) {
    error!(target: "orchestrator::beat", %error,
        "beat's own copy cannot be written: beat goes on with the shared one alone, and tries again; what \
         changes meanwhile is lost should the broker lose its data");
}

fn encode<'a>(
    watermark: &Watermark,
    installation: Option<&str>,
    changed: impl Iterator<Item = (&'a JobName, Option<&'a JobState>)>,
    others: &Others,
) -> serde_json::Result<Batch> {
    let mut batch = Batch::default();
    batch.put(TREE, WATERMARK, serde_json::to_vec(watermark)?);
    if let Some(installation) = installation {
        batch.put(TREE, INSTALLATION, installation.as_bytes().to_vec());
    }
    for (name, state) in changed {
        let key = [JOB, name.as_str().as_bytes()].concat();
        match state {
            Some(state) => batch.put(TREE, &key, serde_json::to_vec(state)?),
            None => batch.remove(TREE, &key),
        }
    }
    for (key, value) in others.unsaved() {
        let key = [OTHER, key.as_bytes()].concat();
        match value {
            Some(value) => batch.put(TREE, &key, value.to_vec()),
            None => batch.remove(TREE, &key),
        }
    }
    Ok(batch)
}
