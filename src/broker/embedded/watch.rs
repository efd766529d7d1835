//! Watching keys: first a scan of what is there, then what was announced since. A watcher that
//! falls behind finds the last value of every key, not every value between.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::StreamExt;
use tokio::sync::Notify;

use super::{
    context::Context,
    kv::{VALUES, Value, full_key, is_live, key_within, scan_end},
};
use crate::{
    broker::{BrokerError, Bucket, Change, Changes, Entry},
    clock,
    store::{Store, StoreError},
};

/// How many values are read at once.
const PAGE: usize = 256;

/// How many keys may be waiting for a watcher. One that is further behind is sent off.
const MAX_WAITING: usize = 65_536;

/// Where announcements are put down for one watch.
#[derive(Debug)]
pub(super) struct Watcher {
    bucket: Bucket,
    prefix: String,
    waiting: Mutex<Waiting>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: BTreeMap<u64, Change>,
    by_key: HashMap<String, u64>,
    ended: Option<End>,
}

#[derive(Debug)]
enum End {
    InOrder,
    Failed(BrokerError),
    TooSlow,
}

impl Watcher {
    pub(super) fn new(bucket: Bucket, prefix: &str) -> Self {
        Self {
            bucket,
            prefix: prefix.to_owned(),
            waiting: Mutex::default(),
            bell: Notify::new(),
        }
    }

    /// Announces the new value of a key, or its removal. Never waits.
    pub(super) fn tell(&self, bucket: Bucket, key: &str, revision: u64, entry: Option<&Entry>) {
        if bucket != self.bucket || !key_within(key, &self.prefix) {
            return;
        }
        let change = match entry {
            Some(entry) => Change::Put(entry.clone()),
            None => Change::Deleted {
                key: key.to_owned(),
            },
        };
        let mut waiting = self.lock();
        if let Some(older) = waiting.by_key.insert(key.to_owned(), revision) {
            waiting.changes.remove(&older);
        }
        waiting.changes.insert(revision, change);
        if waiting.changes.len() > MAX_WAITING {
            *waiting = Waiting {
                ended: Some(End::TooSlow),
                ..Waiting::default()
            };
        }
        drop(waiting);
        self.bell.notify_one();
    }

    /// Ends the watch after what was announced.
    pub(super) fn end(&self, error: Option<BrokerError>) {
        let end = error.map_or(End::InOrder, End::Failed);
        self.lock().ended.get_or_insert(end);
        self.bell.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reading side.
pub(super) struct Watch {
    store: Store,
    context: Arc<Context>,
    watcher: Arc<Watcher>,
    /// Everything up to this revision is found by the scan.
    start: u64,
    /// What the scan found beyond `start`: not to be told again.
    seen: HashMap<String, u64>,
    phase: Phase,
}

enum Phase {
    Scanning {
        after: Option<Vec<u8>>,
        page: VecDeque<Entry>,
    },
    Live,
    Over,
}

impl Watch {
    pub(super) fn new(
        store: Store,
        context: Arc<Context>,
        watcher: Arc<Watcher>,
        start: u64,
    ) -> Self {
        Self {
            store,
            context,
            watcher,
            start,
            seen: HashMap::new(),
            phase: Phase::Scanning {
                after: None,
                page: VecDeque::new(),
            },
        }
    }

    pub(super) fn into_changes(self) -> Changes {
        let next = async |mut watch: Self| Some((watch.next().await?, watch));
        futures::stream::unfold(self, next).boxed()
    }

    async fn next(&mut self) -> Option<Result<Change, BrokerError>> {
        loop {
            match &mut self.phase {
                Phase::Scanning { after, page } => {
                    if let Some(entry) = page.pop_front() {
                        return Some(Ok(Change::Put(entry)));
                    }
                    let after = after.take();
                    match self.read_page(after.as_deref()) {
                        Ok(Some(phase)) => self.phase = phase,
                        Ok(None) => {
                            self.phase = Phase::Live;
                            return Some(Ok(Change::Current));
                        }
                        Err(error) => {
                            self.phase = Phase::Over;
                            let operation = format!("watching {}", self.watcher.prefix);
                            return Some(Err(self.context.failed(operation, error)));
                        }
                    }
                    tokio::task::yield_now().await;
                }
                Phase::Live => match self.announced() {
                    Some(outcome) => return outcome,
                    // A ring before this is kept for us.
                    None => self.watcher.bell.notified().await,
                },
                Phase::Over => return None,
            }
        }
    }

    /// The next values of the scan; `None` at its end.
    fn read_page(&mut self, after: Option<&[u8]>) -> Result<Option<Phase>, StoreError> {
        let (bucket, prefix) = (self.watcher.bucket, &self.watcher.prefix);
        let first = full_key(bucket, prefix);
        let from = after.map_or(Bound::Included(&first[..]), Bound::Excluded);
        let end = scan_end(bucket, prefix);
        let mut last = None;
        let mut page = VecDeque::new();
        let now = clock::now();
        for pair in self
            .store
            .range(VALUES, from, Bound::Excluded(&end))
            .take(PAGE)
        {
            let (full, raw) = pair?;
            let key = String::from_utf8_lossy(&full[1..]).into_owned();
            let value = Value::decode(&raw).ok_or_else(|| self.context.damaged(&key, "short"))?;
            if is_live(bucket, value.changed_at, now) {
                if value.revision.0 > self.start {
                    self.seen.insert(key.clone(), value.revision.0);
                }
                page.push_back(value.into_entry(key));
            }
            last = Some(full);
        }
        Ok(last.map(|last| Phase::Scanning {
            after: Some(last),
            page,
        }))
    }

    /// The next announcement that is news, or the end.
    #[allow(
        clippy::option_option,
        reason = "nothing yet, the end of the stream, or an item of it"
    )]
    fn announced(&mut self) -> Option<Option<Result<Change, BrokerError>>> {
        let mut waiting = self.watcher.lock();
        while let Some((revision, change)) = waiting.changes.pop_first() {
            let key = match &change {
                Change::Put(entry) => &entry.key,
                Change::Deleted { key } => key,
                Change::Current => continue,
            };
            waiting.by_key.remove(key);
            let seen = self.seen.remove(key).unwrap_or(self.start);
            if revision > seen.max(self.start) {
                return Some(Some(Ok(change)));
            }
            if seen > revision {
                // The scan was ahead of the announcements; that one is still to come.
                self.seen.insert(key.clone(), seen);
            }
        }
        let end = waiting.ended.take()?;
        drop(waiting);
        self.phase = Phase::Over;
        let operation = format!("watching {}", self.watcher.prefix);
        match end {
            End::InOrder => Some(None),
            End::Failed(error) => Some(Some(Err(error))),
            End::TooSlow => {
                let reason = format!("more than {MAX_WAITING} changes behind; watch again");
                Some(Some(Err(self.context.unreachable(operation, reason))))
            }
        }
    }
}
