//! What others write into the state bucket and beat keeps for them: the pauses of jobs and queues, and how the last
//! runs of jobs ended. A broker that lost its data is given them again, and so is one where somebody wrote over them what
//! nobody understands.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, stream};

use tracing::error;

use super::{
    BeatError,
    shared::{encode, tell_restored, write_anew},
};
use crate::{
    broker::{
        BrokerError, Bucket, Cas, Change, Changes, Durability, Entry, Revision, SharedBroker,
    },
    job::JobName,
    plan::{JobState, PAUSE_PREFIX, Pause, QUEUE_PAUSE_PREFIX},
    run::{LAST_RUN_PREFIX, LastRun},
};

/// What their keys begin with.
const PREFIXES: [&str; 3] = [LAST_RUN_PREFIX, PAUSE_PREFIX, QUEUE_PAUSE_PREFIX];

/// How many writes are on their way at once.
const IN_FLIGHT: usize = 256;
/// A larger value is not understood: whoever may write them has no reason to.
const LARGEST: usize = 64 * 1024;
/// As much as is kept of how a program ended.
const LONGEST_EXIT: usize = 1024;
/// As much as is kept in all: of more than a hundred thousand jobs.
const MOST: usize = 64 * 1024 * 1024;

/// The values by their keys.
#[derive(Debug, Default)]
pub(super) struct Others {
    values: BTreeMap<String, Vec<u8>>,
    /// What these and their keys take, in bytes.
    size: usize,
    /// Whether it was told that there is no room for more.
    is_full: bool,
    /// Changed since the own copy was written.
    unsaved: BTreeSet<String>,
    /// What somebody wrote over, and is to be written anew unless that was done since.
    spoilt: BTreeMap<String, Revision>,
}

impl Others {
    /// What the own copy has.
    pub(super) fn kept(values: BTreeMap<String, Vec<u8>>) -> Self {
        let mut others = Self::default();
        for (key, value) in values {
            match understood(&key, &value) {
                Some(value) => _ = others.keep(&key, value),
                None => _ = others.unsaved.insert(key),
            }
        }
        others
    }

    /// Keeps a value, if there is room for it. Returns whether it is another one than before.
    fn keep(&mut self, key: &str, value: Vec<u8>) -> bool {
        let before = self.remove(key);
        let is_news = before.as_ref() != Some(&value);
        if self.size + key.len() + value.len() > MOST {
            if !self.is_full {
                error!(target: "orchestrator::beat", key,
                    "there are more pauses and last runs of jobs than this beat keeps (64 MiB), this one and others: should \
                     the broker lose its data, it is not given them again; somebody who may write to the broker made them up");
            }
            self.is_full = true;
            return is_news;
        }
        self.size += key.len() + value.len();
        self.values.insert(key.to_owned(), value);
        is_news
    }

    fn remove(&mut self, key: &str) -> Option<Vec<u8>> {
        let gone = self.values.remove(key)?;
        self.size -= key.len() + gone.len();
        Some(gone)
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
            if self.keep(&key, value) {
                self.unsaved.insert(key);
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
            Change::Put(entry) => match understood(&entry.key, &entry.value) {
                Some(value) => (&entry.key, self.keep(&entry.key, value)),
                None => return self.as_known(entry),
            },
            Change::Deleted { key } => (key, self.remove(key).is_some()),
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
            value: known.cloned().unwrap_or_default(),
            key: key.clone(),
            revision: spoilt.revision,
        })
    }

    /// Writes anew what somebody wrote over.
    pub(super) async fn mend(&mut self, broker: &SharedBroker) -> Result<(), BeatError> {
        while let Some((key, &revision)) = self.spoilt.first_key_value() {
            if let Some(value) = self.values.get(key) {
                error!(target: "orchestrator::beat", key,
                    "a shared value is not understood: it is written anew as this beat knows it; who may write to the \
                     broker wrote over it");
                write_anew(broker, key, revision, value.clone()).await?;
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
                let is_new = matches!(written.await?, Cas::Done(_));
                Ok::<_, BrokerError>(is_new.then_some(key))
            }
        });
        let mut written = stream::iter(writes).buffer_unordered(IN_FLIGHT);
        let mut restored = Vec::new();
        while let Some(key) = written.try_next().await? {
            point!("beat-other-restored");
            restored.extend(key);
        }
        restored.sort_unstable();
        tell_restored("what others wrote", &restored);
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

/// As much of a value as is understood of it; `None`: nothing.
fn understood(key: &str, value: &[u8]) -> Option<Vec<u8>> {
    if value.len() > LARGEST {
        return None;
    }
    if !key.starts_with(LAST_RUN_PREFIX) {
        let pause: Pause = serde_json::from_slice(value).ok()?;
        return serde_json::to_vec(&pause).ok();
    }
    let mut last: LastRun = serde_json::from_slice(value).ok()?;
    if let Some(exit) = &mut last.exit {
        let mut end = exit.len().min(LONGEST_EXIT);
        while !exit.is_char_boundary(end) {
            end -= 1;
        }
        exit.truncate(end);
    }
    serde_json::to_vec(&last).ok()
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

    fn last(job: &str, more: &str) -> (String, Vec<u8>) {
        let at = "2026-11-27T22:00:00Z";
        let value = format!(
            r#"{{"run_id":"{job}@20261127T220000Z","state":"succeeded","scheduled_for":"{at}"{more}}}"#
        );
        (format!("{LAST_RUN_PREFIX}{job}"), value.into_bytes())
    }

    #[test]
    fn a_worker_cannot_fill_what_is_kept() {
        let mut others = Others::default();
        let mut note = |(key, value): (String, Vec<u8>)| {
            let revision = serde_json::from_str("1").unwrap();
            let change = Change::Put(Entry {
                key,
                value,
                revision,
            });
            _ = others.note(change);
            others.size
        };
        let small = note(last("a", ""));
        assert_eq!(
            small,
            note(last("a", &format!(",\"pad\":\"{}\"", "x".repeat(50_000))))
        );
        let pad = format!(",\"pad\":\"{}\"", "x".repeat(1_500_000));
        assert_eq!(small, note(last("a", &pad)));
        assert_eq!(small, note(last("b", &pad)), "it is not understood");
        let exit = format!(",\"exit\":\"{}\"", "ä".repeat(30_000));
        let size = note(last("b", &exit));
        assert!(
            (LONGEST_EXIT..2 * LONGEST_EXIT).contains(&(size - small)),
            "{size}"
        );
        let large = vec![0; 1 << 20];
        for n in 0..=MOST / large.len() {
            others.keep(&format!("{LAST_RUN_PREFIX}fake{n}"), large.clone());
        }
        assert!(others.size <= MOST);
        let sum = |(key, value): (&String, &Vec<u8>)| key.len() + value.len();
        assert_eq!(others.size, others.values.iter().map(sum).sum::<usize>());
        // What is known goes on.
        assert!(others.is_full && others.values.contains_key("last.a"));
        // What is kept by an earlier version, too.
        let before = std::mem::take(&mut others.values);
        let kept = Others::kept(before);
        assert!(kept.size < 2 * size && kept.values.contains_key("last.b"));
        assert!(kept.unsaved.contains("last.fake0"), "to be removed");
    }
}
