//! The trait `Broker` as a process sees it: every call over its [`Line`].

use std::{
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
    line::{Fate, Kind, Line, NAME},
    server,
    world::Node,
};

impl Line {
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

#[async_trait]
impl Broker for Line {
    fn describe(&self) -> String {
        NAME.to_owned()
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
        // Late or twice it would have a run delivered that somebody holds: decision 17.
        let sequence = server::sequence(receipt);
        self.call(
            Kind::Read,
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
