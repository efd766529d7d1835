//! The output of a run.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::OpsError;
use crate::{
    broker::{Broker, LogChunk, LogStream},
    run::RunId,
};

/// How many pieces are asked for at once.
const BATCH: usize = 100;

/// A piece of a run's output, as it was read from the job.
#[derive(Debug, Clone, Serialize)]
pub struct LogLine {
    /// The attempt that wrote it.
    pub attempt: u32,
    /// Where it came from.
    pub stream: LogStream,
    /// When it was read.
    pub at: DateTime<Utc>,
    /// Bytes of this attempt that were dropped just before this piece.
    pub dropped_bytes: u64,
    /// The output, what is not text replaced.
    pub text: String,
    /// The output as it is.
    #[serde(skip)]
    pub bytes: Vec<u8>,
}

/// Where a reader stands in a run's log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    sequence: u64,
    attempt: u32,
    offset: u64,
}

impl Position {
    fn behind(sequence: u64, chunk: &LogChunk) -> Self {
        Self {
            sequence,
            attempt: chunk.attempt,
            offset: chunk.offset.saturating_add(chunk.bytes.len() as u64),
        }
    }
}

/// The output after `position`, which is moved on. Call it again until nothing comes.
pub async fn read_logs(
    broker: &dyn Broker,
    run_id: &RunId,
    position: &mut Position,
) -> Result<Vec<LogLine>, OpsError> {
    let chunks = broker.read_log(run_id, position.sequence, BATCH).await?;
    let mut lines = Vec::with_capacity(chunks.len());
    for (sequence, chunk) in chunks {
        let expected = match chunk.attempt == position.attempt {
            true => position.offset,
            false => 0,
        };
        *position = Position::behind(sequence, &chunk);
        lines.push(LogLine {
            attempt: chunk.attempt,
            stream: chunk.stream,
            at: chunk.at,
            dropped_bytes: chunk.offset.saturating_sub(expected),
            text: String::from_utf8_lossy(&chunk.bytes).into_owned(),
            bytes: chunk.bytes,
        });
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_may_claim_any_place() {
        let chunk = LogChunk {
            attempt: 1,
            stream: LogStream::Stdout,
            at: DateTime::UNIX_EPOCH,
            offset: u64::MAX,
            bytes: b"hello".to_vec(),
        };
        assert_eq!(Position::behind(7, &chunk).offset, u64::MAX);
    }
}
