//! How long a run waits for a date that its message or its record names, as far as that date is believed.
//!
//! Whoever wrote the date may have had a clock that was ahead, and was set right since. The run would hold its slot for
//! as long as the clock was wrong.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{RunMessage, RunRecord, RunState, latest, outcome::LONGEST_WISH};
use crate::job::RetryPolicy;

impl RunMessage {
    /// How long it is too early to start this at `now`, when it is delivered for the `deliveries`th time.
    ///
    /// A tick is fired when it comes. If it is still to come, a clock that was ahead fired it: its run waits for its
    /// jitter once, and not for the tick. What a person asked for waits for the date that was named.
    pub fn too_early(&self, deliveries: u64, now: DateTime<Utc>) -> Option<Duration> {
        let not_before = self.not_before?;
        let wait = until(not_before, now)?;
        match self.run_id.tick().filter(|tick| *tick > latest(now)) {
            Some(tick) if deliveries <= 1 => until(not_before, tick).map(|jitter| jitter.min(wait)),
            Some(_) => None,
            None => Some(wait),
        }
    }
}

impl RunRecord {
    /// How long it is too early for the next attempt at `now`.
    ///
    /// An attempt that ends in a time to come was recorded by a clock that was ahead: of its pause the broker has kept
    /// count. And no pause is longer than the job's own longest, or than what an attempt may ask for.
    pub fn put_off_for(&self, retry: &RetryPolicy, now: DateTime<Utc>) -> Option<Duration> {
        let at = self
            .next_attempt_at
            .filter(|_| self.state == RunState::Retrying)?;
        let ended = self.attempts.last().and_then(|last| last.finished_at);
        let is_ahead = ended.is_some_and(|ended| ended > latest(now));
        let longest = retry.longest_delay().max(LONGEST_WISH);
        let is_explained = until(at, latest(now)).is_none_or(|wait| wait <= longest);
        until(at, now).filter(|_| is_explained && !is_ahead)
    }
}

/// From `now` to `at`, if that is still to come.
fn until(at: DateTime<Utc>, now: DateTime<Utc>) -> Option<Duration> {
    let wait = (at - now).to_std().ok()?;
    (wait > Duration::ZERO).then_some(wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        job::{Execute, RunSpec, Seconds},
        run::{AttemptEnd, Claimant, DeliveryMark, RunId},
    };

    const HOUR: i64 = 3600;
    const DAY: u64 = 86_400;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_392_000 + second, 0).unwrap()
    }

    fn waits(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    fn message(run_id: RunId, not_before: i64) -> RunMessage {
        let spec = RunSpec::new(Execute::Shell("true".to_owned()));
        RunMessage {
            not_before: Some(at(not_before)),
            ..RunMessage::new(run_id, "high".parse().unwrap(), at(0), spec)
        }
    }

    #[test]
    fn a_run_of_a_tick_to_come_waits_for_its_jitter_once() {
        let message = message(RunId::for_tick("crawl".parse().unwrap(), at(0)), 600);
        for (now, deliveries, expected) in [
            (0, 1, waits(600)),
            (200, 2, waits(400)),
            (600, 2, None),
            (700, 1, None),
            // Clocks differ a little.
            (-60, 1, waits(660)),
            (-60, 2, waits(660)),
            // It was ahead.
            (-61, 1, waits(600)),
            (-8 * HOUR, 1, waits(600)),
            (-8 * HOUR, 2, None),
        ] {
            let found = message.too_early(deliveries, at(now));
            assert_eq!(found, expected, "{now} {deliveries}");
        }
    }

    #[test]
    fn what_a_person_asked_for_waits_for_its_date() {
        let by_hand = RunId::manual("crawl".parse().unwrap(), uuid::Uuid::now_v7());
        let message = message(by_hand, 600);
        for deliveries in [1, 2] {
            let found = message.too_early(deliveries, at(-8 * HOUR));
            assert_eq!(found, waits(8 * 3600 + 600));
        }
    }

    #[test]
    fn a_pause_between_attempts_is_no_longer_than_the_job_says() {
        let run_id = RunId::for_tick("crawl".parse().unwrap(), at(0));
        let mut retry = RetryPolicy {
            max: Seconds::from_secs(DAY),
            jitter: 0.0,
            ..RetryPolicy::default()
        };
        let by = Claimant {
            worker: "w".to_owned(),
            delivery: DeliveryMark {
                sequence: 1,
                count: 1,
            },
            at: at(0),
        };
        let fresh = RunRecord::queued(&message(run_id, 0));
        let failed = |ended, next| {
            let mut record = fresh.clone().claim(&by, None, 3).unwrap().record;
            record.close_attempt(at(ended), AttemptEnd::Failed, None);
            record.put_off(RunState::Retrying, Some(at(next)));
            record
        };
        for (ended, next, expected) in [
            (0, 1000, waits(1000)),
            (-500, 100, waits(100)),
            (-500, -1, None),
            (60, 1060, waits(1060)),
            // Recorded by a clock that was ahead, however long a pause may be.
            (61, 500, None),
            (8 * HOUR, 8 * HOUR + 10, None),
            // Further ahead than any pause.
            (0, 24 * HOUR, waits(DAY)),
            (0, 24 * HOUR + 61, None),
        ] {
            let found = failed(ended, next).put_off_for(&retry, at(0));
            assert_eq!(found, expected, "{ended} {next}");
        }
        retry.jitter = 0.5;
        let long = failed(0, 36 * HOUR).put_off_for(&retry, at(0));
        assert_eq!(long, waits(DAY * 3 / 2));
        retry.max = Seconds::from_secs(60);
        let asked_for = failed(0, 20 * HOUR).put_off_for(&retry, at(0));
        assert_eq!(asked_for, waits(20 * 3600), "`retry_after` of a result");
    }
}
