//! What a worker lets in: messages of trusted keys, as far as it was given keys.
//!
//! Decides on bytes and records; what was refused goes to the dead letters with the reason, and leaves the record of
//! the run that it claims to be alone.

use std::fmt;

use crate::{
    broker::{BrokerError, Delivery, Refused},
    clock,
    run::{Keyring, Malformed, Refusal, RunMessage, good_until},
};

use super::Shared;

/// What a worker lets in. By default everything that it understands.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    /// The keys of those who may publish; `None`: whoever can write to the broker may.
    pub keys: Option<Keyring>,
}

/// Why a delivery is not executed.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// It is not understood.
    Malformed(Malformed),
    /// Its signature is not good.
    Refused(Refusal),
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => why.fmt(f),
            Self::Refused(why) => why.fmt(f),
        }
    }
}

impl NotTaken {
    /// For the dead letter.
    pub(super) fn refused(&self) -> Option<Refused> {
        match self {
            Self::Malformed(_) => None,
            Self::Refused(why) => Some(Refused::by_signature(why)),
        }
    }
}

impl Gate {
    /// The message, if it is one of somebody who may publish. Nothing of it is looked at before that is sure.
    pub(super) fn read(&self, delivery: &Delivery) -> Result<RunMessage, NotTaken> {
        if let Some(keys) = &self.keys {
            let header = delivery.signature.as_deref();
            keys.verify(&delivery.subject, header, &delivery.payload)
                .map_err(NotTaken::Refused)?;
        }
        RunMessage::decode(&delivery.payload).map_err(NotTaken::Malformed)
    }
}

impl Shared {
    /// Refuses a signed run that might have run before, in a time of which no record is left. One that has begun goes
    /// on however long it takes, one that has ended is dropped as a repeat, and one past its `expires_at` ends as
    /// expired: all that the record decides.
    pub(super) async fn too_old(
        &self,
        gate: &Gate,
        message: &RunMessage,
    ) -> Result<Option<NotTaken>, BrokerError> {
        let (now, until) = (clock::now(), good_until(message));
        let is_in_time = gate.keys.is_none() || now < until;
        if is_in_time || message.expires_at.is_some_and(|at| at <= now) {
            return Ok(None);
        }
        let has_begun = match self.record(message).await? {
            Some((record, _)) => record.started_at.is_some() || record.state.is_final(),
            None => false,
        };
        Ok((!has_begun).then_some(NotTaken::Refused(Refusal::Outdated(until))))
    }
}
