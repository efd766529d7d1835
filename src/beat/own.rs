//! Beat's own copy of what it remembers, in sled: replaces the shared copy if that was lost, and is
//! written after it, so that it can only be older.

use std::path::Path;

use thiserror::Error;
use tracing::warn;

use crate::{
    chance,
    job::JobName,
    plan::{JobState, Watermark},
    store::{Batch, Durability, Store, StoreError, Tree},
};

const TREE: Tree = Tree::named("beat");
const WATERMARK: &[u8] = b"watermark";
const JOB: &[u8] = b"job.";
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

/// Beat's own copy of its state.
#[derive(Debug)]
pub struct OwnState {
    store: Store,
}

/// A watermark and the states that go with it.
pub(super) type Kept = (Watermark, Vec<(JobName, JobState)>);

impl OwnState {
    /// Opens the copy in `directory`, creating it if needed. Nobody else can open it meanwhile. A damaged
    /// one is set aside: what is shared takes its place.
    pub fn open(directory: &Path) -> Result<Self, OwnError> {
        let (store, _) = Store::open_or_set_aside(directory)?;
        Ok(Self { store })
    }

    /// The name of this directory: nobody else holds it now.
    pub(super) async fn home(&self) -> Result<String, OwnError> {
        if let Some(home) = self.text(HOME)? {
            return Ok(home);
        }
        let home = chance::uuid().to_string();
        self.set(HOME, &home).await?;
        Ok(home)
    }

    /// The installation whose state is kept here, if it is known.
    pub(super) fn installation(&self) -> Result<Option<String>, OwnError> {
        self.text(INSTALLATION)
    }

    pub(super) async fn keep_installation(&self, name: &str) -> Result<(), OwnError> {
        self.set(INSTALLATION, name).await
    }

    fn text(&self, key: &[u8]) -> Result<Option<String>, OwnError> {
        let value = self.store.get(TREE, key)?;
        Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    async fn set(&self, key: &[u8], value: &str) -> Result<(), OwnError> {
        let mut batch = Batch::default();
        batch.put(TREE, key, value.as_bytes().to_vec());
        self.store.commit(batch, Durability::Power).await?;
        Ok(())
    }

    /// What was kept last; `None` if nothing was.
    pub(super) fn load(&self) -> Result<Option<Kept>, OwnError> {
        let Some(watermark) = self.store.get(TREE, WATERMARK)? else {
            return Ok(None);
        };
        let watermark =
            serde_json::from_slice(&watermark).map_err(|error| self.not_understood(&error))?;
        let mut states = Vec::new();
        for entry in self.store.scan_prefix(TREE, JOB) {
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

    /// Keeps the watermark and the jobs that changed; a job without a state was removed.
    pub(super) async fn keep<'a>(
        &self,
        watermark: &Watermark,
        changed: impl Iterator<Item = (&'a JobName, Option<&'a JobState>)>,
    ) -> Result<(), OwnError> {
        let mut batch = Batch::default();
        let value = serde_json::to_vec(watermark).map_err(|error| self.not_understood(&error))?;
        batch.put(TREE, WATERMARK, value);
        for (name, state) in changed {
            let key = [JOB, name.as_str().as_bytes()].concat();
            match state {
                Some(state) => {
                    let value =
                        serde_json::to_vec(state).map_err(|error| self.not_understood(&error))?;
                    batch.put(TREE, &key, value);
                }
                None => batch.remove(TREE, &key),
            }
        }
        self.store.commit(batch, Durability::Power).await?;
        Ok(())
    }

    fn not_understood(&self, error: &serde_json::Error) -> OwnError {
        OwnError::NotUnderstood {
            directory: self.store.directory().display().to_string(),
            reason: error.to_string(),
        }
    }
}
