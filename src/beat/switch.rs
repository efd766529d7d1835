//! The dead-man switch of beat itself: somewhere else an alarm is raised when nothing comes.

use std::time::Duration;

use super::Beat;
use crate::{clock, exec::PingEvent};

/// How often it is told that this beat is at work.
const PING_EVERY: Duration = Duration::from_secs(60);

impl Beat {
    /// Tells that this beat gets on, or that it does not.
    pub(super) fn ping(&mut self, event: PingEvent, reason: &str) {
        let now = clock::monotonic();
        let is_told = |(told, at)| told == event && now - at < PING_EVERY;
        if let (Some(url), false) = (&self.options.ping, self.pinged.is_some_and(is_told)) {
            self.pinged = Some((event, now));
            self.pings.send(url, event, None, reason);
        }
    }
}
