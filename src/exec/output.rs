//! The output of one attempt between its pipes and the log: written without ever waiting, read
//! when the log can take it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::ring::Ring;
use crate::{
    broker::{LogChunk, LogStream},
    clock,
};

/// The newest output of one attempt that is not stored yet, at most 256 KiB.
#[derive(Debug)]
pub struct Output {
    ring: Mutex<Ring>,
    arrived: Notify,
}

impl Output {
    /// Nothing yet.
    pub fn new(attempt: u32) -> Self {
        Self {
            ring: Mutex::new(Ring::new(attempt)),
            arrived: Notify::new(),
        }
    }

    /// Adds output; the oldest goes if there is no room.
    pub fn push(&self, stream: LogStream, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.ring().push(stream, clock::now(), bytes);
            self.arrived.notify_one();
        }
    }

    /// Adds a line of the worker's own.
    pub fn remark(&self, text: &str) {
        self.push(LogStream::Worker, format!("{text}\n").as_bytes());
    }

    /// Takes the oldest chunk.
    pub fn pop(&self) -> Option<LogChunk> {
        self.ring().pop()
    }

    /// Gives back what [`Output::pop`] took, to be taken again.
    pub fn put_back(&self, chunk: LogChunk) {
        self.ring().put_back(chunk);
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> usize {
        self.ring().len()
    }

    /// How many bytes the attempt wrote.
    pub fn written(&self) -> u64 {
        self.ring().written()
    }

    /// Waits until something was added since the last call.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
