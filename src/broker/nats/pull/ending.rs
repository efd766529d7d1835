//! The end of a pull: what is open is ended, what was under way is brought in, what is too much goes back.

use std::time::Duration;

use futures::StreamExt;

use super::Pulling;
use crate::{
    broker::nats::PATIENCE,
    broker::{Broker, BrokerError, Delivery},
    clock,
};

impl Pulling<'_> {
    /// Ends the subscription without losing what is under way.
    ///
    /// The client library forgets a subscription as soon as it says so to the server; what the server
    /// sent before it heard of it would be lost until its lease runs out. So the server is told to end
    /// it after a number of messages that it cannot have sent yet, and that number is made up by
    /// messages of our own. Both sides count the same messages: nothing is sent that is not received.
    async fn end(&mut self) {
        let fill = self.owed + 1;
        let last = self.received + fill;
        if self.subscriber.unsubscribe_after(last).await.is_err() {
            return;
        }
        let inbox = format!("{}.end", self.inbox);
        for _ in 0..fill {
            let sent = self.nats.client.publish(inbox.clone(), Vec::new().into());
            if sent.await.is_err() {
                return;
            }
        }
        let limit = tokio::time::sleep(PATIENCE);
        tokio::pin!(limit);
        loop {
            let message = tokio::select! {
                message = self.subscriber.next() => message,
                () = &mut limit => None,
            };
            let Some(message) = message else { return };
            if message.subject.as_str() != inbox {
                // The end of a request, or what this pull has failed with already.
                let _ = self.receive(message);
            }
        }
    }

    /// Ends what is open, brings in what was under way, gives back what is too much.
    pub(super) async fn finish(
        mut self,
        max: usize,
        outcome: Result<(), BrokerError>,
    ) -> Result<Vec<Delivery>, BrokerError> {
        // What was under way over a connection that is lost does not come any more.
        if !self.open.is_empty() && self.nats.is_connected() {
            self.end().await;
        }
        let surplus = self.taken.split_off(self.taken.len().min(max));
        for delivery in surplus {
            // If this fails, the lease brings it back.
            let _ = self.nats.release(&delivery.receipt, Duration::ZERO).await;
        }
        let now = clock::monotonic();
        for (delivery, came) in self.taken.iter_mut().zip(&self.came) {
            delivery.held_for = now.saturating_duration_since(*came);
        }
        match outcome {
            Err(error) if self.taken.is_empty() => Err(error),
            // What was taken is worth more than the error, which comes again.
            Ok(()) | Err(_) => Ok(self.taken),
        }
    }
}
