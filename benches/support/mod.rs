//! What the benchmarks of brokers share: runs of a small job, published and worked off, and what is made of the figures.

#![allow(dead_code, reason = "each benchmark uses its part")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use orchestrator::{
    broker::{Outgoing, Published, SharedBroker, Slot},
    job::{Execute, QueueName, RunSpec},
    run::{RunId, RunMessage},
    worker::{Worker, WorkerOptions},
};
use tokio_util::sync::CancellationToken;

/// Its own queue, so that nothing else is in it.
pub const QUEUE: &str = "bench";

/// A run of `/bin/true`, asked for by hand.
pub fn run() -> Outgoing {
    let run_id = RunId::manual("true".parse().unwrap(), uuid::Uuid::now_v7());
    let queue: QueueName = QUEUE.parse().unwrap();
    let spec = RunSpec::new(Execute::Command(vec!["/bin/true".parse().unwrap()]));
    let now = orchestrator::clock::now();
    let message = RunMessage::new(run_id.clone(), queue.clone(), now, spec);
    Outgoing {
        run_id,
        queue,
        slot: Slot::Run,
        payload: message.encode().unwrap(),
    }
}

/// Publishes so many, so many at once; returns how many were stored a second.
pub async fn publish(broker: &SharedBroker, count: usize, in_flight: usize) -> f64 {
    let runs: Vec<_> = (0..count).map(|_| run()).collect();
    let start = Instant::now();
    stream::iter(runs)
        .map(|run| broker.publish(run))
        .buffer_unordered(in_flight)
        .for_each(async |published| assert_eq!(published, Ok(Published::Stored)))
        .await;
    count as f64 / start.elapsed().as_secs_f64()
}

/// How long a worker takes for all that waits, from its start to the last acknowledgement.
pub async fn work_off(broker: &SharedBroker, options: WorkerOptions) -> Duration {
    let stop = CancellationToken::new();
    let worker = Worker::new(Arc::clone(broker), options).unwrap();
    let start = Instant::now();
    let working = tokio::spawn(worker.run(stop.clone(), CancellationToken::new()));
    until_empty(broker).await;
    let took = start.elapsed();
    stop.cancel();
    working.await.unwrap();
    took
}

/// Waits until nothing waits and nothing is executed.
pub async fn until_empty(broker: &SharedBroker) {
    loop {
        let queues = broker.queues().await.unwrap();
        let mut left = queues.iter().map(|queue| queue.waiting + queue.running);
        if left.all(|left| left == 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The value in the middle; sorts them.
pub fn median<T: PartialOrd + Copy>(values: &mut [T]) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap());
    values[values.len() / 2]
}
