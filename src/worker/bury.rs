//! Takes what nobody can or may execute to the dead letters.

use tracing::warn;

use super::{Shared, gate::NotTaken};
use crate::{
    broker::{BrokerError, DeadLetter, Delivery, Refused},
    clock,
    run::{RunId, RunMessage},
};

impl Shared {
    /// Keeps a message for a person to decide on.
    pub(super) async fn dead_letter(
        &self,
        delivery: &Delivery,
        run_id: Option<RunId>,
        (reason, refused): (&str, Option<Refused>),
    ) -> Result<(), BrokerError> {
        let kept = delivery.payload.len().min(DeadLetter::KEPT_PAYLOAD);
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

    /// Takes a message out of its queue.
    pub(super) async fn bury(&self, delivery: &Delivery, why: &NotTaken) {
        let reason = &why.to_string();
        let run_id = RunMessage::run_id_in(&delivery.payload);
        let about = (reason.as_str(), why.refused());
        let buried = match self.dead_letter(delivery, run_id, about).await {
            Ok(()) => self.broker.ack(&delivery.receipt).await,
            Err(error) => Err(error),
        };
        match buried {
            Ok(()) => warn!(target: "orchestrator::worker", queue = %delivery.queue,
                sequence = delivery.sequence, reason, "a message became a dead letter"),
            Err(error) => warn!(target: "orchestrator::worker", queue = %delivery.queue,
                sequence = delivery.sequence, reason, %error,
                "a message should become a dead letter; its lease brings it back"),
        }
    }
}
