//! How chunks lie in the store.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::broker::{LogChunk, LogStream, embedded::context::split_number};

/// Ends the key of the run within the key of a chunk; no key contains it.
const END_OF_RUN: u8 = 0;

/// How long output is kept.
pub(super) const MAX_AGE: Duration = Duration::from_secs(7 * 86_400);

/// Which chunk has a sequence.
pub(super) struct Place {
    pub(super) at: DateTime<Utc>,
    pub(super) size: u64,
    pub(super) run: Vec<u8>,
}

impl Place {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut raw = self.size.to_be_bytes().to_vec();
        raw.extend_from_slice(&self.at.timestamp_millis().to_be_bytes());
        raw.extend_from_slice(&self.run);
        raw
    }

    pub(super) fn decode(raw: &[u8]) -> Option<Self> {
        let (size, rest) = split_number(raw)?;
        let (at, run) = rest.split_first_chunk::<8>()?;
        Some(Self {
            at: DateTime::from_timestamp_millis(i64::from_be_bytes(*at))?,
            size,
            run: run.to_vec(),
        })
    }

    pub(super) fn is_old(&self, now: DateTime<Utc>) -> bool {
        (now - self.at).to_std().is_ok_and(|age| age >= MAX_AGE)
    }
}

pub(super) fn chunk_key(run: &[u8], sequence: u64) -> Vec<u8> {
    let mut key = run.to_vec();
    key.push(END_OF_RUN);
    key.extend_from_slice(&sequence.to_be_bytes());
    key
}

/// The sequence at the end of a key.
pub(super) fn last_number(key: &[u8]) -> u64 {
    key.last_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

pub(super) fn encode(chunk: &LogChunk) -> Vec<u8> {
    let stream = match chunk.stream {
        LogStream::Stdout => 0,
        LogStream::Stderr => 1,
        LogStream::Worker => 2,
    };
    let mut raw = vec![stream];
    raw.extend_from_slice(&chunk.attempt.to_be_bytes());
    raw.extend_from_slice(&chunk.at.timestamp().to_be_bytes());
    raw.extend_from_slice(&chunk.at.timestamp_subsec_nanos().to_be_bytes());
    raw.extend_from_slice(&chunk.offset.to_be_bytes());
    raw.extend_from_slice(&chunk.bytes);
    raw
}

pub(super) fn decode(raw: &[u8]) -> Option<LogChunk> {
    let (stream, rest) = raw.split_first()?;
    let stream = match stream {
        0 => LogStream::Stdout,
        1 => LogStream::Stderr,
        2 => LogStream::Worker,
        _ => return None,
    };
    let (attempt, rest) = rest.split_first_chunk::<4>()?;
    let (seconds, rest) = rest.split_first_chunk::<8>()?;
    let (nanoseconds, rest) = rest.split_first_chunk::<4>()?;
    let (offset, bytes) = split_number(rest)?;
    Some(LogChunk {
        attempt: u32::from_be_bytes(*attempt),
        stream,
        at: DateTime::from_timestamp(
            i64::from_be_bytes(*seconds),
            u32::from_be_bytes(*nanoseconds),
        )?,
        offset,
        bytes: bytes.to_vec(),
    })
}
