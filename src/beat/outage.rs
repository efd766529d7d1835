//! Tells of failures without repeating itself, and says how long to wait.

use std::time::Duration;

use tracing::{error, info, warn};

use super::BeatError;
use crate::clock;

/// How often it is told that another beat is at work, and that the clock is behind.
const TELL_AGAIN: Duration = Duration::from_secs(600);

/// How long beat waits for the next try: there are few of them, and all ticks wait.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Whose outage it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Who {
    /// Ticks wait for this beat.
    #[default]
    Leads,
    /// Another beat may be at work all the while.
    StandsBy,
}

/// An outage is told once when it begins and once when it is over, whatever its length.
#[derive(Debug, Default)]
pub(super) struct Outage {
    who: Who,
    failures: u32,
    overtaken_told_at: Option<std::time::Instant>,
    /// As long as the clock is behind the watermark.
    clock_told_at: Option<std::time::Instant>,
}

impl Outage {
    pub(super) fn of(who: Who) -> Self {
        Self {
            who,
            ..Self::default()
        }
    }

    /// Whether the last try failed.
    pub(super) fn goes_on_now(&self) -> bool {
        self.failures > 0 || self.clock_told_at.is_some()
    }

    /// Another try failed; how long to wait.
    pub(super) fn goes_on(&mut self, error: &BeatError) -> Duration {
        if let BeatError::Overtaken = error {
            let now = clock::monotonic();
            let told = self.overtaken_told_at;
            if told.is_none_or(|told| now - told >= TELL_AGAIN) {
                self.overtaken_told_at = Some(now);
                warn!(target: "orchestrator::beat",
                    "another beat moved the watermark: following it; no tick is fired twice, but \
                     one beat is enough");
            }
            return Duration::ZERO;
        }
        if let BeatError::ClockBehind { by, .. } = error {
            let now = clock::monotonic();
            let told = self.clock_told_at;
            if told.is_none_or(|told| now - told >= TELL_AGAIN) {
                self.clock_told_at = Some(now);
                let by = humantime::format_duration(Duration::from_secs(by.as_secs()));
                error!(target: "orchestrator::beat", behind_by = %by, "{error}");
            }
            return (*by).min(super::LONGEST_SLEEP);
        }
        if self.failures == 0 {
            let help = match error {
                BeatError::Broker(error) => error.help(),
                _ => None,
            };
            match self.who {
                Who::Leads => error!(target: "orchestrator::beat", %error, help,
                    "beat holds its watermark until this is over; no tick is lost"),
                Who::StandsBy => error!(target: "orchestrator::beat", %error, help,
                    "this beat stands by, and can neither follow the one that leads nor take over until this is over"),
            }
        }
        self.failures = self.failures.saturating_add(1);
        let factor = 1_u32 << self.failures.min(6);
        (Duration::from_millis(50) * factor).min(LONGEST_PAUSE)
    }

    pub(super) fn over(&mut self) {
        if self.clock_told_at.take().is_some() {
            info!(target: "orchestrator::beat", "the clock is at the watermark again: beat goes on");
        }
        if self.failures > 0 {
            match self.who {
                Who::Leads => {
                    info!(target: "orchestrator::beat", tries = self.failures, "beat goes on")
                }
                Who::StandsBy => {
                    info!(target: "orchestrator::beat", tries = self.failures, "this beat can stand by again");
                }
            }
            self.failures = 0;
        }
    }
}
