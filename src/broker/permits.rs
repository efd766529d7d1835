//! Taking and giving back what runs of the whole cluster share. What a shared value becomes is decided
//! in [`crate::run`]; here it is read and changed by compare-and-set.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{Broker, BrokerError, Bucket, Cas, Durability, Revision};
use crate::{
    clock,
    job::Rate,
    run::{By, Holder, Pace, Places, RunRecord, WaitingFor, Wish, is_gone},
};

/// How often a contended value is tried.
const TRIES: usize = 100;
/// Longest text that is its own key.
const LONGEST_KEY: usize = 120;
/// How many holders an observer remembers at most.
const REMEMBERED: usize = 100_000;

/// A kind of shared value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shared {
    /// One holder.
    Lock,
    /// Some holders.
    Concurrency,
    /// Starts in time.
    Rate,
}

impl Shared {
    /// How records tell of it.
    pub const fn word(self) -> WaitingFor {
        match self {
            Self::Lock => WaitingFor::Lock,
            Self::Concurrency => WaitingFor::Concurrency,
            Self::Rate => WaitingFor::Rate,
        }
    }

    /// The prefix of its keys.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Lock => "lock.",
            Self::Concurrency => "concurrency.",
            Self::Rate => "rate.",
        }
    }

    /// The key of the shared value with this name.
    pub fn key(self, name: &str) -> String {
        let token = match name.len() {
            ..=LONGEST_KEY => URL_SAFE_NO_PAD.encode(name),
            _ => format!("_{}", URL_SAFE_NO_PAD.encode(Sha256::digest(name))),
        };
        format!("{}{token}", self.prefix())
    }
}

/// Since when an observer has seen which holders unchanged.
#[derive(Debug, Default)]
pub struct Observer(Mutex<HashMap<(String, By, u64), Instant>>);

impl Observer {
    /// For how long `holder` has been seen at `key`, with the same token: who came back is another one.
    fn sees(&self, key: &str, holder: &Holder, now: Instant) -> Duration {
        let mut seen = self.lock();
        if seen.len() >= REMEMBERED {
            // Whoever waits begins to wait anew.
            seen.clear();
        }
        let seen_as = (key.to_owned(), holder.by.clone(), holder.token);
        let since = *seen.entry(seen_as).or_insert(now);
        now.saturating_duration_since(since)
    }

    /// Only these are at `key` now.
    fn only(&self, key: &str, places: &Places) {
        let is_there = |by: &By, token: u64| {
            let mut holders = places.holders.iter();
            holders.any(|holder| holder.by == *by && holder.token == token)
        };
        self.lock()
            .retain(|(at, by, token), _| at != key || is_there(by, *token));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, By, u64), Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of a wish.
#[derive(Debug, Clone, PartialEq)]
pub enum Taken {
    /// A place, with its token.
    Place(u64),
    /// Nothing: these hold all places.
    Busy(Vec<By>),
}

/// Takes a place, at once or not at all. Holders that are gone, as far as this observer can tell, lose
/// theirs. `lease` is how long runs live without renewal.
pub async fn take_place(
    broker: &dyn Broker,
    (shared, name): (Shared, &str),
    wish: &Wish,
    (observer, lease): (&Observer, Duration),
) -> Result<Taken, BrokerError> {
    let key = shared.key(name);
    for _ in 0..TRIES {
        let (mut places, revision) = read::<Places>(broker, &key).await?;
        if places.name.is_empty() {
            name.clone_into(&mut places.name);
        }
        let mut token = places.take(wish);
        if token.is_none() {
            let gone = gone_among(broker, &key, &places, (observer, lease)).await?;
            places.holders.retain(|holder| !gone.contains(&holder.by));
            token = places.take(wish);
        }
        let Some(token) = token else {
            observer.only(&key, &places);
            let holders = places.holders.into_iter().map(|holder| holder.by);
            return Ok(Taken::Busy(holders.collect()));
        };
        if write(broker, &key, revision, &places).await? == Cas::Conflict {
            continue;
        }
        observer.only(&key, &places);
        return Ok(Taken::Place(token));
    }
    Ok(Taken::Busy(Vec::new()))
}

async fn gone_among(
    broker: &dyn Broker,
    key: &str,
    places: &Places,
    (observer, lease): (&Observer, Duration),
) -> Result<Vec<By>, BrokerError> {
    let mut gone = Vec::new();
    for holder in &places.holders {
        let record = match &holder.by {
            By::Run { run_id, .. } => {
                let entry = broker.get(Bucket::Runs, &run_id.key()).await?;
                entry.and_then(|entry| serde_json::from_slice::<RunRecord>(&entry.value).ok())
            }
            By::Session { .. } => None,
        };
        let observed = observer.sees(key, holder, clock::monotonic());
        if is_gone(&holder.by, record.as_ref(), observed, lease) {
            gone.push(holder.by.clone());
        }
    }
    Ok(gone)
}

/// Gives the place back that was taken with `token`. Returns whether it was held.
pub async fn give_place_back(
    broker: &dyn Broker,
    (shared, name): (Shared, &str),
    (by, token): (&By, u64),
) -> Result<bool, BrokerError> {
    change(broker, &shared.key(name), |places: &mut Places| {
        places.give_back(by, token).then_some(())
    })
    .await
    .map(|done| done.is_some())
}

/// Renews the place of a session; `None` if it has lost it.
pub async fn renew_place(
    broker: &dyn Broker,
    (shared, name): (Shared, &str),
    session: &str,
) -> Result<Option<u64>, BrokerError> {
    change(broker, &shared.key(name), |places: &mut Places| {
        places.renew(session)
    })
    .await
}

/// Takes every place from its holder, whoever it is. Returns how many there were.
pub async fn clear_places(
    broker: &dyn Broker,
    (shared, name): (Shared, &str),
) -> Result<usize, BrokerError> {
    let key = shared.key(name);
    let cleared = change(broker, &key, |places: &mut Places| {
        let count = std::mem::take(&mut places.holders).len();
        (count > 0).then_some(count)
    });
    Ok(cleared.await?.unwrap_or(0))
}

/// Reserves the next start under a rate.
pub async fn reserve_start(
    broker: &dyn Broker,
    name: &str,
    rate: &Rate,
    now: DateTime<Utc>,
) -> Result<DateTime<Utc>, BrokerError> {
    let key = Shared::Rate.key(name);
    let reserved = change(broker, &key, |pace: &mut Pace| {
        Some(pace.reserve(rate, now))
    });
    Ok(reserved.await?.unwrap_or(now))
}

/// Changes a shared value; `None` if there is nothing to change.
async fn change<T: DeserializeOwned + Serialize + Default, R>(
    broker: &dyn Broker,
    key: &str,
    mut change: impl FnMut(&mut T) -> Option<R>,
) -> Result<Option<R>, BrokerError> {
    for _ in 0..TRIES {
        let (mut value, revision) = read::<T>(broker, key).await?;
        let Some(done) = change(&mut value) else {
            return Ok(None);
        };
        if write(broker, key, revision, &value).await? != Cas::Conflict {
            return Ok(Some(done));
        }
    }
    Err(BrokerError::Full {
        broker: broker.describe(),
        operation: format!("change {key}"),
        reason: "others kept changing it".to_owned(),
    })
}

/// A value that this build does not understand counts as none: it is written anew.
async fn read<T: DeserializeOwned + Default>(
    broker: &dyn Broker,
    key: &str,
) -> Result<(T, Option<Revision>), BrokerError> {
    let Some(entry) = broker.get(Bucket::Locks, key).await? else {
        return Ok((T::default(), None));
    };
    let value = serde_json::from_slice(&entry.value).unwrap_or_default();
    Ok((value, Some(entry.revision)))
}

async fn write(
    broker: &dyn Broker,
    key: &str,
    revision: Option<Revision>,
    value: &impl Serialize,
) -> Result<Cas, BrokerError> {
    let value = serde_json::to_vec(value).map_err(|error| BrokerError::Failed {
        broker: broker.describe(),
        operation: format!("write {key}"),
        reason: error.to_string(),
    })?;
    broker
        .compare_and_set(Bucket::Locks, key, revision, value, Durability::Crash)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_tokens_whatever_the_name() {
        for name in [
            "cookie-jar",
            "site:example.org",
            "a b.c>*",
            "京",
            &"x".repeat(500),
        ] {
            for shared in [Shared::Lock, Shared::Concurrency, Shared::Rate] {
                let key = shared.key(name);
                let token = key.strip_prefix(shared.prefix()).unwrap();
                let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
                assert!(token.chars().all(good) && token.len() <= 160, "{key}");
            }
        }
        assert_ne!(Shared::Lock.key("a"), Shared::Lock.key("b"));
    }
}
