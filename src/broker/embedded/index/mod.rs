//! Which run is where: the decisions of the embedded broker's queues. Pure: `now` is handed in,
//! nothing is read or written. Bodies are not kept here.

mod remembered;
mod run;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use super::super::{QueueDepth, Slot};
use crate::{job::QueueName, run::RunId};
pub(super) use remembered::Remembered;
pub(super) use run::{Header, Taken};
use run::{SlotKey, State, Stored};

/// Longest delay; longer ones are cut to it.
const MAX_DELAY: Duration = Duration::from_secs(366 * 86_400);

/// Where every stored run stands.
#[derive(Debug)]
pub(super) struct Index {
    lease: Duration,
    runs: BTreeMap<u64, Stored>,
    slots: HashMap<SlotKey, u64>,
    queues: BTreeMap<QueueName, Queue>,
    /// When leases and delays end.
    due: BTreeSet<(Instant, u64)>,
    remembered: Remembered,
}

#[derive(Debug, Default)]
struct Queue {
    ready: BTreeSet<u64>,
    put_off: u64,
    leased: u64,
}

/// Whether a run may be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Admission {
    /// Yes, under the sequence that was offered. It is not delivered before [`Index::stored`].
    Admitted,
    /// Known already; the sequence under which it is or was stored.
    Duplicate(u64),
    /// The slot is taken.
    Occupied {
        /// The holder's sequence.
        sequence: u64,
        /// The holder.
        run_id: RunId,
    },
}

/// Why a receipt is worth nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotHeld {
    /// The run is not stored any more.
    Gone,
    /// The lease ran out, whether or not somebody else has the run now.
    Lost,
}

/// What a delivery is known by: the run and the lease under which it was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hold {
    /// The stored run.
    pub(super) sequence: u64,
    /// Unique over the life of the store.
    pub(super) lease: u64,
}

impl Index {
    pub(super) fn new(lease: Duration, remember: Duration) -> Self {
        Self {
            lease,
            runs: BTreeMap::new(),
            slots: HashMap::new(),
            queues: BTreeMap::new(),
            due: BTreeSet::new(),
            remembered: Remembered::new(remember),
        }
    }

    /// Puts a run back that was found in the store. Leases of an earlier process are void.
    pub(super) fn restore(&mut self, sequence: u64, header: Header, delay: Duration, now: Instant) {
        self.know(&header.queue);
        self.slots.insert(SlotKey::of(&header), sequence);
        self.runs.insert(sequence, Stored::new(header));
        self.put_back(sequence, delay, now);
    }

    /// Puts a message id back that was found in the store.
    pub(super) fn restore_id(&mut self, run_id: RunId, age: Duration, now: Instant) {
        self.remembered.restore(run_id, age, now);
    }

    /// Makes a queue known.
    pub(super) fn know(&mut self, queue: &QueueName) {
        if !self.queues.contains_key(queue) {
            self.queues.insert(queue.clone(), Queue::default());
        }
    }

    /// Whether a queue was seen before.
    pub(super) fn knows(&self, queue: &QueueName) -> bool {
        self.queues.contains_key(queue)
    }

    /// How many runs are stored.
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Decides on a publish. An admitted run takes its slot and its id at once.
    pub(super) fn admit(&mut self, sequence: u64, header: &Header, now: Instant) -> Admission {
        if let Some(earlier) = self.remembered.find(&header.run_id, now) {
            return Admission::Duplicate(earlier);
        }
        let slot = SlotKey::of(header);
        if let Some((sequence, holder)) = self.holder(&slot) {
            return if holder.header.run_id == header.run_id {
                Admission::Duplicate(sequence)
            } else {
                Admission::Occupied {
                    sequence,
                    run_id: holder.header.run_id.clone(),
                }
            };
        }
        self.know(&header.queue);
        self.slots.insert(slot, sequence);
        self.remembered.add(header.run_id.clone(), sequence, now);
        self.runs.insert(sequence, Stored::new(header.clone()));
        Admission::Admitted
    }

    /// An admitted run is durable: it may be delivered. Returns its queue.
    pub(super) fn stored(&mut self, sequence: u64, now: Instant) -> Option<QueueName> {
        let run = self.runs.get(&sequence)?;
        if run.state != State::Storing {
            return None;
        }
        let queue = run.header.queue.clone();
        self.put_back(sequence, Duration::ZERO, now);
        Some(queue)
    }

    /// An admitted run could not be stored: as if it had never been published.
    pub(super) fn not_stored(&mut self, sequence: u64) {
        if let Some(header) = self.take_out(sequence) {
            self.remembered.forget(&header.run_id);
        }
    }

    /// Whether a run was admitted and is not yet durable.
    pub(super) fn is_storing(&self, sequence: u64) -> bool {
        let run = self.runs.get(&sequence);
        run.is_some_and(|run| run.state == State::Storing)
    }

    /// Hands out up to `max` runs: first the shares, then by order of preference. `next_lease`
    /// makes a new number for each.
    pub(super) fn take(
        &mut self,
        shares: &[(QueueName, usize)],
        max: usize,
        now: Instant,
        mut next_lease: impl FnMut() -> u64,
    ) -> Vec<Taken> {
        let mut taken = Vec::new();
        let by_preference = shares.iter().map(|(queue, _)| (queue, usize::MAX));
        let by_share = shares.iter().map(|(queue, share)| (queue, *share));
        for (queue, share) in by_share.chain(by_preference) {
            self.know(queue);
            for _ in 0..share.min(max - taken.len()) {
                let Some(sequence) = self.pop_ready(queue) else {
                    break;
                };
                taken.extend(self.lease_out(sequence, next_lease(), now));
            }
        }
        taken
    }

    /// Starts the lease anew.
    pub(super) fn renew(&mut self, hold: Hold, now: Instant) -> Result<(), NotHeld> {
        let until = now + self.lease;
        let old = self.held(hold, now)?;
        self.due.remove(&(old, hold.sequence));
        self.due.insert((until, hold.sequence));
        if let Some(run) = self.runs.get_mut(&hold.sequence) {
            run.state = State::Leased {
                lease: hold.lease,
                until,
            };
        }
        Ok(())
    }

    /// Removes a held run for good.
    pub(super) fn settle(&mut self, hold: Hold, now: Instant) -> Result<(), NotHeld> {
        self.held(hold, now)?;
        self.take_out(hold.sequence);
        Ok(())
    }

    /// Gives a held run back, to be delivered after `delay`. Returns what is to be stored of it.
    pub(super) fn release(
        &mut self,
        hold: Hold,
        delay: Duration,
        now: Instant,
    ) -> Result<Header, NotHeld> {
        self.held(hold, now)?;
        self.put_back(hold.sequence, delay, now);
        let run = self.runs.get(&hold.sequence).ok_or(NotHeld::Gone)?;
        Ok(run.header.clone())
    }

    /// Removes a stored run of `queue`, whoever holds it. Returns whether it was there.
    pub(super) fn remove(&mut self, sequence: u64, queue: &QueueName) -> bool {
        match self.runs.get(&sequence) {
            Some(run) if run.state != State::Storing && run.header.queue == *queue => {
                self.take_out(sequence).is_some()
            }
            Some(_) | None => false,
        }
    }

    /// Makes available what leases and delays held until `now`; the queue of each such run.
    pub(super) fn advance(&mut self, now: Instant) -> Vec<QueueName> {
        let mut woken = Vec::new();
        while let Some((until, sequence)) = self.due.first().copied() {
            if until > now {
                break;
            }
            self.due.pop_first();
            self.put_back(sequence, Duration::ZERO, now);
            woken.extend(self.runs.get(&sequence).map(|run| run.header.queue.clone()));
        }
        woken
    }

    /// When [`Index::advance`] has something to do next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(until, _)| *until)
    }

    /// Message ids that are old enough to be forgotten.
    pub(super) fn forget_ids(&mut self, now: Instant) -> Vec<RunId> {
        self.remembered.expire(now)
    }

    /// The stored runs from a sequence on.
    pub(super) fn pending(&self, from: u64) -> impl Iterator<Item = (u64, &QueueName)> {
        let durable = |(_, run): &(&u64, &Stored)| run.state != State::Storing;
        self.runs
            .range(from..)
            .filter(durable)
            .map(|(sequence, run)| (*sequence, &run.header.queue))
    }

    /// The stored run that occupies a slot.
    pub(super) fn occupant(&self, queue: &QueueName, run_id: &RunId, slot: Slot) -> Option<u64> {
        let (sequence, run) = self.holder(&SlotKey::new(queue, run_id, slot))?;
        (run.state != State::Storing).then_some(sequence)
    }

    /// Every known queue.
    pub(super) fn depths(&self) -> Vec<QueueDepth> {
        let depth = |(name, queue): (&QueueName, &Queue)| QueueDepth {
            queue: name.clone(),
            waiting: queue.ready.len() as u64 + queue.put_off,
            running: queue.leased,
        };
        self.queues.iter().map(depth).collect()
    }

    fn holder(&self, slot: &SlotKey) -> Option<(u64, &Stored)> {
        let sequence = *self.slots.get(slot)?;
        Some((sequence, self.runs.get(&sequence)?))
    }

    /// When the hold ends, if it is one.
    fn held(&self, hold: Hold, now: Instant) -> Result<Instant, NotHeld> {
        let run = self.runs.get(&hold.sequence).ok_or(NotHeld::Gone)?;
        match run.state {
            State::Leased { lease, until } if lease == hold.lease && until > now => Ok(until),
            State::Leased { .. } | State::Storing | State::Ready | State::PutOff { .. } => {
                Err(NotHeld::Lost)
            }
        }
    }

    fn pop_ready(&mut self, queue: &QueueName) -> Option<u64> {
        self.queues.get_mut(queue)?.ready.pop_first()
    }

    fn lease_out(&mut self, sequence: u64, lease: u64, now: Instant) -> Option<Taken> {
        let until = now + self.lease;
        let run = self.runs.get_mut(&sequence)?;
        run.state = State::Leased { lease, until };
        run.header.deliveries += 1;
        self.due.insert((until, sequence));
        if let Some(queue) = self.queues.get_mut(&run.header.queue) {
            queue.leased += 1;
        }
        Some(Taken {
            hold: Hold { sequence, lease },
            header: run.header.clone(),
        })
    }

    /// Makes a run available, now or after a delay.
    fn put_back(&mut self, sequence: u64, delay: Duration, now: Instant) {
        self.detach(sequence);
        let Some(run) = self.runs.get_mut(&sequence) else {
            return;
        };
        let Some(queue) = self.queues.get_mut(&run.header.queue) else {
            return;
        };
        if delay.is_zero() {
            run.state = State::Ready;
            queue.ready.insert(sequence);
        } else {
            let until = now + delay.min(MAX_DELAY);
            run.state = State::PutOff { until };
            queue.put_off += 1;
            self.due.insert((until, sequence));
        }
    }

    /// Takes a run out of whatever its state keeps it in; its state must be set anew after that.
    fn detach(&mut self, sequence: u64) {
        let Some(run) = self.runs.get(&sequence) else {
            return;
        };
        let Some(queue) = self.queues.get_mut(&run.header.queue) else {
            return;
        };
        match run.state {
            State::Storing => {}
            State::Ready => {
                queue.ready.remove(&sequence);
            }
            State::PutOff { until } => {
                queue.put_off = queue.put_off.saturating_sub(1);
                self.due.remove(&(until, sequence));
            }
            State::Leased { until, .. } => {
                queue.leased = queue.leased.saturating_sub(1);
                self.due.remove(&(until, sequence));
            }
        }
    }

    fn take_out(&mut self, sequence: u64) -> Option<Header> {
        self.detach(sequence);
        let run = self.runs.remove(&sequence)?;
        let slot = SlotKey::of(&run.header);
        if self.slots.get(&slot) == Some(&sequence) {
            self.slots.remove(&slot);
        }
        Some(run.header)
    }
}

#[cfg(test)]
mod tests;
