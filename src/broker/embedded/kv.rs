//! Keys and values with revisions.
//!
//! Values lie in the store. Beside them an index by first token and revision answers what changed
//! last, and what is too old. In memory are only the writes under way: a compare-and-set is
//! decided against them, so that the order of decisions is the order on disk. A read sees what
//! was applied, which is at most a sync ahead of what was confirmed.

mod expiry;
mod forms;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use chrono::{DateTime, Utc};

use super::{
    context::Context,
    counter::Counter,
    watch::{Watch, Watcher},
};
use crate::{
    broker::{BrokerError, Bucket, Cas, Changes, Durability, Entry, Revision},
    clock,
    store::{Batch, Confirmation, Room, Store, StoreError, Tree},
};
pub(super) use forms::{Value, full_key, key_within, scan_end};
use forms::{change_key, change_value, check_key, token, token_prefix};

/// [`Value`]s, by bucket and key.
pub(super) const VALUES: Tree = Tree::named("k");

/// Keys with the time of their last change, by bucket, first token and revision.
const CHANGES: Tree = Tree::named("i");

/// All keys and values.
#[derive(Debug)]
pub(super) struct Values {
    store: Store,
    context: Arc<Context>,
    shared: Arc<Shared>,
}

/// What the writing thread may touch when a write is done; must not own the store.
#[derive(Debug)]
struct Shared {
    context: Arc<Context>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    revisions: Counter,
    under_way: HashMap<(Bucket, String), UnderWay>,
    watchers: Vec<Weak<Watcher>>,
}

/// The writes of one key that are not confirmed yet.
#[derive(Debug)]
struct UnderWay {
    /// The last of them; `None` if it removes the key.
    last: Option<Current>,
    count: usize,
    /// Confirmations may come out of order; watchers are told of growing revisions only.
    announced: u64,
}

/// What a compare-and-set compares with.
#[derive(Debug, Clone, Copy)]
struct Current {
    revision: u64,
    changed_at: DateTime<Utc>,
}

/// On what condition a key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// None.
    Anything,
    /// The key has this revision, or does not exist.
    Revision(Option<Revision>),
}

/// A write that was decided.
struct Write<'a> {
    bucket: Bucket,
    key: &'a str,
    /// The revision that is stored or under way.
    replaced: Option<u64>,
    /// `None` removes the key.
    value: Option<Vec<u8>>,
    durability: Durability,
}

impl Values {
    pub(super) fn load(store: Store, context: &Arc<Context>) -> Result<Self, StoreError> {
        let revisions = Counter::load(&store, "revisions")?;
        Ok(Self {
            store,
            context: Arc::clone(context),
            shared: Arc::new(Shared {
                context: Arc::clone(context),
                state: Mutex::new(State {
                    revisions,
                    under_way: HashMap::new(),
                    watchers: Vec::new(),
                }),
            }),
        })
    }

    pub(super) fn get(&self, bucket: Bucket, key: &str) -> Result<Option<Entry>, BrokerError> {
        let value = self.live(bucket, key);
        let value = value.map_err(|e| self.context.failed(format!("reading {key}"), e))?;
        Ok(value.map(|value| value.into_entry(key.to_owned())))
    }

    /// Looks at changes from the newest on, within the first token of the prefix.
    pub(super) fn latest(
        &self,
        bucket: Bucket,
        prefix: &str,
    ) -> Result<Option<Entry>, BrokerError> {
        let operation = format!("reading the latest of {prefix}");
        let failed = |error: StoreError| self.context.failed(&operation, error);
        let changes = token_prefix(bucket, token(prefix));
        for pair in self.store.scan_prefix(CHANGES, &changes).rev() {
            let (_, value) = pair.map_err(failed)?;
            let Some((_, key)) = forms::split_change(&value) else {
                continue;
            };
            if key_within(key, prefix)
                && let Some(value) = self.live(bucket, key).map_err(failed)?
            {
                return Ok(Some(value.into_entry(key.to_owned())));
            }
        }
        Ok(None)
    }

    pub(super) async fn put(
        &self,
        bucket: Bucket,
        key: &str,
        value: Vec<u8>,
    ) -> Result<Revision, BrokerError> {
        let set = self.set(
            bucket,
            key,
            Expected::Anything,
            Some(value),
            durability(bucket),
        );
        match set.await? {
            Cas::Done(revision) => Ok(revision),
            Cas::Conflict => {
                let reason = "an unconditional write was refused";
                Err(self.context.failed(format!("setting {key}"), reason))
            }
        }
    }

    pub(super) async fn delete(&self, bucket: Bucket, key: &str) -> Result<(), BrokerError> {
        let durability = durability(bucket);
        let set = self.set(bucket, key, Expected::Anything, None, durability);
        set.await.map(|_| ())
    }

    /// Sets or (without a value) removes a key.
    pub(super) async fn set(
        &self,
        bucket: Bucket,
        key: &str,
        expected: Expected,
        value: Option<Vec<u8>>,
        durability: Durability,
    ) -> Result<Cas, BrokerError> {
        let operation = format!("setting {key}");
        check_key(key).map_err(|reason| self.context.failed(&operation, reason))?;
        let failed = |error: StoreError| self.context.failed(&operation, error);
        let bytes = value.as_ref().map_or(0, Vec::len) + 4 * key.len();
        let room = self.store.reserve(bytes).await.map_err(failed)?;
        let decided = {
            let mut state = self.shared.lock();
            let now = clock::now();
            let stored = self.current(&state, bucket, key).map_err(failed)?;
            let live = stored.filter(|current| is_live(bucket, current.changed_at, now));
            let revision = live.map(|current| Revision(current.revision));
            match expected {
                Expected::Revision(expected) if expected != revision => Err(room),
                Expected::Revision(_) | Expected::Anything => {
                    let write = Write {
                        bucket,
                        key,
                        replaced: stored.map(|current| current.revision),
                        value,
                        durability,
                    };
                    Ok(self.submit(&mut state, room, write, now))
                }
            }
        };
        let (outcome, written) = decided.unwrap_or_else(|room| {
            // An empty batch: the answer comes after the write that it tells of.
            let after = Batch::default();
            let written = self.store.submit(room, after, Durability::Crash, |_| {});
            (Cas::Conflict, written)
        });
        written.confirmed().await.map_err(failed)?;
        Ok(outcome)
    }

    /// Queues a write that was decided under the same lock.
    fn submit(
        &self,
        state: &mut State,
        room: Room,
        write: Write<'_>,
        changed_at: DateTime<Utc>,
    ) -> (Cas, Confirmation) {
        let Write { bucket, key, .. } = write;
        let mut batch = Batch::default();
        let revision = state.revisions.take(&mut batch);
        if let Some(replaced) = write.replaced {
            batch.remove(CHANGES, &change_key(bucket, key, replaced));
        }
        let value = write.value.map(|bytes| Value {
            revision: Revision(revision),
            changed_at,
            bytes,
        });
        let full = full_key(bucket, key);
        match &value {
            Some(value) => {
                let change = change_key(bucket, key, revision);
                batch.put(CHANGES, &change, change_value(key, changed_at));
                batch.put(VALUES, &full, value.encode());
            }
            None => batch.remove(VALUES, &full),
        }
        let current = value.as_ref().map(|_| Current {
            revision,
            changed_at,
        });
        state.begin(bucket, key, current);
        let shared = Arc::clone(&self.shared);
        let owned_key = key.to_owned();
        let then = move |result: &Result<(), StoreError>| {
            shared.finish(bucket, owned_key, revision, value, result);
        };
        let written = self.store.submit(room, batch, write.durability, then);
        (Cas::Done(Revision(revision)), written)
    }

    pub(super) async fn watch(&self, bucket: Bucket, prefix: &str) -> Result<Changes, BrokerError> {
        let (watcher, start) = {
            let mut state = self.shared.lock();
            let watcher = Arc::new(Watcher::new(bucket, prefix));
            state.watchers.push(Arc::downgrade(&watcher));
            (watcher, state.revisions.last())
        };
        // What was decided before the watcher was registered is applied after this, so that the
        // scan sees it; all that comes later is announced.
        match self.store.commit(Batch::default(), Durability::Crash).await {
            // Nothing more will come, but what is there can still be read, and saved.
            Ok(()) | Err(StoreError::Deleted { .. }) => {}
            Err(error) => return Err(self.context.failed(format!("watching {prefix}"), error)),
        }
        let watch = Watch::new(
            self.store.clone(),
            Arc::clone(&self.context),
            watcher,
            start,
        );
        Ok(watch.into_changes())
    }

    /// Lets every watch end after what it has been told so far.
    pub(super) fn end_watches(&self) {
        for watcher in self.shared.lock().watchers.drain(..) {
            if let Some(watcher) = watcher.upgrade() {
                watcher.end(None);
            }
        }
    }

    /// The value of a key, unless it is too old.
    fn live(&self, bucket: Bucket, key: &str) -> Result<Option<Value>, StoreError> {
        let Some(raw) = self.store.get(VALUES, &full_key(bucket, key))? else {
            return Ok(None);
        };
        let value = Value::decode(&raw).ok_or_else(|| self.context.damaged(key, "cut short"))?;
        Ok(Some(value).filter(|value| is_live(bucket, value.changed_at, clock::now())))
    }

    /// What is or will be stored under a key, however old.
    fn current(
        &self,
        state: &State,
        bucket: Bucket,
        key: &str,
    ) -> Result<Option<Current>, StoreError> {
        if let Some(under_way) = state.under_way.get(&(bucket, key.to_owned())) {
            return Ok(under_way.last);
        }
        let Some(raw) = self.store.get(VALUES, &full_key(bucket, key))? else {
            return Ok(None);
        };
        let value = Value::decode(&raw).ok_or_else(|| self.context.damaged(key, "cut short"))?;
        Ok(Some(Current {
            revision: value.revision.0,
            changed_at: value.changed_at,
        }))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(
        &self,
        bucket: Bucket,
        key: String,
        revision: u64,
        value: Option<Value>,
        result: &Result<(), StoreError>,
    ) {
        let mut state = self.lock();
        let is_news = state.end(bucket, &key, revision);
        let entry = value.map(|value| value.into_entry(key.clone()));
        let error = result.as_ref().err();
        let error = error.map(|error| self.context.failed(format!("setting {key}"), error));
        state.watchers.retain(|watcher| {
            let Some(watcher) = watcher.upgrade() else {
                return false;
            };
            match &error {
                Some(error) => watcher.end(Some(error.clone())),
                None if is_news => watcher.tell(bucket, &key, revision, entry.as_ref()),
                None => {}
            }
            true
        });
    }
}

impl State {
    fn begin(&mut self, bucket: Bucket, key: &str, last: Option<Current>) {
        let under_way = self
            .under_way
            .entry((bucket, key.to_owned()))
            .or_insert(UnderWay {
                last,
                count: 0,
                announced: 0,
            });
        under_way.last = last;
        under_way.count += 1;
    }

    /// Returns whether this revision is the newest that was confirmed.
    fn end(&mut self, bucket: Bucket, key: &str, revision: u64) -> bool {
        let subject = (bucket, key.to_owned());
        let Some(under_way) = self.under_way.get_mut(&subject) else {
            return false;
        };
        let is_news = revision > under_way.announced;
        under_way.announced = under_way.announced.max(revision);
        under_way.count -= 1;
        if under_way.count == 0 {
            self.under_way.remove(&subject);
        }
        is_news
    }
}

/// What a write survives when the caller does not say: heartbeats need no sync.
fn durability(bucket: Bucket) -> Durability {
    match bucket {
        Bucket::State | Bucket::Runs | Bucket::Locks | Bucket::Unique(_) => Durability::Power,
        Bucket::Workers => Durability::Crash,
    }
}

pub(super) fn is_live(bucket: Bucket, changed_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    let Some(max_age) = bucket.max_age() else {
        return true;
    };
    // After a step back of the clock a value is younger than nothing: it stays.
    (now - changed_at).to_std().is_ok_and(|age| age < max_age) || changed_at > now
}

#[cfg(test)]
mod tests;
