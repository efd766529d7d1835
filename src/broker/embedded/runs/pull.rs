//! Handing out runs, and waiting for them.

use std::{pin::Pin, sync::Arc};

use futures::future::select_all;
use tokio::sync::{Notify, futures::Notified};
use tokio_util::sync::CancellationToken;

use super::{
    Batch, BrokerError, Delivery, Durability, HEADER_BYTES, HEADERS, PAYLOADS, Receipt, Runs,
    StoreError, Taken, clock,
};
use crate::broker::PullRequest;

impl Runs {
    /// See [`crate::broker::Broker::pull`]. There is no await between taking runs and returning
    /// them: a caller that gives up waiting loses none.
    pub(in super::super) async fn pull(
        &self,
        request: &PullRequest,
        stop: &CancellationToken,
    ) -> Result<Vec<Delivery>, BrokerError> {
        let deadline = tokio::time::Instant::from_std(clock::monotonic()) + request.wait;
        let bells = self.bells(request);
        if request.max == 0 {
            return Ok(Vec::new());
        }
        loop {
            // Listening starts before looking, so that nothing is missed in between.
            let mut rung: Vec<_> = bells.iter().map(|bell| Box::pin(bell.notified())).collect();
            for listening in &mut rung {
                listening.as_mut().enable();
            }
            let room = self.store.reserve(HEADER_BYTES).await;
            let room = room.map_err(|error| self.pull_failed(error))?;
            if stop.is_cancelled() {
                return Ok(Vec::new());
            }
            let taken = self.take(request, room)?;
            if !taken.is_empty() {
                return self.deliveries(taken);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Vec::new()),
                () = any(rung) => {}
                () = tokio::time::sleep_until(deadline) => return Ok(Vec::new()),
            }
        }
    }

    fn bells(&self, request: &PullRequest) -> Vec<Arc<Notify>> {
        let mut state = self.shared.lock();
        let bell =
            |(queue, _): &(_, _)| Arc::clone(state.bells.entry(Clone::clone(queue)).or_default());
        request.shares.iter().map(bell).collect()
    }

    /// Takes what is there. The counts of deliveries are queued to be written; nobody waits for
    /// that, because if it fails everything does.
    fn take(
        &self,
        request: &PullRequest,
        room: crate::store::Room,
    ) -> Result<Vec<Taken>, BrokerError> {
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        let now = clock::monotonic();
        state.advance(now);
        let due = state.index.next_due();
        let mut batch = Batch::default();
        let counter = &mut state.counter;
        let next_lease = || counter.take(&mut batch);
        let taken = state
            .index
            .take(&request.shares, request.max, now, next_lease);
        for run in &taken {
            let key = run.hold.sequence.to_be_bytes();
            batch.put(HEADERS, &key, self.encode(&run.header)?);
        }
        if !batch.is_empty() {
            drop(self.store.submit(room, batch, Durability::Crash, |_| {}));
        }
        self.shared.tell_due(due, state.index.next_due());
        Ok(taken)
    }

    fn deliveries(&self, taken: Vec<Taken>) -> Result<Vec<Delivery>, BrokerError> {
        let mut deliveries = Vec::with_capacity(taken.len());
        for Taken { hold, header } in taken {
            let payload = self.store.get(PAYLOADS, &hold.sequence.to_be_bytes());
            // Without a payload it was removed just now.
            if let Some(payload) = payload.map_err(|error| self.pull_failed(error))? {
                deliveries.push(Delivery {
                    held_for: std::time::Duration::ZERO,
                    receipt: Receipt(format!("{}.{}", hold.sequence, hold.lease)),
                    sequence: hold.sequence,
                    queue: header.queue,
                    deliveries: header.deliveries,
                    lease: self.lease,
                    payload,
                    subject: String::new(),
                    signature: None,
                });
            }
        }
        Ok(deliveries)
    }

    fn pull_failed(&self, error: StoreError) -> BrokerError {
        self.context.failed("pulling", error)
    }
}

/// Returns when one of the bells was rung; a ring that comes to the others meanwhile is passed on
/// to whoever else listens to them.
async fn any(rung: Vec<Pin<Box<Notified<'_>>>>) {
    if rung.is_empty() {
        std::future::pending::<()>().await;
    }
    select_all(rung).await;
}
