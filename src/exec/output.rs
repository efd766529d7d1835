//! The output of one attempt between its pipes and the log: written without ever waiting, read
//! when the log can take it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Redactor, ring::Ring};
use crate::{
    broker::{LogChunk, LogStream},
    clock,
};

/// The newest output of one attempt that is not stored yet, at most 256 KiB.
#[derive(Debug)]
pub struct Output {
    kept: Mutex<Kept>,
    redactor: Option<Redactor>,
    arrived: Notify,
}

#[derive(Debug)]
struct Kept {
    ring: Ring,
    /// What may be the beginning of a secret, of each stream that has some.
    pending: Vec<(LogStream, Vec<u8>)>,
}

impl Output {
    /// Nothing yet.
    pub fn new(attempt: u32) -> Self {
        Self {
            kept: Mutex::new(Kept {
                ring: Ring::new(attempt),
                pending: Vec::new(),
            }),
            redactor: None,
            arrived: Notify::new(),
        }
    }

    /// Hides secrets in what is added.
    #[must_use]
    pub fn hiding(self, redactor: Option<Redactor>) -> Self {
        Self { redactor, ..self }
    }

    /// Adds output; the oldest goes if there is no room.
    pub fn push(&self, stream: LogStream, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut kept = self.kept();
        match &self.redactor {
            None => kept.ring.push(stream, clock::now(), bytes),
            Some(redactor) => kept.push_hidden(redactor, stream, bytes),
        }
        self.arrived.notify_one();
    }

    /// Adds what was held back: there is nothing more to come.
    pub fn finish(&self) {
        let Some(redactor) = &self.redactor else {
            return;
        };
        let mut kept = self.kept();
        for (stream, mut pending) in std::mem::take(&mut kept.pending) {
            let ready = redactor.take(&mut pending, true);
            kept.ring.push(stream, clock::now(), &ready);
        }
        self.arrived.notify_one();
    }

    /// Adds a line of the worker's own.
    pub fn remark(&self, text: &str) {
        self.push(LogStream::Worker, format!("{text}\n").as_bytes());
    }

    /// Takes the oldest chunk.
    pub fn pop(&self) -> Option<LogChunk> {
        self.kept().ring.pop()
    }

    /// Gives back what [`Output::pop`] took, to be taken again.
    pub fn put_back(&self, chunk: LogChunk) {
        self.kept().ring.put_back(chunk);
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> usize {
        self.kept().ring.len()
    }

    /// How many bytes the attempt wrote.
    pub fn written(&self) -> u64 {
        self.kept().ring.written()
    }

    /// Waits until something was added since the last call.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn push_hidden(&mut self, redactor: &Redactor, stream: LogStream, bytes: &[u8]) {
        let known = self.pending.iter().position(|(of, _)| *of == stream);
        let at = known.unwrap_or_else(|| {
            self.pending.push((stream, Vec::new()));
            self.pending.len() - 1
        });
        let pending = &mut self.pending[at].1;
        pending.extend_from_slice(bytes);
        let ready = redactor.take(pending, false);
        if !ready.is_empty() {
            self.ring.push(stream, clock::now(), &ready);
        }
    }
}
