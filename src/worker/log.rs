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
/// How many chunks are read at once when finding out what earlier attempts left.
const PAGE: usize = 16;

/// Whether earlier executions of the run may have left output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    Output,
}

/// Carries output until `ended`, then what is left. What earlier executions left counts towards
/// `limit`.
pub(super) async fn carry(
    broker: &dyn Broker,
    run_id: &RunId,
    output: &Output,
    (limit, before): (u64, Before),
    ended: &CancellationToken,
) {
    let mut log = Log {
        broker,
        run_id,
        limit,
        before,
        bytes: 0,
        pieces: VecDeque::new(),
        surplus: None,
    };
    while !ended.is_cancelled() {
        tokio::select! {
            biased;
            () = output.arrived() => {}
            () = ended.cancelled() => break,
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(COLLECT) => {}
            () = ended.cancelled() => break,
        }
        if let Err(error) = log.flush(output).await {
            debug!(target: "orchestrator::worker", %run_id, %error, "output waits");
        }
    }
    let last = tokio::time::timeout(LAST, log.flush(output));
    match last.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(target: "orchestrator::worker", %run_id, %error, "output is lost"),
        Err(_) => {
            debug!(target: "orchestrator::worker", %run_id, "output is lost: it took too long")
        }
    }
}

/// The log of one run, and what the broker holds of it.
struct Log<'a> {
    broker: &'a dyn Broker,
    run_id: &'a RunId,
    limit: u64,
    before: Before,
    bytes: u64,
    /// Sequence and size, oldest first.
    pieces: VecDeque<(u64, u64)>,
    /// Up to this sequence the broker holds more than it should.
    surplus: Option<u64>,
}

impl Log<'_> {
    /// Carries what is there now.
    async fn flush(&mut self, output: &Output) -> Result<(), BrokerError> {
        for _ in 0..output.chunks() {
            self.count_earlier().await?;
            let Some(chunk) = output.pop() else { break };
            if let Err(error) = self.append(&chunk).await {
                output.put_back(chunk);
                return Err(error);
            }
        }
        self.trim().await
    }

    /// Finds out, once, what earlier executions left.
    async fn count_earlier(&mut self) -> Result<(), BrokerError> {
        while self.before == Before::Output {
            let after = self.pieces.back().map_or(0, |(sequence, _)| *sequence);
            let page = self.broker.read_log(self.run_id, after, PAGE).await?;
            if page.len() < PAGE {
                self.before = Before::Nothing;
            }
            for (sequence, chunk) in page {
                self.count(sequence, chunk.bytes.len() as u64);
            }
        }
        Ok(())
    }

    async fn append(&mut self, chunk: &LogChunk) -> Result<(), BrokerError> {
        let chunk = ending(chunk, self.limit);
        if chunk.bytes.is_empty() {
            return Ok(());
        }
        let size = chunk.bytes.len() as u64;
        let sequence = self.broker.append_log(self.run_id, chunk).await?;
        self.count(sequence, size);
        Ok(())
    }

    fn count(&mut self, sequence: u64, size: u64) {
        self.pieces.push_back((sequence, size));
        self.bytes += size;
        while self.bytes > self.limit {
            let Some((sequence, size)) = self.pieces.pop_front() else {
                break;
            };
            self.bytes -= size;
            self.surplus = Some(sequence);
        }
    }

    async fn trim(&mut self) -> Result<(), BrokerError> {
        if let Some(sequence) = self.surplus {
            self.broker.trim_log(self.run_id, sequence).await?;
            self.surplus = None;
        }
        Ok(())
    }
}

/// The last `limit` bytes of a chunk.
fn ending(chunk: &LogChunk, limit: u64) -> LogChunk {
    let size = chunk.bytes.len();
    let cut = size.saturating_sub(usize::try_from(limit).unwrap_or(size));
    LogChunk {
        offset: chunk.offset + cut as u64,
        bytes: chunk.bytes[cut..].to_vec(),
        ..chunk.clone()
    }
}
