//! What the connection has been through: when it was lost or made again, why it is not there, who waits to hear of it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::Event;
use tokio::sync::watch;

use crate::clock;

/// When the connection was lost, or made again after that.
#[derive(Debug, Default)]
pub(super) struct Disturbed {
    last: Mutex<Option<Instant>>,
    /// How often it was lost.
    losses: watch::Sender<u64>,
    /// Why the server is not reached, as it was told last.
    trouble: Mutex<Option<String>>,
}

impl Disturbed {
    /// Whether it is worth telling: a server that is away for a day is tried very often.
    pub(super) fn is_new(&self, event: &Event) -> bool {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let now = match event {
            Event::ClientError(error) => Some(error.to_string()),
            Event::Connected => None,
            _ => return true,
        };
        let is_new = now.is_none() || *trouble != now;
        *trouble = now;
        is_new
    }

    pub(super) fn note(&self, event: &Event) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Disconnected => {
                *last = Some(clock::monotonic());
                self.losses.send_modify(|losses| *losses += 1);
            }
            // The first one disturbs nothing.
            Event::Connected if last.is_some() => *last = Some(clock::monotonic()),
            _ => {}
        }
    }

    pub(super) fn ago(&self) -> Duration {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.map_or(Duration::MAX, |last| {
            clock::monotonic().saturating_duration_since(last)
        })
    }

    /// How often the connection was lost.
    pub(super) fn count(&self) -> u64 {
        *self.losses.borrow()
    }

    /// Hears of losses from now on.
    pub(super) fn losses(&self) -> Losses {
        Losses(self.losses.subscribe())
    }
}

/// Hears of the loss of the connection.
#[derive(Debug)]
pub(super) struct Losses(watch::Receiver<u64>);

impl Losses {
    /// Returns when the connection is lost, which may be never.
    pub(super) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody would tell any more.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_it_from_reconnecting_is_told_once() {
        let disturbed = Disturbed::default();
        let failed = |why: &str| Event::ClientError(async_nats::ClientError::Other(why.to_owned()));
        assert!(disturbed.is_new(&Event::Disconnected));
        assert!(disturbed.is_new(&failed("refused")));
        assert!(!disturbed.is_new(&failed("refused")));
        assert!(disturbed.is_new(&failed("who are you?")));
        assert!(disturbed.is_new(&Event::Connected));
        assert!(disturbed.is_new(&failed("who are you?")));
    }

    #[tokio::test]
    async fn who_waits_hears_of_the_loss_that_comes() {
        let disturbed = Disturbed::default();
        disturbed.note(&Event::Disconnected);
        let mut losses = disturbed.losses();
        let earlier = tokio::time::timeout(Duration::ZERO, losses.next());
        assert!(earlier.await.is_err(), "that was before");
        disturbed.note(&Event::Connected);
        disturbed.note(&Event::Disconnected);
        losses.next().await;
    }
}
