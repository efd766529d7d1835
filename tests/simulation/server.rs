//! The broker as a pure state machine, with the semantics of JetStream as `orchestrator::broker` states them:
//! slots, a window of remembered ids, leases that run out, delayed returns, revisions. It does not fence: a
//! settlement counts whoever sends it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use orchestrator::{
    broker::{
        Bucket, Cas, Change, DeadLetter, Delivery, Entry, Outgoing, Pending, Published,
        PullRequest, Receipt, Revision, Slot,
    },
    job::QueueName,
    run::RunId,
};
use tokio::{sync::mpsc, time::Instant};

/// How long the id of a run is remembered.
const REMEMBER: Duration = Duration::from_secs(120);

/// A stored run.
#[derive(Debug, Clone)]
pub struct Stored {
    pub run: Outgoing,
    deliveries: u64,
    condition: Condition,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Condition {
    /// It can be taken from then on: at once, after its delay, or when its lease is over.
    From(Instant),
    /// It is kept, but delivered to nobody: what servers up to 2.9 make of a forgotten acknowledgement.
    Stuck,
}

#[derive(Debug)]
struct Value {
    revision: Revision,
    bytes: Vec<u8>,
    changed: Instant,
}

/// Who hears of changes.
#[derive(Debug)]
struct Watcher {
    machine: usize,
    bucket: Bucket,
    prefix: String,
    tell: mpsc::UnboundedSender<Change>,
}

/// Everything that the broker keeps.
#[derive(Debug)]
pub struct Server {
    lease: Duration,
    last: u64,
    runs: BTreeMap<u64, Stored>,
    remembered: BTreeMap<RunId, Instant>,
    /// What was acknowledged a moment ago.
    settled: Vec<(Instant, u64, Stored)>,
    values: BTreeMap<(Bucket, String), Value>,
    watchers: Vec<Watcher>,
    pub dead: Vec<(u64, DeadLetter)>,
}

impl Server {
    pub fn new(lease: Duration) -> Self {
        Self {
            lease,
            last: 0,
            runs: BTreeMap::new(),
            remembered: BTreeMap::new(),
            settled: Vec::new(),
            values: BTreeMap::new(),
            watchers: Vec::new(),
            dead: Vec::new(),
        }
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub fn publish(&mut self, run: &Outgoing, now: Instant) -> Published {
        self.remembered.retain(|_, at| now - *at < REMEMBER);
        if self.remembered.contains_key(&run.run_id) {
            return Published::Duplicate;
        }
        if let Some((_, stored)) = self.in_slot(&run.queue, &run.run_id, run.slot) {
            return match stored.run.run_id == run.run_id {
                true => Published::Duplicate,
                false => Published::Occupied(stored.run.run_id.clone()),
            };
        }
        self.remembered.insert(run.run_id.clone(), now);
        let sequence = self.next();
        let stored = Stored {
            run: run.clone(),
            deliveries: 0,
            condition: Condition::From(now),
        };
        self.runs.insert(sequence, stored);
        Published::Stored
    }

    fn in_slot(&self, queue: &QueueName, run_id: &RunId, slot: Slot) -> Option<(u64, &Stored)> {
        let mut all = self.runs.iter();
        let found = all.find(|(_, stored)| {
            let run = &stored.run;
            run.slot == slot
                && run.queue == *queue
                && run.run_id.job() == run_id.job()
                && (slot != Slot::Run || run.run_id == *run_id)
        });
        found.map(|(sequence, stored)| (*sequence, stored))
    }

    pub fn occupant(&self, queue: &QueueName, run_id: &RunId, slot: Slot) -> Option<Pending> {
        let (sequence, stored) = self.in_slot(queue, run_id, slot)?;
        Some(pending(sequence, stored))
    }

    pub fn pending(&self, from: u64, limit: usize) -> Vec<Pending> {
        let runs = self.runs.range(from..).take(limit);
        runs.map(|(sequence, stored)| pending(*sequence, stored))
            .collect()
    }

    pub fn stored(&self, sequence: u64) -> Option<&Stored> {
        self.runs.get(&sequence)
    }

    pub fn all(&self) -> impl Iterator<Item = &Stored> {
        self.runs.values()
    }

    /// Hands out what can be taken now.
    pub fn take(&mut self, request: &PullRequest, now: Instant) -> Vec<Delivery> {
        let mut taken = Vec::new();
        let shares = request.shares.iter().map(|(queue, share)| (queue, *share));
        let rest = request.shares.iter().map(|(queue, _)| (queue, request.max));
        for (queue, share) in shares.chain(rest) {
            let free = self.runs.iter().filter(|(_, stored)| {
                stored.run.queue == *queue
                    && matches!(stored.condition, Condition::From(at) if at <= now)
            });
            let room = request.max - taken.len();
            let found: Vec<u64> = free
                .map(|(sequence, _)| *sequence)
                .take(share.min(room))
                .collect();
            for sequence in found {
                taken.push(self.deliver(sequence, now));
            }
        }
        taken
    }

    fn deliver(&mut self, sequence: u64, now: Instant) -> Delivery {
        let stored = self.runs.get_mut(&sequence).unwrap();
        stored.deliveries += 1;
        stored.condition = Condition::From(now + self.lease);
        let text = format!("{sequence}.{}", stored.deliveries);
        Delivery {
            receipt: serde_json::from_value(text.into()).unwrap(),
            sequence,
            queue: stored.run.queue.clone(),
            deliveries: stored.deliveries,
            lease: self.lease,
            held_for: Duration::ZERO,
            payload: stored.run.payload.clone(),
            subject: String::new(),
            signature: None,
        }
    }

    /// When the next run can be taken.
    pub fn next_due(&self) -> Option<Instant> {
        let due = self.runs.values().filter_map(|run| match run.condition {
            Condition::From(at) => Some(at),
            Condition::Stuck => None,
        });
        due.min()
    }

    pub fn renew(&mut self, sequence: u64, now: Instant) {
        if let Some(stored) = self.runs.get_mut(&sequence) {
            match &mut stored.condition {
                // Also one whose lease was forgotten and that nobody has taken: see decision 17.
                Condition::From(at) => *at = now + self.lease,
                Condition::Stuck => {}
            }
        }
    }

    pub fn ack(&mut self, sequence: u64, now: Instant) {
        if let Some(stored) = self.runs.remove(&sequence) {
            self.settled
                .retain(|(at, ..)| now - *at < Duration::from_secs(5));
            self.settled.push((now, sequence, stored));
        }
    }

    pub fn release(&mut self, sequence: u64, delay: Duration, now: Instant) {
        if let Some(stored) = self.runs.get_mut(&sequence)
            && stored.condition != Condition::Stuck
        {
            stored.condition = Condition::From(now + delay);
        }
    }

    pub fn remove(&mut self, sequence: u64) -> bool {
        self.runs.remove(&sequence).is_some()
    }

    /// It is killed and starts again: the ids that it remembered, the leases that it had given and, where
    /// `forget` says so, acknowledgements are lost; the runs of those come back, or lie there for ever.
    pub fn restart(&mut self, now: Instant, mut forget: impl FnMut() -> Option<bool>) {
        self.remembered.clear();
        for stored in self.runs.values_mut() {
            // A delay is kept by the message; a lease is not.
            if let Condition::From(at) = &mut stored.condition
                && stored.deliveries > 0
                && *at <= now + self.lease
            {
                *at = now;
            }
        }
        for (_, sequence, mut stored) in std::mem::take(&mut self.settled) {
            let is_free = self
                .in_slot(&stored.run.queue, &stored.run.run_id, stored.run.slot)
                .is_none();
            match forget() {
                Some(is_stuck) if is_free => {
                    stored.condition = match is_stuck {
                        true => Condition::Stuck,
                        false => Condition::From(now),
                    };
                    self.runs.insert(sequence, stored);
                }
                Some(_) | None => {}
            }
        }
    }

    pub fn get(&self, bucket: Bucket, key: &str, now: Instant) -> Option<Entry> {
        let value = self.values.get(&(bucket, key.to_owned()))?;
        is_young(bucket, value, now).then(|| entry(key, value))
    }

    pub fn list(&self, bucket: Bucket, prefix: &str, now: Instant) -> Vec<Entry> {
        let from = (bucket, prefix.to_owned());
        let values = self
            .values
            .range(from..)
            .take_while(|((b, key), _)| *b == bucket && key.starts_with(prefix));
        values
            .filter(|(_, value)| is_young(bucket, value, now))
            .map(|((_, key), value)| entry(key, value))
            .collect()
    }

    pub fn set(
        &mut self,
        (bucket, key): (Bucket, &str),
        expected: Option<Option<Revision>>,
        bytes: &[u8],
        now: Instant,
    ) -> Cas {
        let found = self.get(bucket, key, now).map(|entry| entry.revision);
        if expected.is_some_and(|expected| expected != found) {
            return Cas::Conflict;
        }
        let value = Value {
            revision: serde_json::from_value(self.next().into()).unwrap(),
            bytes: bytes.to_vec(),
            changed: now,
        };
        let put = entry(key, &value);
        let revision = put.revision;
        self.values.insert((bucket, key.to_owned()), value);
        self.tell(bucket, key, &Change::Put(put));
        Cas::Done(revision)
    }

    pub fn delete(&mut self, bucket: Bucket, key: &str) {
        if self.values.remove(&(bucket, key.to_owned())).is_some() {
            let key_text = key.to_owned();
            self.tell(bucket, key, &Change::Deleted { key: key_text });
        }
    }

    fn tell(&mut self, bucket: Bucket, key: &str, change: &Change) {
        self.watchers.retain(|watcher| {
            let concerned = watcher.bucket == bucket && key.starts_with(&watcher.prefix);
            !concerned || watcher.tell.send(change.clone()).is_ok()
        });
    }

    pub fn watch(
        &mut self,
        machine: usize,
        bucket: Bucket,
        prefix: &str,
        now: Instant,
    ) -> (Vec<Entry>, mpsc::UnboundedReceiver<Change>) {
        let (tell, told) = mpsc::unbounded_channel();
        self.watchers.push(Watcher {
            machine,
            bucket,
            prefix: prefix.to_owned(),
            tell,
        });
        (self.list(bucket, prefix, now), told)
    }

    /// Ends the watches of these machines.
    pub fn break_off(&mut self, machines: &BTreeSet<usize>) {
        self.watchers
            .retain(|watcher| !machines.contains(&watcher.machine));
    }

    pub fn bury(&mut self, letter: DeadLetter) {
        let sequence = self.next();
        self.dead.push((sequence, letter));
    }
}

/// The sequence that a receipt names.
pub fn sequence(receipt: &Receipt) -> u64 {
    let text = serde_json::to_value(receipt).unwrap();
    let (sequence, _) = text.as_str().unwrap().split_once('.').unwrap();
    sequence.parse().unwrap()
}

fn pending(sequence: u64, stored: &Stored) -> Pending {
    Pending {
        sequence,
        queue: stored.run.queue.clone(),
        payload: stored.run.payload.clone(),
        subject: String::new(),
        signature: None,
    }
}

fn entry(key: &str, value: &Value) -> Entry {
    Entry {
        key: key.to_owned(),
        revision: value.revision,
        value: value.bytes.clone(),
    }
}

fn is_young(bucket: Bucket, value: &Value, now: Instant) -> bool {
    bucket
        .max_age()
        .is_none_or(|max_age| now - value.changed < max_age)
}
