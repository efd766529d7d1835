//! Takes what nobody can or may execute to the dead letters.

use tracing::warn;

use super::{
    Shared,
    gate::{NotHere, NotTaken},
    refused::{self, Telling},
};
use crate::{
    broker::{BrokerError, DeadLetter, Delivery, Refused},
    clock,
    run::{RunId, RunMessage, RunRecord},
};

/// Signatures and reasons are shorter: longer ones are words of a message that is no run.
const LONGEST_WORDS: usize = 2048;

impl Shared {
    /// Keeps a message for a person to decide on.
    pub(super) async fn dead_letter(
        &self,
        delivery: &Delivery,
        run_id: Option<RunId>,
        about: (&str, Option<Refused>),
    ) -> Result<(), BrokerError> {
        self.keep_letter(delivery, run_id, about, DeadLetter::KEPT_PAYLOAD)
            .await
    }

    async fn keep_letter(
        &self,
        delivery: &Delivery,
        run_id: Option<RunId>,
        (reason, refused): (&str, Option<Refused>),
        kept: usize,
    ) -> Result<(), BrokerError> {
        let kept = delivery.payload.len().min(kept);
        let signature = delivery.signature.clone();
        let signature = signature.filter(|signature| signature.len() <= LONGEST_WORDS);
        let letter = DeadLetter {
            run_id,
            queue: delivery.queue.clone(),
            at: clock::now(),
            reason: shortened(reason).to_owned(),
            payload: delivery.payload[..kept].to_vec(),
            refused,
            subject: signature.is_some().then(|| delivery.subject.clone()),
            signature,
        };
        self.broker.dead_letter(letter).await
    }

    /// A run that has ended because it cannot be executed here: the policy does not allow it, or there is no such user.
    pub(super) async fn end_refused(
        &self,
        delivery: &Delivery,
        message: &RunMessage,
        record: &RunRecord,
        not_here: &NotHere,
    ) -> Result<(), BrokerError> {
        let reason = &not_here.reason;
        warn!(target: "orchestrator::worker", run_id = %record.run_id, reason,
            "a run ends as dead: it cannot be executed here");
        let run_id = Some(record.run_id.clone());
        // Without trusted keys anybody may have written it.
        let is_signed = self.options.gate.borrow().keys.is_some();
        let kept = match is_signed {
            true => Some(DeadLetter::KEPT_PAYLOAD),
            false => self.room_for_a_letter(delivery, run_id.as_ref()),
        };
        if let Some(kept) = kept {
            self.keep_letter(delivery, run_id, (reason, not_here.refused()), kept)
                .await?;
        }
        self.remember(message, record).await?;
        self.broker.ack(&delivery.receipt).await
    }

    /// How much of a message is kept that nobody is known to have meant as a run: all of them share one allowance.
    fn room_for_a_letter(&self, delivery: &Delivery, run_id: Option<&RunId>) -> Option<usize> {
        let most = match run_id {
            Some(_) => DeadLetter::KEPT_PAYLOAD,
            None => refused::CUT,
        };
        let wanted = delivery.payload.len().min(most);
        self.refused.room_for_a_letter(clock::monotonic(), wanted)
    }

    /// Takes a message out of its queue. Of a flood only some become dead letters, whatever they call themselves; all
    /// are counted.
    pub(super) async fn bury(&self, delivery: &Delivery, why: &NotTaken) {
        let why_not = why.to_string();
        let reason = shortened(&why_not);
        let run_id = RunMessage::run_id_in(&delivery.payload);
        let kept = self.room_for_a_letter(delivery, run_id.as_ref());
        let has_letter = kept.is_some();
        let buried = match kept {
            Some(kept) => {
                self.keep_letter(delivery, run_id, (reason, why.refused()), kept)
                    .await
            }
            None => Ok(()),
        };
        let settled = match buried {
            Ok(()) => self.broker.ack(&delivery.receipt).await,
            Err(error) => Err(error),
        };
        match settled {
            Ok(()) => match self.refused.note() {
                (refused, Telling::Line) => {
                    warn!(target: "orchestrator::worker", queue = %delivery.queue,
                        sequence = delivery.sequence, reason, refused, has_letter,
                        "a message is no run: it is refused, and becomes a dead letter unless there were too many");
                }
                (_, Telling::Nothing) => {}
            },
            Err(error) => warn!(target: "orchestrator::worker", queue = %delivery.queue,
                sequence = delivery.sequence, reason, %error,
                "a message should become a dead letter; its lease brings it back"),
        }
    }
}

/// The beginning of a reason, which may quote a message.
fn shortened(reason: &str) -> &str {
    let mut ends = (0..=LONGEST_WORDS.min(reason.len())).rev();
    let end = ends.find(|end| reason.is_char_boundary(*end));
    &reason[..end.unwrap_or_default()]
}
