//! The name of an installation: by it a beat sees that a broker lost its data, or is another one. Owns the key
//! `installation` of the state bucket.

use tracing::{info, warn};

use super::{BeatError, shared::read_installation};
use crate::{
    broker::{Bucket, Cas, Durability, SharedBroker},
    chance,
    plan::{IMPORTED_PREFIX, INSTALLATION_KEY},
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
    /// It has another name because somebody imported a state: that counts, and nothing of what it replaced.
    Imported,
}

impl Found {
    /// Whether what is missing there was lost. Of what was imported nothing is missing.
    pub(super) fn is_lost(self) -> bool {
        match self {
            Self::Nameless | Self::Another => true,
            Self::Same | Self::Imported => false,
        }
    }

    /// Whether its ticks are those of another installation.
    pub(super) fn is_replaced(self) -> bool {
        match self {
            Self::Another | Self::Imported => true,
            Self::Same | Self::Nameless => false,
        }
    }
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
        if found
            .as_ref()
            .is_some_and(|found| found.starts_with(IMPORTED_PREFIX))
        {
            info!(target: "orchestrator::beat", known, found,
                "another state was imported: what this beat knew before is of no account");
            return Ok(Found::Imported);
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
