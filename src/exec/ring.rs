//! A bounded piece of a stream's end: what does not fit pushes out the oldest. Pure.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};

use crate::broker::{LogChunk, LogStream};

/// Bytes kept at most.
const CAPACITY: usize = 256 * 1024;

/// Bytes of one chunk at most.
const CHUNK: usize = 64 * 1024;

/// Chunks kept at most: two streams that alternate make many small ones.
const CHUNKS: usize = 512;

/// The newest output of one attempt, as the chunks that will be stored.
#[derive(Debug)]
pub(super) struct Ring {
    attempt: u32,
    chunks: VecDeque<LogChunk>,
    bytes: usize,
    written: u64,
}

impl Ring {
    pub(super) fn new(attempt: u32) -> Self {
        Self {
            attempt,
            chunks: VecDeque::new(),
            bytes: 0,
            written: 0,
        }
    }

    /// Adds output.
    pub(super) fn push(&mut self, stream: LogStream, at: DateTime<Utc>, bytes: &[u8]) {
        for piece in bytes.chunks(CHUNK) {
            self.push_piece(stream, at, piece);
        }
    }

    fn push_piece(&mut self, stream: LogStream, at: DateTime<Utc>, piece: &[u8]) {
        let offset = self.written;
        self.written += piece.len() as u64;
        self.bytes += piece.len();
        let last = self.chunks.back_mut().filter(|last| {
            last.stream == stream
                && last.offset + last.bytes.len() as u64 == offset
                && last.bytes.len() + piece.len() <= CHUNK
        });
        match last {
            Some(last) => last.bytes.extend_from_slice(piece),
            None => self.chunks.push_back(LogChunk {
                attempt: self.attempt,
                stream,
                at,
                offset,
                bytes: piece.to_vec(),
            }),
        }
        while self.bytes > CAPACITY || self.chunks.len() > CHUNKS {
            self.pop();
        }
    }

    /// Takes the oldest chunk.
    pub(super) fn pop(&mut self) -> Option<LogChunk> {
        let oldest = self.chunks.pop_front()?;
        self.bytes -= oldest.bytes.len();
        Some(oldest)
    }

    /// Gives back what [`Ring::pop`] took, unless there is no room for it any more.
    pub(super) fn put_back(&mut self, oldest: LogChunk) {
        if self.bytes + oldest.bytes.len() <= CAPACITY && self.chunks.len() < CHUNKS {
            self.bytes += oldest.bytes.len();
            self.chunks.push_front(oldest);
        }
    }

    /// How many chunks there are.
    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    /// How many bytes the attempt wrote.
    pub(super) fn written(&self) -> u64 {
        self.written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn push(ring: &mut Ring, stream: LogStream, bytes: &[u8]) {
        ring.push(stream, DateTime::UNIX_EPOCH, bytes);
    }

    #[test]
    fn joins_what_belongs_together() {
        let mut ring = Ring::new(1);
        push(&mut ring, LogStream::Stdout, b"one ");
        push(&mut ring, LogStream::Stdout, b"two");
        push(&mut ring, LogStream::Stderr, b"three");
        let first = ring.pop().unwrap();
        assert_eq!((first.offset, first.bytes.as_slice()), (0, &b"one two"[..]));
        let second = ring.pop().unwrap();
        assert_eq!((second.offset, second.stream), (7, LogStream::Stderr));
        assert_eq!(ring.pop(), None);
    }

    #[test]
    fn the_newest_stays_and_the_gap_shows() {
        let mut ring = Ring::new(1);
        for letter in 0..100_u8 {
            push(&mut ring, LogStream::Stdout, &vec![letter; 10_000]);
        }
        let kept: Vec<_> = std::iter::from_fn(|| ring.pop()).collect();
        let bytes: usize = kept.iter().map(|chunk| chunk.bytes.len()).sum();
        assert!((CAPACITY - CHUNK..=CAPACITY).contains(&bytes), "{bytes}");
        assert_eq!(kept[0].offset + bytes as u64, 1_000_000);
        assert_eq!(kept.last().unwrap().bytes.last(), Some(&99));
    }

    #[test]
    fn what_comes_back_is_the_oldest_and_the_first_to_go() {
        let mut ring = Ring::new(1);
        push(&mut ring, LogStream::Stdout, &[1; CHUNK]);
        let taken = ring.pop().unwrap();
        ring.put_back(taken.clone());
        assert_eq!(ring.pop(), Some(taken.clone()));
        push(&mut ring, LogStream::Stdout, &[2; CAPACITY]);
        ring.put_back(taken);
        assert_eq!(ring.pop().unwrap().bytes[0], 2);
    }

    proptest! {
        #[test]
        fn stays_within_its_bounds(writes in prop::collection::vec((any::<bool>(), 0..100_000_usize), 0..200)) {
            let mut ring = Ring::new(1);
            let mut total = 0;
            for (error, size) in writes {
                let stream = if error { LogStream::Stderr } else { LogStream::Stdout };
                push(&mut ring, stream, &vec![0; size]);
                total += size as u64;
                prop_assert!(ring.bytes <= CAPACITY && ring.len() <= CHUNKS);
            }
            prop_assert_eq!(ring.written(), total);
            let mut end = None;
            while let Some(chunk) = ring.pop() {
                prop_assert!(chunk.bytes.len() <= CHUNK);
                prop_assert!(end.is_none_or(|end| end == chunk.offset));
                end = Some(chunk.offset + chunk.bytes.len() as u64);
            }
            prop_assert!(end.is_none_or(|end| end == total));
            prop_assert_eq!(ring.bytes, 0);
        }
    }
}
