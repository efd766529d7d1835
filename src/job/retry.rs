//! What happens after a failed attempt. The delay is a pure function of (policy, attempt, seed).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Seconds;

/// `retry = { attempts, backoff, initial, max, jitter, on_exit, not_on_exit, on_status, not_on_status, max_crashes }`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// How often a run is attempted in all; 1 means never again.
    pub attempts: u32,
    /// How the delays grow.
    pub backoff: Backoff,
    /// No delay is longer.
    pub max: Seconds,
    /// Share of the delay, 0 to 1, by which it is shortened or lengthened at random.
    pub jitter: f64,
    /// If not empty, only these exit codes are retried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_exit: Vec<i32>,
    /// These exit codes are never retried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_on_exit: Vec<i32>,
    /// If not empty, of the answers to requests only those with these statuses are retried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_status: Vec<u16>,
    /// Answers with these statuses are never retried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_on_status: Vec<u16>,
    /// A run that took more workers with it than this is dead. Their deaths use up no attempt.
    #[serde(
        default = "RetryPolicy::default_max_crashes",
        skip_serializing_if = "RetryPolicy::is_default_max_crashes"
    )]
    pub max_crashes: u32,
}

/// How the delays between attempts grow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// The same delay each time.
    Fixed(Seconds),
    /// Twice the one before.
    Exponential(Seconds),
    /// The given delays in turn, then the last one again. Never empty.
    List(Vec<Seconds>),
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 1,
            backoff: Backoff::Exponential(Seconds::from_secs(10)),
            max: Seconds::from_secs(3600),
            jitter: 0.1,
            on_exit: Vec::new(),
            not_on_exit: Vec::new(),
            on_status: Vec::new(),
            not_on_status: Vec::new(),
            max_crashes: Self::default_max_crashes(),
        }
    }
}

impl RetryPolicy {
    /// Three workers may die of a run unless the job says otherwise.
    pub const fn default_max_crashes() -> u32 {
        3
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
    fn is_default_max_crashes(crashes: &u32) -> bool {
        *crashes == Self::default_max_crashes()
    }

    /// Whether an attempt that failed so may be repeated at all, however many are left.
    pub fn covers(&self, failure: Failure) -> bool {
        match failure {
            Failure::Exit(code) => is_listed(code, &self.on_exit, &self.not_on_exit),
            Failure::Status(status) => is_listed(status, &self.on_status, &self.not_on_status),
            Failure::Other => true,
        }
    }

    /// No delay is longer than this, jitter included.
    pub fn longest_delay(&self) -> Duration {
        let longest = self.max.get().as_secs_f64() * (1.0 + self.jitter);
        Duration::try_from_secs_f64(longest).unwrap_or(Duration::MAX)
    }

    /// The delay after failed attempt number `attempt` (from 1). `seed` in `0.0..1.0` places it
    /// within the jitter.
    pub fn delay(&self, attempt: u32, seed: f64) -> Duration {
        let nominal = match &self.backoff {
            Backoff::Fixed(delay) => delay.get(),
            Backoff::Exponential(initial) => {
                let factor = 1_u32
                    .checked_shl(attempt.saturating_sub(1))
                    .unwrap_or(u32::MAX);
                initial.get().saturating_mul(factor)
            }
            Backoff::List(delays) => {
                let index =
                    (attempt.saturating_sub(1) as usize).min(delays.len().saturating_sub(1));
                delays
                    .get(index)
                    .map_or(Duration::ZERO, |delay| delay.get())
            }
        };
        let capped = nominal.min(self.max.get());
        let factor = 1.0 + self.jitter * (2.0 * seed - 1.0);
        Duration::try_from_secs_f64(capped.as_secs_f64() * factor).unwrap_or(capped)
    }
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// With this exit code.
    Exit(i32),
    /// With this status of an answer.
    Status(u16),
    /// By a signal or a timeout, without a start at all, or without an answer.
    Other,
}

fn is_listed<T: PartialEq>(found: T, only: &[T], not: &[T]) -> bool {
    !not.contains(&found) && (only.is_empty() || only.contains(&found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(backoff: Backoff) -> RetryPolicy {
        RetryPolicy {
            attempts: 5,
            backoff,
            max: Seconds::from_secs(600),
            jitter: 0.2,
            ..RetryPolicy::default()
        }
    }

    #[test]
    fn exponential_doubles_up_to_the_maximum() {
        let policy = policy(Backoff::Exponential(Seconds::from_secs(15)));
        let delays: Vec<_> = [1, 2, 3, 7, 33, 1000]
            .map(|attempt| policy.delay(attempt, 0.5).as_secs())
            .into();
        assert_eq!(delays, [15, 30, 60, 600, 600, 600]);
    }

    #[test]
    fn a_list_repeats_its_last() {
        let policy = policy(Backoff::List(vec![
            Seconds::from_secs(1),
            Seconds::from_secs(5),
        ]));
        assert_eq!(policy.delay(1, 0.5).as_secs(), 1);
        assert_eq!(policy.delay(9, 0.5).as_secs(), 5);
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let policy = policy(Backoff::Fixed(Seconds::from_secs(100)));
        assert_eq!(policy.delay(1, 0.0).as_secs(), 80);
        assert_eq!(policy.delay(1, 1.0).as_secs(), 120);
    }

    #[test]
    fn exit_codes_decide() {
        let mut policy = policy(Backoff::Fixed(Seconds::from_secs(1)));
        let covers = |policy: &RetryPolicy, code| policy.covers(Failure::Exit(code));
        assert!(covers(&policy, 1) && policy.covers(Failure::Other));
        policy.not_on_exit = vec![2];
        assert!(!covers(&policy, 2) && covers(&policy, 1));
        policy.on_exit = vec![75];
        assert!(covers(&policy, 75) && !covers(&policy, 1));
        assert!(policy.covers(Failure::Status(503)));
        policy.not_on_status = vec![404];
        assert!(!policy.covers(Failure::Status(404)) && policy.covers(Failure::Status(503)));
    }
}
