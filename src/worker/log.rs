//! Carries a job's output to the broker, in pieces, bounded: what comes faster than it can be
//! carried is dropped, oldest first, and so is what exceeds the limit of the run.

use std::{collections::VecDeque, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    broker::{Broker, BrokerError, LogChunk},
    exec::Output,
    run::RunId,
};

/// How long output is collected before it is carried.
const COLLECT: Duration = Duration::from_millis(200);
/// How long the last of the output may take once the job has ended.
const LAST: Duration = Duration::from_secs(5);

/// Carries output until `ended`, then what is left.
pub(super) async fn carry(
    broker: &dyn Broker,
    run_id: &RunId,
    output: &Output,
    limit: u64,
    ended: &CancellationToken,
) {
    let mut kept = Kept {
        limit,
        bytes: 0,
        pieces: VecDeque::new(),
    };
    while !ended.is_cancelled() {
        tokio::select! {
            () = output.arrived() => {}
            () = ended.cancelled() => break,
        }
        tokio::select! {
            () = tokio::time::sleep(COLLECT) => {}
            () = ended.cancelled() => break,
        }
        if let Err(error) = flush(broker, run_id, output, &mut kept).await {
            debug!(target: "orchestrator::worker", %run_id, %error, "output waits");
        }
    }
    let last = tokio::time::timeout(LAST, flush(broker, run_id, output, &mut kept));
    match last.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(target: "orchestrator::worker", %run_id, %error, "output is lost"),
        Err(_) => {
            debug!(target: "orchestrator::worker", %run_id, "output is lost: it took too long")
        }
    }
}

/// What the broker holds of this run's output.
struct Kept {
    limit: u64,
    bytes: u64,
    pieces: VecDeque<(u64, u64)>,
}

/// Carries what is there now.
async fn flush(
    broker: &dyn Broker,
    run_id: &RunId,
    output: &Output,
    kept: &mut Kept,
) -> Result<(), BrokerError> {
    for _ in 0..output.chunks() {
        let Some(chunk) = output.pop() else { break };
        if let Err(error) = append(broker, run_id, &chunk, kept).await {
            output.put_back(chunk);
            return Err(error);
        }
    }
    Ok(())
}

async fn append(
    broker: &dyn Broker,
    run_id: &RunId,
    chunk: &LogChunk,
    kept: &mut Kept,
) -> Result<(), BrokerError> {
    let sequence = broker.append_log(run_id, chunk.clone()).await?;
    let size = chunk.bytes.len() as u64;
    kept.pieces.push_back((sequence, size));
    kept.bytes += size;
    let mut surplus = None;
    while kept.bytes > kept.limit && kept.pieces.len() > 1 {
        let Some((sequence, size)) = kept.pieces.pop_front() else {
            break;
        };
        kept.bytes -= size;
        surplus = Some(sequence);
    }
    match surplus {
        Some(sequence) => broker.trim_log(run_id, sequence).await,
        None => Ok(()),
    }
}
