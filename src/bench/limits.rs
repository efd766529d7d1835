//! What the machine and the broker can do without us.

use std::{process::Stdio, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::{BenchError, PATIENCE, new_queue, rate, runs};
use crate::{
    broker::{Broker, Bucket, Cas, Delivery, Durability, PullRequest, SharedBroker},
    clock,
    job::{Execute, RunSpec},
};

/// How many runs are published at once.
pub(super) const IN_FLIGHT: usize = 256;

/// How many `/bin/true` a second can be spawned with pipes for their output, `concurrency` at once.
pub(super) async fn spawns(count: usize, concurrency: usize) -> Result<f64, BenchError> {
    let failed = |source| BenchError::Machine {
        what: "spawn /bin/true",
        source,
    };
    let start = clock::monotonic();
    stream::iter(0..count)
        .map(|_| async {
            let child = tokio::process::Command::new("/bin/true")
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
