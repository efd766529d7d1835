//! Accepting runs.

use std::sync::Arc;

use super::{
    Admission, Batch, BrokerError, Durability, HEADER_BYTES, HEADERS, Header, IDS, Outgoing,
    PAYLOADS, Published, QUEUES, Runs, StoreError, clock, milliseconds,
};
use crate::store::{Confirmation, Room};

/// How many runs may be stored at once.
const MAX_STORED: usize = 1_000_000;

/// Largest payload: a message may have 1 MiB.
const MAX_PAYLOAD: usize = 1 << 20;

impl Runs {
    pub(in super::super) async fn publish(&self, run: Outgoing) -> Result<Published, BrokerError> {
        let operation = format!("publishing {}", run.run_id);
        let failed = |error: StoreError| self.context.failed(&operation, error);
        let size = run.payload.len();
        if size > MAX_PAYLOAD {
            let reason = format!("{size} bytes are more than the limit of {MAX_PAYLOAD}");
            return Err(self.context.failed(&operation, reason));
        }
        let room = self.store.reserve(size + HEADER_BYTES).await;
        let room = room.map_err(failed)?;
        let (published, written) = self.decide(run, room, &operation)?;
        written.confirmed().await.map_err(failed)?;
        Ok(published)
    }

    /// Decides on a run and queues what follows, in one go.
    fn decide(
        &self,
        run: Outgoing,
        room: Room,
        operation: &str,
    ) -> Result<(Published, Confirmation), BrokerError> {
        let header = Header {
            run_id: run.run_id,
            queue: run.queue,
            slot: run.slot,
            deliveries: 0,
            not_before: None,
        };
        let encoded = self.encode(&header)?;
        let mut state = self.shared.lock();
        if state.index.len() >= MAX_STORED {
            let reason = format!("{MAX_STORED} runs are stored already");
            return Err(self.context.full(operation, reason));
        }
        let mut batch = Batch::default();
        let sequence = state.counter.take(&mut batch);
        let is_new_queue = !state.index.knows(&header.queue);
        let (published, earlier) = match state.index.admit(sequence, &header, clock::monotonic()) {
            Admission::Admitted => {
                let key = sequence.to_be_bytes();
                batch.put(HEADERS, &key, encoded);
                batch.put(PAYLOADS, &key, run.payload);
                let id = header.run_id.to_string();
                batch.put(IDS, id.as_bytes(), milliseconds(clock::now()));
                if is_new_queue {
                    batch.put(QUEUES, header.queue.as_str().as_bytes(), Vec::new());
                }
                let shared = Arc::clone(&self.shared);
                let then = move |result: &Result<(), StoreError>| {
                    shared.publish_done(sequence, result.is_ok());
                };
                let written = self.store.submit(room, batch, Durability::Power, then);
                return Ok((Published::Stored, written));
            }
            Admission::Duplicate(earlier) => (Published::Duplicate, earlier),
            Admission::Occupied { sequence, run_id } => (Published::Occupied(run_id), sequence),
        };
        // An answer about a run that is being stored must not come before that is done: what is
        // queued behind it is confirmed after it. The batch has at most what the counter set
        // aside.
        let durability = if state.index.is_storing(earlier) {
            Durability::Power
        } else {
            Durability::Crash
        };
        let written = self.store.submit(room, batch, durability, |_| {});
        Ok((published, written))
    }
}
