//! Runs through the broker and a worker.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::{
    BenchError, BenchOptions, PATIENCE, job_name,
    limits::{IN_FLIGHT, LOOK, PROGRAM},
    new_queue, rate,
};
use crate::{
    broker::{Broker, Outgoing, SharedBroker, Slot},
    clock,
    exec::{Idle, Player},
    job::{Execute, QueueName, RunSpec},
    run::{RunId, RunMessage},
    worker::{QueueShare, Worker, WorkerOptions},
};

/// How many runs, and how many of them at once.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    Programs(usize, usize),
    Nothing(usize, usize),
}

/// Runs a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// From the worker's start to the last acknowledgement.
    pub(super) worked: f64,
    /// From the first publish on.
    pub(super) all: f64,
}

/// Publishes runs, then has a worker execute them.
pub(super) async fn work(
    broker: &SharedBroker,
    options: &BenchOptions,
    work: Work,
) -> Result<Measured, BenchError> {
    let (count, concurrency, nothing) = match work {
        Work::Programs(count, concurrency) => (count, concurrency, false),
        Work::Nothing(count, concurrency) => (count, concurrency, true),
    };
    let queue = new_queue()?;
    let program = PROGRAM.parse().map_err(super::invalid)?;
    let spec = RunSpec::new(Execute::Command(vec![program]));
    let first = clock::monotonic();
    publish(broker, &queue, &spec, count).await?;
    let start = clock::monotonic();
    let working = Working::start(broker, options, &queue, (concurrency, nothing))?;
    let mut last = (u64::MAX, clock::monotonic());
    loop {
        let left = left(broker.as_ref(), &queue).await?;
        let now = clock::monotonic();
        if left == 0 {
            break;
        }
        if left < last.0 {
            last = (left, now);
        } else if now - last.1 > PATIENCE {
            return Err(BenchError::Stuck("no run ended"));
        }
        tokio::time::sleep(LOOK).await;
    }
    let measured = Measured {
        worked: rate(count, start.elapsed()),
        all: rate(count, first.elapsed()),
    };
    working.stop().await;
    Ok(measured)
}

/// A worker in this process.
#[derive(Debug)]
pub(super) struct Working {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Working {
    pub(super) fn start(
        broker: &SharedBroker,
        options: &BenchOptions,
        queue: &QueueName,
        (concurrency, nothing): (usize, bool),
    ) -> Result<Self, BenchError> {
        let share: QueueShare = queue.as_str().parse().map_err(super::invalid)?;
        let options = WorkerOptions {
            concurrency,
            drain_timeout: Duration::ZERO,
            cgroup: options.cgroup.clone(),
            guardian: options.guardian.clone(),
            player: nothing.then(|| Arc::new(Idle) as Arc<dyn Player>),
            ..WorkerOptions::new(format!("bench-{queue}"), vec![share])
        };
        let worker = Worker::new(Arc::clone(broker), options)?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker.run(stop.clone(), CancellationToken::new()));
        Ok(Self { stop, task })
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        // A worker that panicked has told so.
        let _ = self.task.await;
    }
}

pub(super) async fn publish(
    broker: &SharedBroker,
    queue: &QueueName,
    spec: &RunSpec,
    count: usize,
) -> Result<(), BenchError> {
    stream::iter(0..count)
        .map(|_| publish_one(broker, queue, spec))
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(async |()| Ok(()))
        .await
}

pub(super) async fn publish_one(
    broker: &SharedBroker,
    queue: &QueueName,
    spec: &RunSpec,
) -> Result<(), BenchError> {
    let run_id = RunId::manual(job_name()?, uuid::Uuid::now_v7());
    let message = RunMessage::new(run_id.clone(), queue.clone(), clock::now(), spec.clone());
    let outgoing = Outgoing {
        run_id,
        queue: queue.clone(),
        slot: Slot::Run,
        payload: message.encode().map_err(super::invalid)?,
    };
    broker.publish(outgoing).await?;
    Ok(())
}

async fn left(broker: &dyn Broker, queue: &QueueName) -> Result<u64, BenchError> {
    let queues = broker.queues().await?;
    let own = queues.iter().find(|depth| depth.queue == *queue);
    // Before the worker's first pull a broker may not know the queue.
    Ok(own.map_or(1, |depth| depth.waiting + depth.running))
}
