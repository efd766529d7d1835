//! Output of runs, bounded in total: the oldest chunks of all runs go first.
//!
//! Chunks lie by run and sequence; an index by sequence alone says which are oldest. The total is
//! stored with every change of it, so it is exact after a crash.

mod forms;

use std::{
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use tokio::sync::Semaphore;

use super::{
    context::{Context, split_number},
    counter::{Counter, META},
};
use crate::{
    broker::{BrokerError, LogChunk},
    clock,
    run::RunId,
    store::{Batch, Confirmation, Durability, Room, Store, StoreError, Tree},
};
use forms::{Place, chunk_key, decode, encode, last_number};

/// Chunks, by key of the run and sequence.
const CHUNKS: Tree = Tree::named("g");

/// [`Place`]s, by sequence.
const ORDER: Tree = Tree::named("o");

const TOTAL: &[u8] = b"log bytes";

/// What a chunk takes beside its bytes, roughly.
const CHUNK_OVERHEAD: u64 = 150;

/// How many chunks are removed as one batch.
const BATCH: usize = 512;

/// The logs of all runs.
#[derive(Debug)]
pub(super) struct Logs {
    store: Store,
    context: Arc<Context>,
    limit: u64,
    state: Mutex<State>,
    /// Removals happen one after another: each has to see what the one before left.
    removing: Semaphore,
}

#[derive(Debug)]
struct State {
    counter: Counter,
    total: u64,
}

impl Logs {
    pub(super) fn load(
        store: Store,
        context: &Arc<Context>,
        limit: u64,
    ) -> Result<Self, StoreError> {
        let total = store.get(META, TOTAL)?;
        let state = State {
            counter: Counter::load(&store, "logs")?,
            total: total.as_deref().and_then(split_number).map_or(0, |n| n.0),
        };
        Ok(Self {
            store,
            context: Arc::clone(context),
            limit,
            state: Mutex::new(state),
            removing: Semaphore::new(1),
        })
    }

    pub(super) async fn append(
        &self,
        run_id: &RunId,
        chunk: &LogChunk,
    ) -> Result<u64, BrokerError> {
        let failed = |error: StoreError| {
            self.context
                .failed(format!("adding to the log of {run_id}"), error)
        };
        let raw = encode(chunk);
        let room = self.store.reserve(raw.len() + 300).await.map_err(failed)?;
        let run = run_id.key().into_bytes();
        let place = Place {
            at: clock::now(),
            size: raw.len() as u64 + CHUNK_OVERHEAD,
            run,
        };
        let (sequence, is_full, written) = {
            let mut state = self.lock();
            let mut batch = Batch::default();
            let sequence = state.counter.take(&mut batch);
            batch.put(CHUNKS, &chunk_key(&place.run, sequence), raw);
            batch.put(ORDER, &sequence.to_be_bytes(), place.encode());
            state.total += place.size;
            let written = self.submit(&state, room, batch);
            (sequence, state.total > self.limit, written)
        };
        written.confirmed().await.map_err(failed)?;
        if is_full {
            self.evict().await.map_err(failed)?;
        }
        Ok(sequence)
    }

    /// Removes the chunks of a run up to and including `sequence`.
    pub(super) async fn trim(&self, run_id: &RunId, sequence: u64) -> Result<(), BrokerError> {
        let failed = |error: StoreError| {
            self.context
                .failed(format!("trimming the log of {run_id}"), error)
        };
        let run = run_id.key().into_bytes();
        loop {
            let removed = self.remove(|| {
                let from = chunk_key(&run, 0);
                let to = chunk_key(&run, sequence);
                let range = (Bound::Included(&from[..]), Bound::Included(&to[..]));
                let chunks = self.store.range(CHUNKS, range.0, range.1);
                chunks
                    .take(BATCH)
                    .map(|pair| pair.map(|(key, _)| last_number(&key)))
                    .collect()
            });
            if removed.await.map_err(failed)? < BATCH {
                return Ok(());
            }
        }
    }

    pub(super) async fn read(
        &self,
        run_id: &RunId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, LogChunk)>, BrokerError> {
        let operation = format!("reading the log of {run_id}");
        let run = run_id.key().into_bytes();
        let (store, context) = (self.store.clone(), Arc::clone(&self.context));
        let read = move || {
            let from = chunk_key(&run, after);
            let to = chunk_key(&run, u64::MAX);
            let range = (Bound::Excluded(&from[..]), Bound::Included(&to[..]));
            let mut chunks = Vec::new();
            for pair in store.range(CHUNKS, range.0, range.1).take(limit) {
                let (key, raw) = pair?;
                let chunk = decode(&raw).ok_or_else(|| context.damaged("a log", "cut short"))?;
                chunks.push((last_number(&key), chunk));
            }
            Ok(chunks)
        };
        let chunks: Result<_, StoreError> = tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| self.context.failed(&operation, error))?;
        chunks.map_err(|error| self.context.failed(&operation, error))
    }

    /// Removes the oldest chunks of all runs until the total is well within its limit and nothing
    /// is too old.
    pub(super) async fn evict(&self) -> Result<(), StoreError> {
        self.evict_at(clock::now()).await
    }

    async fn evict_at(&self, now: DateTime<Utc>) -> Result<(), StoreError> {
        // Some room below the limit, so that not every chunk that comes costs a removal.
        let target = self.limit - self.limit / 16;
        loop {
            let removed = self.remove(|| {
                let mut total = self.lock().total;
                if total <= self.limit {
                    total = 0;
                }
                let mut oldest = Vec::new();
                for pair in self.store.scan(ORDER).take(BATCH) {
                    let (key, value) = pair?;
                    let place = Place::decode(&value);
                    let is_old = place.as_ref().is_none_or(|place| place.is_old(now));
                    if total <= target && !is_old {
                        break;
                    }
                    total = total.saturating_sub(place.map_or(0, |place| place.size));
                    oldest.push(last_number(&key));
                }
                Ok(oldest)
            });
            if removed.await? < BATCH {
                return Ok(());
            }
        }
    }

    /// Removes the chunks that `find` names; returns how many it named.
    async fn remove(
        &self,
        find: impl FnOnce() -> Result<Vec<u64>, StoreError>,
    ) -> Result<usize, StoreError> {
        let Ok(_turn) = self.removing.acquire().await else {
            return Ok(0);
        };
        let sequences = find()?;
        if sequences.is_empty() {
            return Ok(0);
        }
        let room = self.store.reserve(sequences.len() * 100).await?;
        let mut batch = Batch::default();
        let mut freed = 0;
        for sequence in &sequences {
            let key = sequence.to_be_bytes();
            let place = self.store.get(ORDER, &key)?;
            if let Some(place) = place.as_deref().and_then(Place::decode) {
                batch.remove(CHUNKS, &chunk_key(&place.run, *sequence));
                freed += place.size;
            }
            batch.remove(ORDER, &key);
        }
        let written = {
            let mut state = self.lock();
            state.total = state.total.saturating_sub(freed);
            self.submit(&state, room, batch)
        };
        written.confirmed().await?;
        Ok(sequences.len())
    }

    fn submit(&self, state: &State, room: Room, mut batch: Batch) -> Confirmation {
        batch.put(META, TOTAL, state.total.to_be_bytes().to_vec());
        self.store.submit(room, batch, Durability::Crash, |_| {})
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
