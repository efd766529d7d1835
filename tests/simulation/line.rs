//! A process's line to the broker: the trait `Broker` over the simulated server, with all that can go wrong on
//! the way. A call may be lost, come late or twice, its answer may be lost, the process may die before or
//! after its effect. What a dead process asks for never happens.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use orchestrator::{
    broker::{
        Broker, BrokerError, Bucket, Cas, Change, Changes, DeadLetter, Delivery, Durability, Entry,
        LogChunk, Outgoing, Pending, Published, PullRequest, QueueDepth, Receipt, Revision, Slot,
    },
    job::QueueName,
    run::RunId,
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    server,
    world::{Node, Sim, State},
};

/// The line of one process.
#[derive(Debug)]
pub struct Line {
    pub node: Arc<Node>,
    pub lease: Duration,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Well,
    Lost,
    AnswerLost,
    /// It takes effect later, and nobody hears of it.
    Late(Duration),
    /// It takes effect a second time.
    Twice(Duration),
    Full,
    DiesBefore,
    DiesAfter,
}

/// On which calls what may happen.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Read,
    Write,
    /// Nothing of it may come later than its caller gives up.
    Settle,
}

/// What a call does at the broker.
type Effect<T> = Arc<dyn Fn(&mut State, Instant) -> T + Send + Sync>;

impl Line {
    fn sim(&self) -> &Arc<Sim> {
        &self.node.sim
    }

    /// A dead process does nothing more.
    async fn alive(&self) {
        if !self.node.is_alive() {
            std::future::pending().await
        }
    }

    fn is_connected(&self) -> bool {
        self.node.machine.is_linked() && self.sim().lock().is_up
    }

    fn unreachable(&self, operation: &str) -> BrokerError {
        BrokerError::Unreachable {
            broker: self.describe(),
            operation: operation.to_owned(),
            reason: "simulated".to_owned(),
        }
    }

    /// How long a caller waits for an answer that does not come.
    fn patience(&self) -> Duration {
        let mut state = self.sim().lock();
        Duration::from_millis(match state.random.below(4) {
            0 => 5_000,
            1 => state.random.below(2_000),
            _ => state.random.below(200),
        })
    }

    /// Draws what happens to a call, and how long its two ways take.
    fn fate(&self, kind: Kind) -> (Fate, Duration, Duration) {
        let mut state = self.sim().lock();
        let faults = state.faults;
        let random = &mut state.random;
        let ways = [(); 2].map(|()| match random.below(8) {
            0 => Duration::from_millis(random.below(20)),
            1..4 => Duration::from_millis(random.below(3)),
            _ => Duration::ZERO,
        });
        let mut later = |most: u64| Duration::from_millis(random.below(most));
        let (long, short) = (later(12_000), later(800));
        let fate = match (random.below(1_000) < faults, kind, random.below(100)) {
            (false, ..) => Fate::Well,
            (true, _, ..25) => Fate::Lost,
            (true, _, 25..50) => Fate::AnswerLost,
            (true, _, 50..55) => Fate::DiesBefore,
            (true, _, 55..60) => Fate::DiesAfter,
            (true, Kind::Write, 60..75) => Fate::Late(long),
            (true, Kind::Write, 75..90) => Fate::Twice(long),
            (true, Kind::Write, _) => Fate::Full,
            (true, Kind::Settle, 60..80) => Fate::Late(short),
            (true, Kind::Settle, _) => Fate::Twice(short),
            (true, Kind::Read, _) => Fate::Lost,
        };
        (fate, ways[0], ways[1])
    }

    async fn call<T: Send + 'static>(
        &self,
        kind: Kind,
        (operation, subject): (&'static str, &str),
        effect: impl Fn(&mut State, Instant) -> T + Send + Sync + 'static,
    ) -> Result<T, BrokerError> {
        self.alive().await;
        let (fate, there, back) = self.fate(kind);
        let losses = self.node.machine.losses();
        let effect: Effect<T> = Arc::new(effect);
        pass(there).await;
        self.alive().await;
        let name = &self.node.name;
        if fate != Fate::Well {
            self.sim()
                .note(format_args!("{name} {operation} {subject}: {fate:?}"));
        }
        let is_lost = matches!(fate, Fate::Lost | Fate::DiesBefore | Fate::Late(_));
        if let Fate::Late(by) = fate {
            self.later(by, Arc::clone(&effect));
        }
        if fate == Fate::DiesBefore {
            self.node.die();
        }
        if is_lost || !self.is_connected() {
            sleep(self.patience()).await;
            self.alive().await;
            return Err(self.unreachable(operation));
        }
        if fate == Fate::Full {
            return Err(BrokerError::Full {
                broker: self.describe(),
                operation: operation.to_owned(),
                reason: "simulated".to_owned(),
            });
        }
        let answer = {
            let now = self.sim().elapsed();
            let mut state = self.sim().lock();
            state
                .trace
                .note(now, format_args!("{name} {operation} {subject}"));
            effect(&mut state, Instant::now())
        };
        self.sim().bell.notify_waiters();
        match fate {
            Fate::DiesAfter => self.node.die(),
            Fate::Twice(by) => self.later(by, effect),
            _ => {}
        }
        pass(back).await;
        self.alive().await;
        if fate == Fate::AnswerLost || losses != self.node.machine.losses() {
            sleep(self.patience()).await;
            self.alive().await;
            return Err(self.unreachable(operation));
        }
        Ok(answer)
    }

    /// Has an effect take place later, whatever became of its caller.
    fn later<T: 'static>(&self, by: Duration, effect: Effect<T>) {
        let (sim, name) = (Arc::clone(self.sim()), self.node.name.clone());
        tokio::spawn(async move {
            sleep(by).await;
            let now = sim.elapsed();
            let mut state = sim.lock();
            if state.is_up {
                state
                    .trace
                    .note(now, format_args!("a late call of {name} arrives"));
                effect(&mut state, Instant::now());
                drop(state);
                sim.bell.notify_waiters();
            }
        });
    }

    /// Takes runs at the broker, whether or not the one who asked still listens.
    async fn serve(
        node: Arc<Node>,
        request: PullRequest,
        stop: CancellationToken,
        answer: oneshot::Sender<Option<Vec<Delivery>>>,
    ) {
        let sim = Arc::clone(&node.sim);
        let until = Instant::now() + request.wait;
        let losses = node.machine.losses();
        loop {
            if !node.is_alive() || losses != node.machine.losses() {
                // Nobody hears the answer.
                let _ = answer.send(None);
                return;
            }
            let now = Instant::now();
            let (taken, due) = {
                let mut state = sim.lock();
                (state.server.take(&request, now), state.server.next_due())
            };
            for delivery in &taken {
                let (sequence, count) = (delivery.sequence, delivery.deliveries);
                sim.note(format_args!("{} gets {sequence} ({count})", node.name));
            }
            if !taken.is_empty() || now >= until || stop.is_cancelled() {
                let _ = answer.send(Some(taken));
                return;
            }
            let due = due
                .filter(|due| *due > now)
                .map_or(until, |due| due.min(until));
            tokio::select! {
                biased;
                () = sim.bell.notified() => {}
                () = stop.cancelled() => {}
                () = tokio::time::sleep_until(due) => {}
            }
        }
    }
}

/// The way to the broker, or back.
async fn pass(way: Duration) {
    match way {
        Duration::ZERO => {}
        way => sleep(way).await,
    }
}

#[async_trait]
impl Broker for Line {
    fn describe(&self) -> String {
        "the simulated broker".to_owned()
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    fn undisturbed_for(&self) -> Duration {
        self.node.undisturbed_for()
    }

    async fn publish(&self, run: Outgoing) -> Result<Published, BrokerError> {
        let subject = run.run_id.to_string();
        let refused = Mutex::new(None);
        self.call(Kind::Write, ("publish", &subject), move |state, now| {
            // What was refused is sent again by its sender alone.
            let mut refused = refused.lock().unwrap();
            if let Some(refused) = &*refused {
                return Published::clone(refused);
            }
            let published = state.server.publish(&run, now);
            if let Published::Occupied(_) = published {
                *refused = Some(published.clone());
            }
            if published == Published::Stored {
                state.checker.stored(&run);
            }
            published
        })
        .await
    }

    async fn pull(
        &self,
        request: PullRequest,
        stop: &CancellationToken,
    ) -> Result<Vec<Delivery>, BrokerError> {
        self.alive().await;
        let (fate, ..) = self.fate(Kind::Read);
        if fate != Fate::Well {
            self.sim()
                .note(format_args!("{} pull: {fate:?}", self.node.name));
        }
        if fate == Fate::DiesBefore {
            self.node.die();
        }
        if fate == Fate::Lost || !self.is_connected() {
            sleep(self.patience()).await;
            self.alive().await;
            return Err(self.unreachable("pull"));
        }
        let (answer, answered) = oneshot::channel();
        let serving = Self::serve(Arc::clone(&self.node), request, stop.clone(), answer);
        tokio::spawn(serving);
        let answer = answered.await.ok().flatten();
        if fate == Fate::DiesAfter {
            self.node.die();
        }
        self.alive().await;
        match answer {
            Some(taken) if fate != Fate::AnswerLost => Ok(taken),
            Some(_) | None => {
                sleep(self.patience()).await;
                self.alive().await;
                Err(self.unreachable("pull"))
            }
        }
    }

    async fn renew(&self, receipt: &Receipt) -> Result<(), BrokerError> {
        let sequence = server::sequence(receipt);
        self.call(
            Kind::Settle,
            ("renew", &sequence.to_string()),
            move |state, now| {
                state.server.renew(sequence, now);
            },
        )
        .await
    }

    async fn ack(&self, receipt: &Receipt) -> Result<(), BrokerError> {
        let sequence = server::sequence(receipt);
        let name = self.node.name.clone();
        self.call(
            Kind::Settle,
            ("ack", &sequence.to_string()),
            move |state, now| {
                state.checker.removes(&name, "ack", sequence, &state.server);
                state.server.ack(sequence, now);
            },
        )
        .await
    }

    async fn release(&self, receipt: &Receipt, delay: Duration) -> Result<(), BrokerError> {
        let sequence = server::sequence(receipt);
        self.call(
            Kind::Settle,
            ("release", &sequence.to_string()),
            move |state, now| {
                state.server.release(sequence, delay, now);
            },
        )
        .await
    }

    async fn pending(&self, from: u64, limit: usize) -> Result<Vec<Pending>, BrokerError> {
        self.call(Kind::Read, ("pending", ""), move |state, _| {
            state.server.pending(from, limit)
        })
        .await
    }

    async fn occupant(
        &self,
        queue: &QueueName,
        run_id: &RunId,
        slot: Slot,
    ) -> Result<Option<Pending>, BrokerError> {
        let (queue, run_id) = (queue.clone(), run_id.clone());
        self.call(Kind::Read, ("occupant", ""), move |state, _| {
            state.server.occupant(&queue, &run_id, slot)
        })
        .await
    }

    async fn remove(&self, pending: &Pending) -> Result<bool, BrokerError> {
        let sequence = pending.sequence;
        let name = self.node.name.clone();
        self.call(
            Kind::Write,
            ("remove", &sequence.to_string()),
            move |state, _| {
                state
                    .checker
                    .removes(&name, "remove", sequence, &state.server);
                state.server.remove(sequence)
            },
        )
        .await
    }

    async fn queues(&self) -> Result<Vec<QueueDepth>, BrokerError> {
        Ok(Vec::new())
    }

    async fn get(&self, bucket: Bucket, key: &str) -> Result<Option<Entry>, BrokerError> {
        let name = key.to_owned();
        self.call(Kind::Read, ("get", key), move |state, now| {
            state.server.get(bucket, &name, now)
        })
        .await
    }

    async fn latest(&self, bucket: Bucket, prefix: &str) -> Result<Option<Entry>, BrokerError> {
        let name = prefix.to_owned();
        self.call(Kind::Read, ("latest", prefix), move |state, now| {
            let all = state.server.list(bucket, &name, now);
            all.into_iter().max_by_key(|entry| entry.revision)
        })
        .await
    }

    async fn put(
        &self,
        bucket: Bucket,
        key: &str,
        value: Vec<u8>,
    ) -> Result<Revision, BrokerError> {
        let (name, writer) = (key.to_owned(), self.node.name.clone());
        let put = self.call(Kind::Write, ("put", key), move |state, now| {
            let put = state.server.set((bucket, &name), None, &value, now);
            let what = (bucket, &*name, &*value);
            state.checker.wrote(&writer, what, &state.server, now);
            put
        });
        match put.await? {
            Cas::Done(revision) => Ok(revision),
            Cas::Conflict => Err(self.unreachable("put")),
        }
    }

    async fn compare_and_set(
        &self,
        bucket: Bucket,
        key: &str,
        expected: Option<Revision>,
        value: Vec<u8>,
        _: Durability,
    ) -> Result<Cas, BrokerError> {
        let (name, writer) = (key.to_owned(), self.node.name.clone());
        self.call(Kind::Write, ("set", key), move |state, now| {
            let set = state
                .server
                .set((bucket, &name), Some(expected), &value, now);
            if let Cas::Done(_) = set {
                let what = (bucket, &*name, &*value);
                state.checker.wrote(&writer, what, &state.server, now);
            }
            set
        })
        .await
    }

    async fn delete(&self, bucket: Bucket, key: &str) -> Result<(), BrokerError> {
        let name = key.to_owned();
        self.call(Kind::Write, ("delete", key), move |state, _| {
            state.server.delete(bucket, &name);
        })
        .await
    }

    async fn watch(&self, bucket: Bucket, prefix: &str) -> Result<Changes, BrokerError> {
        let name = prefix.to_owned();
        let machine = self.node.machine.index;
        let watching = self.call(Kind::Read, ("watch", prefix), move |state, now| {
            state.server.watch(machine, bucket, &name, now)
        });
        let (current, mut told) = watching.await?;
        let current = current
            .into_iter()
            .map(Change::Put)
            .chain([Change::Current]);
        let later = stream::poll_fn(move |context| told.poll_recv(context));
        let broken = self.unreachable("watch");
        let broken = stream::once(async move { Err(broken) });
        Ok(stream::iter(current)
            .chain(later)
            .map(Ok)
            .chain(broken)
            .boxed())
    }

    async fn append_log(&self, _: &RunId, _: LogChunk) -> Result<u64, BrokerError> {
        Ok(1)
    }

    async fn trim_log(&self, _: &RunId, _: u64) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn read_log(
        &self,
        _: &RunId,
        _: u64,
        _: usize,
    ) -> Result<Vec<(u64, LogChunk)>, BrokerError> {
        Ok(Vec::new())
    }

    async fn dead_letter(&self, letter: DeadLetter) -> Result<(), BrokerError> {
        let subject = letter.run_id.as_ref().map(ToString::to_string);
        let subject = subject.unwrap_or_default();
        self.call(Kind::Write, ("bury", &subject), move |state, _| {
            state.server.bury(letter.clone());
        })
        .await
    }

    async fn dead_letters(
        &self,
        below: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, DeadLetter)>, BrokerError> {
        self.call(Kind::Read, ("dead letters", ""), move |state, _| {
            let letters = state.server.dead.iter().rev();
            let letters = letters.filter(|(at, _)| below.is_none_or(|below| *at < below));
            letters.take(limit).cloned().collect()
        })
        .await
    }

    async fn discard(&self, _: u64) -> Result<bool, BrokerError> {
        Ok(false)
    }
}

/// The broker is killed. Who was connected notices.
pub fn kill(sim: &Sim, machines: &[Arc<crate::world::Machine>]) {
    let all: BTreeSet<usize> = machines.iter().map(|machine| machine.index).collect();
    let now = sim.elapsed();
    {
        let mut state = sim.lock();
        state.trace.note(now, format_args!("the broker is killed"));
        state.is_up = false;
        state.server.break_off(&all);
    }
    for machine in machines {
        machine.set_link(machine.is_linked());
    }
    sim.bell.notify_waiters();
}

/// It is there again.
pub fn restart(sim: &Sim, machines: &[Arc<crate::world::Machine>]) {
    let now = sim.elapsed();
    {
        let mut guard = sim.lock();
        let state = &mut *guard;
        if state.is_up {
            return;
        }
        state
            .trace
            .note(now, format_args!("the broker is there again"));
        state.is_up = true;
        let random = &mut state.random;
        state
            .server
            .restart(Instant::now(), || match random.below(10) {
                0 => Some(false),
                1 => Some(true),
                _ => None,
            });
    }
    for machine in machines {
        machine.set_link(machine.is_linked());
    }
    sim.bell.notify_waiters();
}
