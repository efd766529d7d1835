//! Locks and places that runs of the whole cluster share, and rates. Pure: what a shared value becomes
//! when somebody asks, and who has lost what it holds.
//!
//! A run holds under the fence of its attempt, so its own lease keeps what it holds: nothing has to be
//! renewed. A command outside of jobs holds as a session that counts up as long as it lives.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{RunId, RunRecord, RunState, latest};
use crate::job::Rate;

/// The shared value of a lock, or of the places behind a key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Places {
    /// The lock or key as the job has it.
    pub name: String,
    /// The token that was given last; it only grows.
    pub token: u64,
    /// Who holds a place now.
    pub holders: Vec<Holder>,
}

/// Somebody with a place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// Who.
    pub by: By,
    /// Given with the place; larger than any before it.
    pub token: u64,
    /// Since when, by the clock of whoever took it.
    pub since: DateTime<Utc>,
    /// Whether the runs that it starts may hold it, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inherit: bool,
    /// The holder whose place it shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under: Option<RunId>,
}

/// Who holds a place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// An attempt of a run.
    Run {
        /// The run.
        run_id: RunId,
        /// The fence of the attempt.
        fence: u64,
    },
    /// A command outside of jobs.
    Session {
        /// Distinguishes it from every other one; tells host and process.
        id: String,
        /// Counts its renewals.
        renewals: u64,
        /// In milliseconds: silent for longer, it is dead.
        lease_ms: u64,
    },
}

impl By {
    /// Whether it is the same holder, an earlier or later attempt or renewal of it perhaps.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Run { run_id: a, .. }, Self::Run { run_id: b, .. }) => a == b,
            (Self::Session { id: a, .. }, Self::Session { id: b, .. }) => a == b,
            _ => false,
        }
    }

    /// Whether it stands for the same attempt of a run, or for a later one.
    fn precedes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Run { fence: a, .. }, Self::Run { fence: b, .. }) => {
                self.is_same(other) && a >= b
            }
            (Self::Run { .. } | Self::Session { .. }, _) => false,
        }
    }
}

impl std::fmt::Display for By {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Run { run_id, .. } => run_id.fmt(f),
            Self::Session { id, .. } => f.write_str(id),
        }
    }
}

/// A wish for a place.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// Who.
    pub by: By,
    /// The runs that led to it, the nearest first.
    pub ancestors: Vec<RunId>,
    /// Whether it may share the place of one of them, and share it with those that it starts.
    pub inherit: bool,
    /// How many places there are.
    pub limit: u32,
    /// Now.
    pub at: DateTime<Utc>,
}

impl Places {
    /// Takes a place; `None` if all are taken by others. Whoever has one already has a new one in its
    /// stead; but of several who want to start the same attempt only the first has one.
    pub fn take(&mut self, wish: &Wish) -> Option<u64> {
        if self
            .holders
            .iter()
            .any(|holder| holder.by.precedes(&wish.by))
        {
            return None;
        }
        let others = |holder: &&Holder| !holder.by.is_same(&wish.by);
        let under = self.holders.iter().filter(others).find_map(|holder| {
            let By::Run { run_id, .. } = &holder.by else {
                return None;
            };
            let shared = (holder.inherit || wish.inherit) && wish.ancestors.contains(run_id);
            shared.then(|| run_id.clone())
        });
        let taken = self.holders.iter().filter(others);
        let taken = taken.filter(|holder| !self.shares(holder)).count();
        if under.is_none() && taken >= wish.limit as usize {
            return None;
        }
        self.holders.retain(|holder| !holder.by.is_same(&wish.by));
        // Larger than before even if the value was lost meanwhile.
        let at = u64::try_from(wish.at.timestamp_millis()).unwrap_or(0);
        self.token = self.token.saturating_add(1).max(at);
        self.holders.push(Holder {
            by: wish.by.clone(),
            token: self.token,
            since: wish.at,
            inherit: wish.inherit,
            under,
        });
        Some(self.token)
    }

    /// Whether a holder needs no place of its own, because the one that it came from has one.
    fn shares(&self, holder: &Holder) -> bool {
        let Some(under) = &holder.under else {
            return false;
        };
        self.holders
            .iter()
            .any(|other| matches!(&other.by, By::Run { run_id, .. } if run_id == under))
    }

    /// Gives the place back that was taken with `token`. False if it was not held any more.
    pub fn give_back(&mut self, by: &By, token: u64) -> bool {
        let before = self.holders.len();
        self.holders
            .retain(|holder| holder.token != token || !holder.by.is_same(by));
        self.holders.len() < before
    }

    /// Renews the place of a session; `None` if it has lost it.
    pub fn renew(&mut self, session: &str) -> Option<u64> {
        self.holders.iter_mut().find_map(|holder| {
            match &mut holder.by {
                By::Session { id, renewals, .. } if id == session => {
                    *renewals = renewals.saturating_add(1);
                }
                By::Session { .. } | By::Run { .. } => return None,
            }
            Some(holder.token)
        })
    }
}

/// Whether a holder has lost its place. `observed` is for how long the observer has seen it unchanged, by
/// its own clock; `lease` is that of runs.
pub fn is_gone(by: &By, record: Option<&RunRecord>, observed: Duration, lease: Duration) -> bool {
    match by {
        By::Session { lease_ms, .. } => observed > Duration::from_millis(*lease_ms),
        By::Run { fence, .. } => match record {
            Some(record) if record.state.is_final() || record.fence > *fence => true,
            // Its own lease says whether it lives; if not, its next attempt has a larger fence.
            Some(record) if record.is_held_under(*fence) => false,
            // It took the place but did not start, or has ended but did not give it back.
            Some(RunRecord {
                state: RunState::Queued | RunState::Retrying | RunState::Running,
                ..
            })
            | None => observed > lease,
            Some(_) => true,
        },
    }
}

/// The shared value of a rate (GCRA, as in ATM Forum Traffic Management 4.0, section 4.4.2): when the
/// next run would start if all came at the rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// In milliseconds of Unix time, with a fraction of microseconds.
    pub next_us: i64,
    /// When it was asked last, likewise. If that is still to come, a clock that was ahead asked.
    #[serde(default)]
    pub asked_us: i64,
}

impl Pace {
    /// Reserves the next start, now or later. Reservations are given in the order in which they are
    /// asked for.
    pub fn reserve(&mut self, rate: &Rate, now: DateTime<Utc>) -> DateTime<Utc> {
        let interval = microseconds(rate.interval()).max(1);
        let slack = interval.saturating_mul(i64::from(rate.burst.max(1)) - 1);
        let now_us = now.timestamp_micros();
        if self.asked_us > latest(now).timestamp_micros() {
            let ahead = self.asked_us.saturating_sub(now_us);
            self.next_us = self.next_us.saturating_sub(ahead);
        }
        self.asked_us = now_us;
        let nominal = self.next_us.max(now_us);
        self.next_us = nominal.saturating_add(interval);
        let wait = nominal.saturating_sub(slack).saturating_sub(now_us).max(0);
        now.checked_add_signed(TimeDelta::microseconds(wait))
            .unwrap_or(now)
    }
}

/// For how long a reserved start may be late; after that it is lost, so that many late ones do not start
/// at once.
pub fn grace(rate: &Rate) -> Duration {
    rate.interval().max(Duration::from_secs(2))
}

fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
