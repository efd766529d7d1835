//! The name of an installation: by it a beat sees that a broker lost its data, or is another one. Owns the key
//! `installation` of the state bucket.

use tracing::warn;

use super::{BeatError, shared::read_installation};
use crate::{
    broker::{Bucket, Cas, Durability, SharedBroker},
    chance,
    plan::INSTALLATION_KEY,
};

/// The name that this beat knows; see [`INSTALLATION_KEY`].
#[derive(Debug, Default)]
pub(super) struct Installation(Option<String>);

/// What the broker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It is the one that this beat knew, or this beat knew none.
    Same,
    /// It has no name: it lost its data, or is new.
    Nameless,
    /// It has another name.
    Another,
}

impl Installation {
    pub(super) fn known(name: Option<String>) -> Self {
        Self(name)
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Whether the broker's state is the one that this beat knew.
    pub(super) async fn look(&self, broker: &SharedBroker) -> Result<Found, BeatError> {
        let Some(known) = &self.0 else {
            return Ok(Found::Same);
        };
        let found = read_installation(broker.as_ref()).await?;
        if found.as_ref() == Some(known) {
            return Ok(Found::Same);
        }
        warn!(target: "orchestrator::beat", known, found,
            "the broker was wiped, or is another one: what is missing there is restored");
        Ok(match found {
            None => Found::Nameless,
            Some(_) => Found::Another,
        })
    }

    /// Names the installation, unless it has a name.
    pub(super) async fn settle(&mut self, broker: &SharedBroker) -> Result<(), BeatError> {
        let name = self.0.take().unwrap_or_else(|| chance::uuid().to_string());
        let value = name.clone().into_bytes();
        let named = broker
            .compare_and_set(
                Bucket::State,
                INSTALLATION_KEY,
                None,
                value,
                Durability::Power,
            )
            .await?;
        point!("beat-installation-named");
        self.0 = match named {
            Cas::Done(_) => Some(name),
            Cas::Conflict => read_installation(broker.as_ref()).await?,
        };
        Ok(())
    }
}
