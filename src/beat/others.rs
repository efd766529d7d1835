//! What others write into the state bucket and beat keeps for them: the pauses of jobs and queues, and how the last
//! runs of jobs ended. A broker that lost its data is given them again, and so is one where somebody wrote over them what
//! nobody understands.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, stream};

use serde::de::DeserializeOwned;
use tracing::error;

use super::{BeatError, shared::encode};
use crate::{
    broker::{BrokerError, Bucket, Change, Changes, Durability, Entry, Revision, SharedBroker},
    job::JobName,
    plan::{JobState, PAUSE_PREFIX, Pause, QUEUE_PAUSE_PREFIX},
    run::{LAST_RUN_PREFIX, LastRun},
};

/// What their keys begin with.
const PREFIXES: [&str; 3] = [LAST_RUN_PREFIX, PAUSE_PREFIX, QUEUE_PAUSE_PREFIX];

/// How many writes are on their way at once.
const IN_FLIGHT: usize = 256;

/// The values by their keys.
#[derive(Debug, Default)]
pub(super) struct Others {
    values: BTreeMap<String, Vec<u8>>,
    /// Changed since the own copy was written.
    unsaved: BTreeSet<String>,
    /// What somebody wrote over, and is to be written anew unless that was done since.
    spoilt: BTreeMap<String, Revision>,
}

impl Others {
    /// What the own copy has.
    pub(super) fn kept(values: BTreeMap<String, Vec<u8>>) -> Self {
        Self {
            values,
            ..Self::default()
        }
    }

    /// The states of jobs say how they are paused, as it was taken over last.
    pub(super) fn know_pauses<'a>(
        &mut self,
        states: impl Iterator<Item = (&'a JobName, &'a JobState)>,
    ) -> Result<(), BeatError> {
        for (name, state) in states {
            let Some(pause) = &state.paused else { continue };
            let key = format!("{PAUSE_PREFIX}{name}");
            let value = encode(&key, pause)?;
            if self.values.get(&key) != Some(&value) {
                self.unsaved.insert(key.clone());
                self.values.insert(key, value);
            }
        }
        Ok(())
    }

    /// Reads all that is shared and goes on to watch it. `note` is called with each value that is there, and with those
    /// that are there no longer.
    pub(super) async fn watch(
        &mut self,
        broker: &SharedBroker,
        mut note: impl FnMut(Change),
    ) -> Result<Changes, BeatError> {
        let mut watched = Vec::new();
        for prefix in PREFIXES {
            let mut changes = broker.watch(Bucket::State, prefix).await?;
            point!("beat-listening");
            let mut gone: BTreeSet<_> = self.under(prefix).cloned().collect();
            while let Some(change) = changes.next().await {
                let change = change?;
                match &change {
                    Change::Current => break,
                    Change::Put(entry) => _ = gone.remove(&entry.key),
                    Change::Deleted { .. } => {}
                }
                note(self.note(change));
            }
            for key in gone {
                let change = Change::Deleted { key };
                note(self.note(change));
            }
            watched.push(changes);
        }
        Ok(stream::select_all(watched).boxed())
    }

    fn under(&self, prefix: &'static str) -> impl Iterator<Item = &String> {
        let from = self.values.range(prefix.to_owned()..);
        from.map(|(key, _)| key)
            .take_while(move |key| key.starts_with(prefix))
    }

    /// What changed, as it is to be understood: something that is not, and that stands where there was something else,
    /// changes nothing.
    pub(super) fn note(&mut self, change: Change) -> Change {
        let (key, is_news) = match &change {
            Change::Put(entry) if !is_understood(entry) => return self.as_known(entry),
            Change::Put(entry) => {
                let (key, value) = (&entry.key, &entry.value);
                let before = self.values.insert(key.clone(), value.clone());
                (key, before.as_ref() != Some(value))
            }
            Change::Deleted { key } => (key, self.values.remove(key).is_some()),
            Change::Current => return change,
        };
        self.spoilt.remove(key);
        if is_news {
            self.unsaved.insert(key.clone());
        }
        change
    }

    fn as_known(&mut self, spoilt: &Entry) -> Change {
        let key = &spoilt.key;
        let known = self.values.get(key);
        match known {
            Some(_) => _ = self.spoilt.insert(key.clone(), spoilt.revision),
            None if key.starts_with(QUEUE_PAUSE_PREFIX) => {
                error!(target: "orchestrator::beat", key,
                    "a shared value is not understood, and this beat does not know what it was: workers take nothing \
                     from that queue until it is paused anew or resumed (`orchestrator resume --queue`)");
            }
            None => {}
        }
        Change::Put(Entry {
            value: known.unwrap_or(&spoilt.value).clone(),
            ..spoilt.clone()
        })
    }

    /// Writes anew what somebody wrote over.
    pub(super) async fn mend(&mut self, broker: &SharedBroker) -> Result<(), BeatError> {
        while let Some((key, &revision)) = self.spoilt.first_key_value() {
            if let Some(value) = self.values.get(key) {
                error!(target: "orchestrator::beat", key,
                    "a shared value is not understood: it is written anew as this beat knows it; who may write to the \
                     broker wrote over it");
                let expected = Some(revision);
                let value = value.clone();
                let written = broker
                    .compare_and_set(Bucket::State, key, expected, value, Durability::Power)
                    .await;
                match written {
                    // Or written since: that is heard of.
                    Ok(_) => {}
                    // No reason to fire no tick.
                    Err(refused @ BrokerError::NotPermitted { .. }) => {
                        let help = refused.help();
                        error!(target: "orchestrator::beat", key, error = %refused, help, "it stays as it is");
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            self.spoilt.pop_first();
        }
        Ok(())
    }

    /// Shares again what is missing. What is there was written since.
    pub(super) async fn restore(&self, broker: &SharedBroker) -> Result<(), BeatError> {
        let values = self.values.clone().into_iter();
        let writes = values.map(|(key, value)| {
            let broker = Arc::clone(broker);
            async move {
                let written =
                    broker.compare_and_set(Bucket::State, &key, None, value, Durability::Power);
                written.await
            }
        });
        let mut written = stream::iter(writes).buffer_unordered(IN_FLIGHT);
        while written.try_next().await?.is_some() {
            point!("beat-other-restored");
        }
        Ok(())
    }

    /// The own copy has nothing.
    pub(super) fn all_anew(&mut self) {
        self.unsaved.extend(self.values.keys().cloned());
    }

    /// Whether the own copy has them all.
    pub(super) fn are_saved(&self) -> bool {
        self.unsaved.is_empty()
    }

    /// What changed since the own copy was written; without a value: it is gone.
    pub(super) fn unsaved(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        let value = |key: &String| self.values.get(key).map(Vec::as_slice);
        self.unsaved
            .iter()
            .map(move |key| (key.as_str(), value(key)))
    }

    /// The own copy has all of it.
    pub(super) fn saved(&mut self) {
        self.unsaved.clear();
    }
}

fn is_understood(entry: &Entry) -> bool {
    fn is<T: DeserializeOwned>(entry: &Entry) -> bool {
        serde_json::from_slice::<T>(&entry.value).is_ok()
    }
    match entry.key.starts_with(LAST_RUN_PREFIX) {
        true => is::<LastRun>(entry),
        false => is::<Pause>(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "paused_queue.high";
    const PAUSE: &[u8] = br#"{"since":"2026-11-23T10:00:00Z"}"#;

    fn put(value: &[u8], revision: &str) -> Change {
        Change::Put(Entry {
            key: KEY.to_owned(),
            value: value.to_vec(),
            revision: serde_json::from_str(revision).unwrap(),
        })
    }

    #[test]
    fn what_is_written_over_stays_known_until_it_is_removed() {
        let mut others = Others::default();
        assert_eq!(others.note(put(b"", "1")), put(b"", "1"), "never seen");
        assert!(others.spoilt.is_empty() && others.values.is_empty());
        others.note(put(PAUSE, "2"));
        assert_eq!(others.note(put(b"[]", "3")), put(PAUSE, "3"));
        assert_eq!(others.spoilt.keys().collect::<Vec<_>>(), [KEY]);
        others.note(put(PAUSE, "4"));
        assert!(others.spoilt.is_empty(), "somebody was faster");
        others.note(put(b"", "5"));
        let key = KEY.to_owned();
        others.note(Change::Deleted { key });
        assert!(others.spoilt.is_empty() && others.values.is_empty());
    }
}
