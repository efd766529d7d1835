//! Tells of an outage of the broker without repeating itself, and says how long to wait.

use std::time::Duration;

use tracing::{info, warn};

use crate::{broker::BrokerError, chance};

/// An outage is told once when it begins and once when it is over.
#[derive(Debug, Default)]
pub(super) struct Outage {
    failures: u32,
}

impl Outage {
    /// Another try failed; how long to wait.
    pub(super) fn goes_on(&mut self, error: &BrokerError) -> Duration {
        if self.failures == 0 {
            warn!(target: "orchestrator::worker", %error, help = error.help(),
                "no runs can be taken; trying again until it is over");
        }
        self.failures = self.failures.saturating_add(1);
        let nominal = Duration::from_millis(50 << self.failures.min(6));
        nominal
            .min(Duration::from_secs(2))
            .mul_f64(1.0 - chance::fraction() / 2.0)
    }

    pub(super) fn over(&mut self) {
        if self.failures > 0 {
            info!(target: "orchestrator::worker", tries = self.failures, "taking runs again");
            self.failures = 0;
        }
    }
}
