//! Dead letters, bounded in number and size: the oldest go first.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    context::{Context, split_number},
    counter::Counter,
};
use crate::{
    broker::{BrokerError, DeadLetter},
    store::{Batch, Durability, Store, StoreError, Tree},
};

/// Letters as JSON, by sequence.
const LETTERS: Tree = Tree::named("x");

/// How much all letters may take together.
const MAX_BYTES: usize = 256 << 20;

/// What nobody can execute.
#[derive(Debug)]
pub(super) struct DeadLetters {
    store: Store,
    context: Arc<Context>,
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    counter: Counter,
    /// Sequence and size of every letter, oldest first.
    kept: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl DeadLetters {
    pub(super) fn load(
        store: Store,
        context: &Arc<Context>,
        limit: usize,
    ) -> Result<Self, StoreError> {
        let mut state = State {
            counter: Counter::load(&store, "dead")?,
            kept: VecDeque::new(),
            bytes: 0,
        };
        for pair in store.scan(LETTERS) {
            let (key, value) = pair?;
            let sequence = split_number(&key).map_or(0, |n| n.0);
            state.kept.push_back((sequence, value.len()));
            state.bytes += value.len();
        }
        Ok(Self {
            store,
            context: Arc::clone(context),
            limit,
            state: Mutex::new(state),
        })
    }

    pub(super) async fn add(&self, letter: &DeadLetter) -> Result<(), BrokerError> {
        let operation = "keeping a dead letter";
        let failed = |error: StoreError| self.context.failed(operation, error);
        let raw = serde_json::to_vec(letter).map_err(|e| self.context.failed(operation, e))?;
        let room = self.store.reserve(raw.len()).await.map_err(failed)?;
        let written = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let mut batch = Batch::default();
            let sequence = state.counter.take(&mut batch);
            state.kept.push_back((sequence, raw.len()));
            state.bytes += raw.len();
            batch.put(LETTERS, &sequence.to_be_bytes(), raw);
            while state.kept.len() > self.limit || state.bytes > MAX_BYTES {
                let Some((oldest, size)) = state.kept.pop_front() else {
                    break;
                };
                state.bytes -= size;
                batch.remove(LETTERS, &oldest.to_be_bytes());
            }
            self.store.submit(room, batch, Durability::Power, |_| {})
        };
        written.confirmed().await.map_err(failed)
    }

    pub(super) async fn remove(&self, sequence: u64) -> Result<bool, BrokerError> {
        let operation = format!("discarding dead letter {sequence}");
        let failed = |error: StoreError| self.context.failed(&operation, error);
        let room = self.store.reserve(64).await.map_err(failed)?;
        let written = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let place = state.kept.binary_search_by_key(&sequence, |kept| kept.0);
            let Some((_, size)) = place.ok().and_then(|place| state.kept.remove(place)) else {
                return Ok(false);
            };
            state.bytes -= size;
            let mut batch = Batch::default();
            batch.remove(LETTERS, &sequence.to_be_bytes());
            self.store.submit(room, batch, Durability::Power, |_| {})
        };
        written.confirmed().await.map_err(failed)?;
        Ok(true)
    }

    pub(super) async fn newest(
        &self,
        below: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, DeadLetter)>, BrokerError> {
        let operation = "listing the dead letters";
        let (store, context) = (self.store.clone(), Arc::clone(&self.context));
        let read = move || {
            let read = |pair: Result<(Vec<u8>, Vec<u8>), StoreError>| {
                let (key, raw) = pair?;
                let letter = serde_json::from_slice(&raw)
                    .map_err(|error| context.damaged("a dead letter", error))?;
                Ok((split_number(&key).map_or(0, |n| n.0), letter))
            };
            let above = |pair: &Result<(Vec<u8>, Vec<u8>), StoreError>| match (pair, below) {
                (Ok((key, _)), Some(below)) => split_number(key).is_some_and(|n| n.0 >= below),
                (Ok(_), None) | (Err(_), _) => false,
            };
            let letters = store.scan(LETTERS).rev().skip_while(above);
            letters.take(limit).map(read).collect()
        };
        let letters: Result<_, StoreError> = tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| self.context.failed(operation, error))?;
        letters.map_err(|error| self.context.failed(operation, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let load = || {
            let store = Store::open(directory.path()).unwrap();
            DeadLetters::load(store, &Arc::new(Context::new(directory.path())), 3).unwrap()
        };
        for round in 0..2 {
            let dead = load();
            for n in 0..4 {
                let letter = DeadLetter {
                    run_id: None,
                    queue: "default".parse().unwrap(),
                    at: crate::clock::now(),
                    reason: format!("{round}.{n}"),
                    payload: vec![0; 100_000],
                    refused: None,
                    subject: None,
                    signature: None,
                };
                dead.add(&letter).await.unwrap();
            }
            let kept = dead.newest(None, 10).await.unwrap();
            let reasons: Vec<_> = kept.into_iter().map(|(_, letter)| letter.reason).collect();
            let expected = [3, 2, 1].map(|n| format!("{round}.{n}"));
            assert_eq!(reasons, expected);
            assert_eq!(dead.store.scan(LETTERS).count(), 3);
            dead.store.close().await;
        }
    }
}
