//! What the machine and the broker can do without us.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::{BenchError, PATIENCE, new_queue, rate, runs};
use crate::{
    broker::{Broker, Bucket, Cas, Delivery, Durability, PullRequest, SharedBroker},
    clock,
    job::{Execute, RunSpec},
};

/// A program that does nothing.
pub(super) const PROGRAM: &str = "/bin/true";
/// How many runs are published at once.
pub(super) const IN_FLIGHT: usize = 256;

/// How many `/bin/true` a second `concurrency` threads spawn, with pipes for their output.
pub(super) async fn spawns_by_threads(count: usize, concurrency: usize) -> Result<f64, BenchError> {
    let started = AtomicUsize::new(0);
    let spawn_all = move || {
        let start = clock::monotonic();
        let one_after_the_other = || {
            while started.fetch_add(1, Ordering::Relaxed) < count {
                std::process::Command::new(PROGRAM)
                    .stdin(Stdio::null())
                    .output()?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..concurrency)
                .map(|_| scope.spawn(one_after_the_other))
                .collect();
            let joined = threads.into_iter().map(|thread| {
                let ended = thread.join();
                ended.unwrap_or_else(|_| Err(std::io::Error::other("a thread panicked")))
            });
            joined.collect::<std::io::Result<()>>()
        })?;
        Ok(rate(count, start.elapsed()))
    };
    let done = tokio::task::spawn_blocking(spawn_all).await;
    done.map_err(super::invalid)?.map_err(failed)
}

/// How many `/bin/true` a second one task spawns, with pipes for their output, `concurrency` at once.
pub(super) async fn spawns(count: usize, concurrency: usize) -> Result<f64, BenchError> {
    let start = clock::monotonic();
    stream::iter(0..count)
        .map(|_| async {
            let child = tokio::process::Command::new(PROGRAM)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            // On all cores, as a worker does it.
            tokio::spawn(child.wait_with_output())
                .await
                .map_err(std::io::Error::other)?
        })
        .buffer_unordered(concurrency)
        .try_for_each(async |_| Ok(()))
        .await
        .map_err(failed)?;
    Ok(rate(count, start.elapsed()))
}

fn failed(source: std::io::Error) -> BenchError {
    BenchError::Machine {
        what: "spawn /bin/true",
        source,
    }
}

/// How many runs a second the broker can carry: publish, deliver, two versions of a record, acknowledge.
pub(super) async fn operations(
    broker: &SharedBroker,
    count: usize,
    concurrency: usize,
) -> Result<f64, BenchError> {
    let queue = new_queue()?;
    let spec = RunSpec::new(Execute::Shell("true".to_owned()));
    let start = clock::monotonic();
    runs::publish(broker, &queue, &spec, count).await?;
    let mut left = count;
    let stop = CancellationToken::new();
    let mut ends = tokio::task::JoinSet::new();
    while left > 0 {
        let free = concurrency.saturating_sub(ends.len());
        if free == 0 {
            joined(ends.join_next().await)?;
            continue;
        }
        let request = PullRequest {
            shares: vec![(queue.clone(), free)],
            max: free,
            wait: PATIENCE,
        };
        let taken = broker.pull(request, &stop).await?;
        if taken.is_empty() {
            return Err(BenchError::Stuck("no run was delivered"));
        }
        left -= taken.len().min(left);
        for delivery in taken {
            ends.spawn(settle(Arc::clone(broker), delivery));
        }
        while let Some(ended) = ends.try_join_next() {
            joined(Some(ended))?;
        }
    }
    while let Some(ended) = ends.join_next().await {
        joined(Some(ended))?;
    }
    Ok(rate(count, start.elapsed()))
}

fn joined(
    ended: Option<Result<Result<(), BenchError>, tokio::task::JoinError>>,
) -> Result<(), BenchError> {
    ended.map_or(Ok(()), |ended| ended.map_err(super::invalid)?)
}

/// A record for the start and one for the end, of the size of real ones.
async fn settle(broker: Arc<dyn Broker>, delivery: Delivery) -> Result<(), BenchError> {
    /// Bytes of a record, about.
    const RECORD: usize = 450;
    let key = format!("bench.{}", uuid::Uuid::now_v7());
    let mut revision = None;
    for durability in [Durability::Crash, Durability::Power] {
        let value = vec![b'x'; RECORD];
        let stored = broker
            .compare_and_set(Bucket::Runs, &key, revision, value, durability)
            .await?;
        if let Cas::Done(new) = stored {
            revision = Some(new);
        }
    }
    broker.ack(&delivery.receipt).await?;
    Ok(())
}

/// A pause between two looks.
pub(super) const LOOK: Duration = Duration::from_millis(5);
