//! Output of runs, bounded in total: the oldest chunks of all runs go first.
//!
//! Chunks lie by run and sequence; an index by sequence alone says which are oldest. The total is
//! stored with every change of it, so it is exact after a crash.

use std::{
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::sync::Semaphore;

use super::{
    context::{Context, split_number},
    counter::{Counter, META},
};
use crate::{
    broker::{BrokerError, LogChunk, LogStream},
    clock,
    run::RunId,
    store::{Batch, Confirmation, Durability, Room, Store, StoreError, Tree},
};

/// Chunks, by key of the run and sequence.
const CHUNKS: Tree = Tree::named("g");

/// [`Place`]s, by sequence.
const ORDER: Tree = Tree::named("o");

const TOTAL: &[u8] = b"log bytes";

/// Ends the key of the run within the key of a chunk; no key contains it.
const END_OF_RUN: u8 = 0;

/// What a chunk takes beside its bytes, roughly.
const CHUNK_OVERHEAD: u64 = 150;

/// How long output is kept.
const MAX_AGE: Duration = Duration::from_secs(7 * 86_400);

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

/// Which chunk has a sequence.
struct Place {
    at: DateTime<Utc>,
    size: u64,
    run: Vec<u8>,
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

impl Place {
    fn encode(&self) -> Vec<u8> {
        let mut raw = self.size.to_be_bytes().to_vec();
        raw.extend_from_slice(&self.at.timestamp_millis().to_be_bytes());
        raw.extend_from_slice(&self.run);
        raw
    }

    fn decode(raw: &[u8]) -> Option<Self> {
        let (size, rest) = split_number(raw)?;
        let (at, run) = rest.split_first_chunk::<8>()?;
        Some(Self {
            at: DateTime::from_timestamp_millis(i64::from_be_bytes(*at))?,
            size,
            run: run.to_vec(),
        })
    }

    fn is_old(&self, now: DateTime<Utc>) -> bool {
        (now - self.at).to_std().is_ok_and(|age| age >= MAX_AGE)
    }
}

fn chunk_key(run: &[u8], sequence: u64) -> Vec<u8> {
    let mut key = run.to_vec();
    key.push(END_OF_RUN);
    key.extend_from_slice(&sequence.to_be_bytes());
    key
}

/// The sequence at the end of a key.
fn last_number(key: &[u8]) -> u64 {
    key.last_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn encode(chunk: &LogChunk) -> Vec<u8> {
    let stream = match chunk.stream {
        LogStream::Stdout => 0,
        LogStream::Stderr => 1,
        LogStream::Worker => 2,
    };
    let mut raw = vec![stream];
    raw.extend_from_slice(&chunk.attempt.to_be_bytes());
    raw.extend_from_slice(&chunk.at.timestamp().to_be_bytes());
    raw.extend_from_slice(&chunk.at.timestamp_subsec_nanos().to_be_bytes());
    raw.extend_from_slice(&chunk.offset.to_be_bytes());
    raw.extend_from_slice(&chunk.bytes);
    raw
}

fn decode(raw: &[u8]) -> Option<LogChunk> {
    let (stream, rest) = raw.split_first()?;
    let stream = match stream {
        0 => LogStream::Stdout,
        1 => LogStream::Stderr,
        2 => LogStream::Worker,
        _ => return None,
    };
    let (attempt, rest) = rest.split_first_chunk::<4>()?;
    let (seconds, rest) = rest.split_first_chunk::<8>()?;
    let (nanoseconds, rest) = rest.split_first_chunk::<4>()?;
    let (offset, bytes) = split_number(rest)?;
    Some(LogChunk {
        attempt: u32::from_be_bytes(*attempt),
        stream,
        at: DateTime::from_timestamp(
            i64::from_be_bytes(*seconds),
            u32::from_be_bytes(*nanoseconds),
        )?,
        offset,
        bytes: bytes.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 100_000;

    fn logs(directory: &std::path::Path) -> Logs {
        let store = Store::open(directory).unwrap();
        Logs::load(store, &Arc::new(Context::new(directory)), LIMIT).unwrap()
    }

    fn id(job: &str) -> RunId {
        format!("{job}@20261123T023000Z").parse().unwrap()
    }

    fn chunk(offset: u64) -> LogChunk {
        LogChunk {
            attempt: 1,
            stream: LogStream::Stdout,
            at: clock::now(),
            offset,
            bytes: vec![b'x'; 1_000],
        }
    }

    async fn offsets(logs: &Logs, job: &str) -> Vec<u64> {
        let chunks = logs.read(&id(job), 0, 10_000).await.unwrap();
        chunks.into_iter().map(|(_, chunk)| chunk.offset).collect()
    }

    /// The total as it should be.
    fn counted(logs: &Logs) -> u64 {
        let size = |pair: Result<(_, Vec<u8>), _>| Place::decode(&pair.unwrap().1).unwrap().size;
        logs.store.scan(ORDER).map(size).sum()
    }

    #[tokio::test]
    async fn the_total_is_bounded_and_the_oldest_go_first() {
        let directory = tempfile::tempdir().unwrap();
        let logs = logs(directory.path());
        for n in 0..20 {
            logs.append(&id("old"), &chunk(n)).await.unwrap();
        }
        for n in 0..1_000 {
            logs.append(&id("new"), &chunk(n)).await.unwrap();
            assert!(logs.lock().total <= LIMIT);
        }
        assert!(offsets(&logs, "old").await.is_empty());
        let kept = offsets(&logs, "new").await;
        assert!(kept.len() > 70, "{}", kept.len());
        let oldest = 1_000 - kept.len() as u64;
        assert_eq!(kept, (oldest..1_000).collect::<Vec<_>>());
        assert_eq!(logs.store.scan(CHUNKS).count(), kept.len());
        assert_eq!(logs.lock().total, counted(&logs));
    }

    #[tokio::test]
    async fn the_total_is_right_after_trimming_and_reopening() {
        let directory = tempfile::tempdir().unwrap();
        {
            let logs = logs(directory.path());
            let mut last = 0;
            for n in 0..10 {
                last = logs.append(&id("a"), &chunk(n)).await.unwrap();
                logs.append(&id("b"), &chunk(n)).await.unwrap();
            }
            let (run, other) = (id("a"), id("b"));
            let trims = [(&run, last), (&run, last), (&other, 6)];
            let trims = trims.map(|(run, sequence)| logs.trim(run, sequence));
            for trimmed in futures::future::join_all(trims).await {
                trimmed.unwrap();
            }
            logs.store.close().await;
        }
        let logs = logs(directory.path());
        assert!(offsets(&logs, "a").await.is_empty());
        assert_eq!(offsets(&logs, "b").await, (3..10).collect::<Vec<_>>());
        assert_eq!(logs.lock().total, counted(&logs));
    }

    #[tokio::test]
    async fn old_output_goes() {
        let directory = tempfile::tempdir().unwrap();
        let logs = logs(directory.path());
        logs.append(&id("a"), &chunk(0)).await.unwrap();
        let age = chrono::TimeDelta::from_std(MAX_AGE).unwrap();
        let now = clock::now();
        logs.evict_at(now + age / 2).await.unwrap();
        assert_eq!(offsets(&logs, "a").await, [0]);
        logs.evict_at(now + age * 2).await.unwrap();
        assert!(offsets(&logs, "a").await.is_empty());
        assert_eq!(logs.lock().total, 0);
    }
}
