//! Which of several beats works and which stand by.
//!
//! Leading only saves work: a tick gets one verdict because the watermark moves by compare-and-set,
//! whoever leads. So a candidate may be wrong about a silent leader, but not for long.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::job::WebhookName;

/// The key of the [`Leader`] in the state bucket.
pub const LEADER_KEY: &str = "leader";
/// The longest time for which a leader may ask others to be patient.
pub const LONGEST_LEASE: Duration = Duration::from_secs(3600);

/// The beat that leads, as it says itself. It writes this again every third of its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Its id; `None`: it stopped, and nobody has taken over.
    pub beat: Option<String>,
    /// The data directory that it holds. Whoever holds that one later knows that it is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// Since when it leads.
    pub since: DateTime<Utc>,
    /// When it wrote this.
    pub renewed_at: DateTime<Utc>,
    /// When its loop last came round.
    pub turned_at: DateTime<Utc>,
    /// For how long it may be silent before another one takes over.
    pub lease: crate::job::Seconds,
    /// What keeps it from firing what is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_up: Option<HeldUp>,
    /// The webhooks that did not take their last message, [`Leader::MOST_WEBHOOKS`] at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing_webhooks: Vec<FailingWebhook>,
}

/// A webhook that takes no messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailingWebhook {
    /// Its name.
    pub webhook: WebhookName,
    /// When it did not take a message for the first time since it took one.
    pub since: DateTime<Utc>,
}

/// What keeps a beat from firing what is due. It tries again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldUp {
    /// Since when.
    pub since: DateTime<Utc>,
    /// Its clock is behind the watermark, which is this: ticks until then have been decided on already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// Why the first of its tries failed.
    pub reason: String,
}

impl HeldUp {
    /// What may be relied on meanwhile, and what can be done.
    pub fn promise(&self) -> &'static str {
        match self.until {
            Some(_) => "`orchestrator run JOB` starts what must not wait; keep all machines on NTP",
            None => "it goes on by itself, without losing a tick, when that is mended",
        }
    }
}

impl std::fmt::Display for HeldUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = self
            .since
            .to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        write!(f, "beat is held up since {since}: {}", self.reason)
    }
}

/// Why nobody can rely on beat now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// The last one stopped and nobody took over, for so long.
    Stopped(Duration),
    /// It says nothing, for so long.
    Silent(Duration),
    /// It is there, but its loop did not come round for so long.
    Stuck(Duration),
}

impl Leader {
    /// So many failing webhooks are named, those that have failed for longest.
    pub const MOST_WEBHOOKS: usize = 16;
    /// Silence of so many leases is a stall.
    const LEASES: u32 = 4;
    /// No shorter silence is one: services are restarted.
    const PATIENCE: Duration = Duration::from_secs(15);
    /// A loop that does not come round for so long is stuck.
    const STUCK: Duration = Duration::from_secs(60);

    /// The id of the beat that leads, unless its lease is over by the clock of whoever asks.
    pub fn at_work(&self, now: DateTime<Utc>) -> Option<&str> {
        let silent = (now - self.renewed_at).to_std().unwrap_or_default();
        self.beat.as_deref().filter(|_| silent < self.lease.get())
    }

    /// The time from which on ticks are still to be decided on, at `now`.
    pub fn decides_from(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let until = self.held_up.as_ref().and_then(|held_up| held_up.until);
        until.map_or(now, |until| until.max(now))
    }

    /// What is wrong with beat, if it has been silent for `silent`.
    pub fn stall(&self, silent: Duration) -> Option<Stall> {
        let leases = match self.beat {
            Some(_) => Self::LEASES,
            // One that says that it stops need not be waited for: others that are there take over.
            None => 1,
        };
        let patience = self.lease.get().saturating_mul(leases);
        let behind = (self.renewed_at - self.turned_at)
            .to_std()
            .unwrap_or_default();
        if silent >= patience.max(Self::PATIENCE) {
            return Some(match self.beat {
                Some(_) => Stall::Silent(silent),
                None => Stall::Stopped(silent),
            });
        }
        let is_stuck = self.beat.is_some() && behind >= Self::STUCK;
        is_stuck.then(|| Stall::Stuck(behind + silent))
    }
}

impl std::fmt::Display for Stall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (what, since) = match self {
            Self::Stopped(since) => ("beat was stopped and nobody took over", since),
            Self::Silent(since) => ("beat is silent", since),
            Self::Stuck(since) => ("beat does not get on", since),
        };
        let since = humantime::format_duration(Duration::from_secs(since.as_secs()));
        write!(f, "{what} for {since}: no tick becomes a run")
    }
}

/// What a candidate may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candidacy {
    /// Nobody leads any more: try to.
    Stand,
    /// Somebody does, or may.
    StandBy,
}

/// What a candidate has seen of the leader, on its own monotonic clock.
#[derive(Debug)]
pub struct Vigil<V> {
    /// The version that was seen last (`None`: the key was gone), and when it was first seen.
    seen: Option<(Option<V>, Duration)>,
}

impl<V> Default for Vigil<V> {
    fn default() -> Self {
        Self { seen: None }
    }
}

impl<V: Copy + PartialEq> Vigil<V> {
    /// Decides from what the key holds (with its version) at `now`, on a clock that only grows. `home` is the
    /// candidate's own.
    ///
    /// A leader that was there and is gone without a word had its broker wiped: it gets a lease to
    /// write itself down again, since it knows best how far it came. So does one over which something was
    /// written that is no leader (`None` with a version), however often.
    pub fn look(
        &mut self,
        found: Option<(Option<&Leader>, V)>,
        home: Option<&str>,
        lease: Duration,
        now: Duration,
    ) -> Candidacy {
        let leader = found.and_then(|(leader, version)| Some((leader?, version)));
        let version = leader.map(|(_, version)| version);
        let silent = match self.seen {
            Some((before, since)) if before == version => now.saturating_sub(since),
            _ => Duration::ZERO,
        };
        let first_look = self.seen.is_none();
        if silent.is_zero() {
            self.seen = Some((version, now));
        }
        let free = match leader {
            None => (first_look && found.is_none()) || silent >= lease,
            Some((leader, _)) => {
                let is_dead = leader.home.is_some() && leader.home.as_deref() == home;
                let patience = leader.lease.get().min(LONGEST_LEASE);
                leader.beat.is_none() || is_dead || silent >= patience
            }
        };
        match free {
            true => Candidacy::Stand,
            false => Candidacy::StandBy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(3);

    fn leader(beat: Option<&str>, home: Option<&str>) -> Leader {
        let at = DateTime::from_timestamp(1_795_401_000, 0).unwrap();
        Leader {
            beat: beat.map(str::to_owned),
            home: home.map(str::to_owned),
            since: at,
            renewed_at: at,
            turned_at: at,
            lease: "3s".parse().unwrap(),
            held_up: None,
            failing_webhooks: Vec::new(),
        }
    }

    #[test]
    fn one_is_at_work_until_its_lease_is_over() {
        let leads = leader(Some("b1"), None);
        let after = |seconds| leads.renewed_at + chrono::Duration::seconds(seconds);
        for (seconds, expected) in [
            (-5, Some("b1")),
            (0, Some("b1")),
            (2, Some("b1")),
            (3, None),
        ] {
            assert_eq!(leads.at_work(after(seconds)), expected, "{seconds}");
        }
        assert_eq!(leader(None, None).at_work(after(0)), None);
    }

    struct Look {
        vigil: Vigil<u64>,
    }

    impl Look {
        fn new() -> Self {
            Self {
                vigil: Vigil::default(),
            }
        }

        fn at(&mut self, seconds: u64, found: Option<(&Leader, u64)>) -> Candidacy {
            let now = Duration::from_secs(1000 + seconds);
            let found = found.map(|(leader, version)| (Some(leader), version));
            self.vigil.look(found, Some("here"), LEASE, now)
        }

        fn at_garbage(&mut self, seconds: u64, version: u64) -> Candidacy {
            let now = Duration::from_secs(1000 + seconds);
            let found = Some((None, version));
            self.vigil.look(found, Some("here"), LEASE, now)
        }
    }

    #[test]
    fn a_leader_has_to_be_silent_for_its_whole_lease() {
        let (mut look, other) = (Look::new(), leader(Some("b"), Some("there")));
        for (second, version, expected) in [
            (0, 1, Candidacy::StandBy),
            (2, 1, Candidacy::StandBy),
            (3, 2, Candidacy::StandBy),
            (5, 2, Candidacy::StandBy),
            (6, 2, Candidacy::Stand),
            (7, 3, Candidacy::StandBy),
        ] {
            assert_eq!(
                look.at(second, Some((&other, version))),
                expected,
                "{second}"
            );
        }
    }

    #[test]
    fn who_stopped_or_is_known_to_be_dead_is_not_waited_for() {
        assert_eq!(Look::new().at(0, None), Candidacy::Stand);
        let stopped = leader(None, Some("there"));
        assert_eq!(Look::new().at(0, Some((&stopped, 1))), Candidacy::Stand);
        let dead = leader(Some("a"), Some("here"));
        assert_eq!(Look::new().at(0, Some((&dead, 1))), Candidacy::Stand);
        let homeless = leader(Some("a"), None);
        assert_eq!(Look::new().at(0, Some((&homeless, 1))), Candidacy::StandBy);
    }

    #[test]
    fn a_beat_that_stopped_is_silent_or_is_stuck_is_a_stall() {
        let seconds = Duration::from_secs;
        let mut beat = leader(Some("a"), None);
        assert_eq!(beat.stall(seconds(14)), None);
        assert_eq!(beat.stall(seconds(15)), Some(Stall::Silent(seconds(15))));
        beat.beat = None;
        assert_eq!(beat.stall(seconds(14)), None);
        assert_eq!(beat.stall(seconds(90)), Some(Stall::Stopped(seconds(90))));
        let shown = Stall::Stopped(seconds(90)).to_string();
        assert_eq!(
            shown,
            "beat was stopped and nobody took over for 1m 30s: no tick becomes a run"
        );
        beat.beat = Some("a".to_owned());
        beat.renewed_at += chrono::Duration::seconds(60);
        assert_eq!(beat.stall(seconds(1)), Some(Stall::Stuck(seconds(61))));
        beat.lease = "1m".parse().unwrap();
        beat.turned_at = beat.renewed_at;
        assert_eq!(beat.stall(seconds(239)), None);
    }

    #[test]
    fn what_is_no_leader_is_waited_for_as_one_that_is_silent() {
        let mut look = Look::new();
        assert_eq!(look.at_garbage(0, 1), Candidacy::StandBy);
        assert_eq!(look.at_garbage(2, 2), Candidacy::StandBy);
        assert_eq!(look.at_garbage(3, 3), Candidacy::Stand, "however often");
        let (mut look, mut other) = (Look::new(), leader(Some("b"), None));
        assert_eq!(look.at(0, Some((&other, 7))), Candidacy::StandBy);
        assert_eq!(look.at_garbage(2, 8), Candidacy::StandBy);
        assert_eq!(look.at_garbage(4, 8), Candidacy::StandBy);
        assert_eq!(look.at_garbage(5, 8), Candidacy::Stand);
        other.lease = crate::job::Seconds::from_secs(u64::from(u32::MAX));
        let mut look = Look::new();
        assert_eq!(look.at(0, Some((&other, 7))), Candidacy::StandBy);
        assert_eq!(look.at(3599, Some((&other, 7))), Candidacy::StandBy);
        assert_eq!(look.at(3600, Some((&other, 7))), Candidacy::Stand);
    }

    #[test]
    fn a_leader_that_vanished_may_come_back() {
        let (mut look, other) = (Look::new(), leader(Some("b"), None));
        assert_eq!(look.at(0, Some((&other, 7))), Candidacy::StandBy);
        assert_eq!(look.at(1, None), Candidacy::StandBy);
        assert_eq!(look.at(3, None), Candidacy::StandBy);
        assert_eq!(look.at(4, None), Candidacy::Stand);
    }
}
