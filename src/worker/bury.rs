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
        let letter = DeadLetter {
            run_id,
            queue: delivery.queue.clone(),
            at: clock::now(),
            reason: reason.to_owned(),
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
            "a run became a dead letter");
        let run_id = Some(record.run_id.clone());
        self.dead_letter(delivery, run_id, (reason, not_here.refused()))
            .await?;
        self.remember(message, record).await?;
        self.broker.ack(&delivery.receipt).await
    }

    /// Takes a message out of its queue. Of a flood of those that nobody who may publish can have meant as a run, only
    /// some become dead letters; all are counted.
    pub(super) async fn bury(&self, delivery: &Delivery, why: &NotTaken) {
        let reason = &why.to_string();
        let run_id = RunMessage::run_id_in(&delivery.payload);
        let about = (reason.as_str(), why.refused());
        let is_a_run = run_id.is_some() && about.1.is_none();
        let has_letter = is_a_run || self.refused.has_room_for_a_letter(clock::monotonic());
        let kept = match run_id {
            Some(_) => DeadLetter::KEPT_PAYLOAD,
            None => refused::KEPT,
        };
        let buried = match has_letter {
            true => self.keep_letter(delivery, run_id, about, kept).await,
            false => Ok(()),
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
