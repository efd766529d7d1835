//! Which stream of the runs this is: one that was begun anew, because the server lost its data or somebody removed the
//! stream, has the same name, and takes receipts of before for those of other runs.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{
    NatsBroker,
    api::code,
    setup::{Stream, Turn, turn},
};
use crate::{
    broker::{BrokerError, Receipt},
    clock,
};

/// What is known of the stream of the runs.
#[derive(Debug, Default)]
pub(super) struct Begun(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// When it was made, as the server says.
    made: Option<String>,
    /// When this was seen to be another stream than before.
    replaced_at: Option<Instant>,
    /// How often the connection had been lost at the last look.
    losses: u64,
}

impl Begun {
    /// The stream was made at `made`. Returns whether that is another one than was known.
    pub(super) fn note(&self, made: Option<String>) -> bool {
        let mut known = self.lock();
        let is_same = made.is_some() && known.made == made;
        if !is_same && known.made.is_some() {
            known.replaced_at = Some(clock::monotonic());
        }
        known.made = made;
        !is_same
    }

    fn is_seen_after(&self, losses: u64) -> bool {
        self.lock().losses == losses
    }

    fn seen_after(&self, losses: u64) {
        self.lock().losses = losses;
    }

    fn replaced_at(&self) -> Option<Instant> {
        self.lock().replaced_at
    }

    /// Whether a message that was stored at `stored` was stored in a stream that is gone.
    fn is_after(&self, stored: DateTime<Utc>) -> bool {
        let known = self.lock();
        let made = known.made.as_deref().map(DateTime::parse_from_rfc3339);
        let made = made.and_then(Result::ok);
        known.replaced_at.is_some() && made.is_some_and(|made| stored < made)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NatsBroker {
    /// When it was seen that the stream of the runs was begun anew, if it was.
    pub(super) async fn begun_anew_at(&self) -> Result<Option<Instant>, BrokerError> {
        self.look_after_a_loss().await?;
        Ok(self.begun.replaced_at())
    }

    /// Whether the run was delivered from a stream that is gone.
    pub(super) async fn is_receipt_of_before(
        &self,
        receipt: &Receipt,
    ) -> Result<bool, BrokerError> {
        self.look_after_a_loss().await?;
        Ok(stored_at(&receipt.0).is_some_and(|stored| self.begun.is_after(stored)))
    }

    /// A server that was away may have come back empty.
    async fn look_after_a_loss(&self) -> Result<(), BrokerError> {
        if self.begun.is_seen_after(self.disturbed.count()) {
            return Ok(());
        }
        let name = self.stream_name(Stream::Jobs);
        let operation = format!("look whether {name} is the stream of before");
        let turn = turn(&self.setup.looking).await;
        let losses = self.disturbed.count();
        if self.begun.is_seen_after(losses) {
            return Ok(());
        }
        let Some(_turn) = turn.filter(Turn::leaves_time) else {
            return Err(self.out_of_reach(&operation, "no answer in time".to_owned()));
        };
        let subject = format!("STREAM.INFO.{name}");
        let found = match self.api::<Value>(&operation, &subject, &Value::Null).await {
            Ok(found) => found,
            // It is made again in a moment.
            Err(error) if error.is(code::NO_STREAM) => {
                return Err(self.out_of_reach(&operation, "it is missing".to_owned()));
            }
            Err(error) => return Err(self.error(&operation, error)),
        };
        if self
            .begun
            .note(found["created"].as_str().map(str::to_owned))
        {
            self.setup.forget();
        }
        self.begun.seen_after(losses);
        Ok(())
    }
}

/// When the message was stored to which a reply subject belongs, in nanoseconds its last number but one or two:
/// `$JS.ACK.STREAM.CONSUMER.DELIVERIES.SEQUENCE.SEQUENCE.TIME.PENDING`; newer servers put a domain and an account in front
/// of the stream.
fn stored_at(reply: &str) -> Option<DateTime<Utc>> {
    let tokens: Vec<_> = reply.split('.').collect();
    let at = match tokens.len() {
        9 => 7,
        11.. => 9,
        _ => return None,
    };
    let nanoseconds = tokens.get(at)?.parse().ok()?;
    Some(DateTime::from_timestamp_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "2026-11-28T05:00:00.5Z";

    #[test]
    fn what_was_stored_before_another_stream_was_made_is_of_before() {
        let begun = Begun::default();
        let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
        let earlier = at("2026-11-28T04:59:59Z");
        assert!(begun.note(Some(FIRST.to_owned())), "nothing was known");
        assert!(!begun.note(Some(FIRST.to_owned())));
        assert_eq!(begun.replaced_at(), None);
        // Servers of a cluster may have clocks that differ.
        assert!(!begun.is_after(earlier), "nobody has seen another one");
        assert!(begun.note(Some("2026-11-28T06:00:00Z".to_owned())));
        assert!(begun.replaced_at().is_some());
        assert!(begun.is_after(earlier) && begun.is_after(at("2026-11-28T05:59:59.9Z")));
        assert!(!begun.is_after(at("2026-11-28T06:00:00.1Z")));
    }

    #[test]
    fn a_receipt_tells_when_its_message_was_stored() {
        let of = |reply| stored_at(reply).map(|at| at.timestamp());
        let short = "$JS.ACK.ORCH_JOBS.high.1.7.3.1795841785000000000.0";
        let long = "$JS.ACK._.hash.ORCH_JOBS.high.1.7.3.1795841785000000000.0.token";
        assert_eq!(of(short), Some(1_795_841_785));
        assert_eq!(of(long), Some(1_795_841_785));
        assert_eq!(of("_INBOX.a.b"), None);
    }
}
