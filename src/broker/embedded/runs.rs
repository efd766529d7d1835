//! The queues: the index, and the store behind it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;

use super::{
    context::{Context, split_number},
    counter::Counter,
    index::{Admission, Header, Hold, Index, NotHeld, Taken},
};
use crate::{
    broker::{BrokerError, Delivery, Outgoing, Pending, Published, QueueDepth, Receipt, Slot},
    clock,
    job::QueueName,
    run::RunId,
    store::{Batch, Durability, Store, StoreError, Tree},
};

mod load;
mod publish;
mod pull;

/// [`Header`]s, by sequence.
const HEADERS: Tree = Tree::named("q");

/// The published bytes, by sequence.
const PAYLOADS: Tree = Tree::named("p");

/// When a message id was accepted, by id.
const IDS: Tree = Tree::named("u");

/// The names of all queues to which something was published.
const QUEUES: Tree = Tree::named("n");

/// How long a message id is remembered; the trait promises two minutes.
const REMEMBER: Duration = Duration::from_secs(150);

/// What one header, its id and its keys take, roughly.
const HEADER_BYTES: usize = 300;

/// The stored runs and who waits for them.
#[derive(Debug)]
pub(super) struct Runs {
    store: Store,
    lease: Duration,
    context: Arc<Context>,
    shared: Arc<Shared>,
}

/// What the writing thread may touch when a write is done; must not own the store.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Rung when the next lease or delay ends earlier than it did.
    due_changed: Notify,
}

#[derive(Debug)]
struct State {
    index: Index,
    /// Gives sequences and leases.
    counter: Counter,
    /// Where pulls wait, by queue; rung once for each run that becomes available.
    bells: HashMap<QueueName, Arc<Notify>>,
}

impl Runs {
    pub(super) fn load(
        store: Store,
        context: &Arc<Context>,
        lease: Duration,
    ) -> Result<Self, StoreError> {
        let index = load::index(&store, context, Index::new(lease, REMEMBER))?;
        let counter = Counter::load(&store, "runs")?;
        Ok(Self {
            store,
            lease,
            context: Arc::clone(context),
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    index,
                    counter,
                    bells: HashMap::new(),
                }),
                due_changed: Notify::new(),
            }),
        })
    }

    pub(super) fn renew(&self, receipt: &Receipt) -> Result<(), BrokerError> {
        let hold = self.hold("renewing", receipt)?;
        let renewed = self.shared.lock().index.renew(hold, clock::monotonic());
        renewed.map_err(|refused| self.not_held("renewing", hold, refused))
    }

    pub(super) async fn ack(&self, receipt: &Receipt) -> Result<(), BrokerError> {
        let operation = "acknowledging";
        let hold = self.hold(operation, receipt)?;
        let failed = |error: StoreError| self.context.failed(operation, error);
        let room = self.store.reserve(HEADER_BYTES).await.map_err(failed)?;
        let written = {
            let mut state = self.shared.lock();
            let batch = match state.index.settle(hold, clock::monotonic()) {
                Ok(()) => removal(hold.sequence),
                // Acknowledged before: say so again, after that is durable.
                Err(NotHeld::Gone) => Batch::default(),
                Err(refused) => return Err(self.not_held(operation, hold, refused)),
            };
            self.store.submit(room, batch, Durability::Crash, |_| {})
        };
        written.confirmed().await.map_err(failed)
    }

    pub(super) async fn release(
        &self,
        receipt: &Receipt,
        delay: Duration,
    ) -> Result<(), BrokerError> {
        let operation = "giving back";
        let hold = self.hold(operation, receipt)?;
        let failed = |error: StoreError| self.context.failed(operation, error);
        let room = self.store.reserve(HEADER_BYTES).await.map_err(failed)?;
        let not_before = chrono::TimeDelta::from_std(delay)
            .ok()
            .and_then(|delay| clock::now().checked_add_signed(delay));
        let written = {
            let mut state = self.shared.lock();
            let now = clock::monotonic();
            let due = state.index.next_due();
            let released = state.index.release(hold, delay, now);
            let header = released.map_err(|refused| self.not_held(operation, hold, refused))?;
            if delay.is_zero() {
                state.ring(&header.queue);
            } else {
                self.shared.tell_due(due, state.index.next_due());
            }
            let header = Header {
                not_before: not_before.filter(|_| !delay.is_zero()),
                ..header
            };
            let mut batch = Batch::default();
            let key = hold.sequence.to_be_bytes();
            batch.put(HEADERS, &key, self.encode(&header)?);
            self.store.submit(room, batch, Durability::Crash, |_| {})
        };
        written.confirmed().await.map_err(failed)
    }

    pub(super) async fn pending(
        &self,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Pending>, BrokerError> {
        let found: Vec<_> = {
            let state = self.shared.lock();
            let stored = state.index.pending(from).take(limit);
            stored
                .map(|(sequence, queue)| (sequence, queue.clone()))
                .collect()
        };
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || {
            let read = |(sequence, queue)| read_pending(&store, sequence, queue).transpose();
            found.into_iter().filter_map(read).collect()
        });
        let operation = "listing the stored runs";
        let runs: Result<_, StoreError> = read
            .await
            .map_err(|error| self.context.failed(operation, error))?;
        runs.map_err(|error| self.context.failed(operation, error))
    }

    pub(super) fn occupant(
        &self,
        queue: &QueueName,
        run_id: &RunId,
        slot: Slot,
    ) -> Result<Option<Pending>, BrokerError> {
        let Some(sequence) = self.shared.lock().index.occupant(queue, run_id, slot) else {
            return Ok(None);
        };
        read_pending(&self.store, sequence, queue.clone())
            .map_err(|error| self.context.failed(format!("looking for {run_id}"), error))
    }

    pub(super) async fn remove(&self, pending: &Pending) -> Result<bool, BrokerError> {
        let operation = format!("removing run number {}", pending.sequence);
        let failed = |error: StoreError| self.context.failed(&operation, error);
        let room = self.store.reserve(HEADER_BYTES).await.map_err(failed)?;
        let written = {
            let mut state = self.shared.lock();
            if !state.index.remove(pending.sequence, &pending.queue) {
                return Ok(false);
            }
            let batch = removal(pending.sequence);
            self.store.submit(room, batch, Durability::Crash, |_| {})
        };
        written.confirmed().await.map_err(failed)?;
        Ok(true)
    }

    pub(super) fn queues(&self) -> Vec<QueueDepth> {
        let mut state = self.shared.lock();
        state.advance(clock::monotonic());
        state.index.depths()
    }

    /// Forgets message ids whose time is over.
    pub(super) async fn forget_ids(&self) -> Result<(), StoreError> {
        let room = self.store.reserve(HEADER_BYTES).await?;
        let written = {
            let mut state = self.shared.lock();
            let mut batch = Batch::default();
            for run_id in state.index.forget_ids(clock::monotonic()) {
                batch.remove(IDS, run_id.to_string().as_bytes());
            }
            self.store.submit(room, batch, Durability::Crash, |_| {})
        };
        written.confirmed().await
    }

    /// Makes available what leases and delays held, when they end. Never returns.
    pub(super) async fn watch_due(&self) {
        loop {
            let changed = self.shared.due_changed.notified();
            let next = {
                let mut state = self.shared.lock();
                state.advance(clock::monotonic());
                state.index.next_due()
            };
            match next {
                Some(due) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(due.into()) => {}
                    }
                }
                None => changed.await,
            }
        }
    }

    fn encode(&self, header: &Header) -> Result<Vec<u8>, BrokerError> {
        serde_json::to_vec(header).map_err(|error| {
            self.context
                .failed(format!("encoding {}", header.run_id), error)
        })
    }

    fn hold(&self, operation: &str, receipt: &Receipt) -> Result<Hold, BrokerError> {
        let parse = || {
            let (sequence, lease) = receipt.0.split_once('.')?;
            Some(Hold {
                sequence: sequence.parse().ok()?,
                lease: lease.parse().ok()?,
            })
        };
        parse().ok_or_else(|| {
            let reason = format!("`{}` is not a receipt of this broker", receipt.0);
            self.context.failed(operation, reason)
        })
    }

    fn not_held(&self, operation: &str, hold: Hold, refused: NotHeld) -> BrokerError {
        let reason = match refused {
            NotHeld::Gone => "the run is not stored any more",
            NotHeld::Lost => "the lease was lost",
        };
        let operation = format!("{operation} run number {}", hold.sequence);
        self.context.failed(operation, reason)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish_done(&self, sequence: u64, stored: bool) {
        let mut state = self.lock();
        if !stored {
            state.index.not_stored(sequence);
        } else if let Some(queue) = state.index.stored(sequence, clock::monotonic()) {
            state.ring(&queue);
        }
    }

    /// Wakes [`Runs::watch_due`] if it would sleep too long.
    fn tell_due(&self, before: Option<Instant>, after: Option<Instant>) {
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.due_changed.notify_one();
        }
    }
}

impl State {
    fn ring(&self, queue: &QueueName) {
        if let Some(bell) = self.bells.get(queue) {
            bell.notify_one();
        }
    }

    fn advance(&mut self, now: Instant) {
        for queue in self.index.advance(now) {
            self.ring(&queue);
        }
    }
}

fn removal(sequence: u64) -> Batch {
    let mut batch = Batch::default();
    batch.remove(HEADERS, &sequence.to_be_bytes());
    batch.remove(PAYLOADS, &sequence.to_be_bytes());
    batch
}

fn read_pending(
    store: &Store,
    sequence: u64,
    queue: QueueName,
) -> Result<Option<Pending>, StoreError> {
    let payload = store.get(PAYLOADS, &sequence.to_be_bytes())?;
    Ok(payload.map(|payload| Pending {
        sequence,
        queue,
        payload,
        subject: String::new(),
        signature: None,
    }))
}

fn milliseconds(at: DateTime<Utc>) -> Vec<u8> {
    at.timestamp_millis().to_be_bytes().to_vec()
}
