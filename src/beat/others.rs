//! What others write into the state bucket and beat keeps for them: the pauses of jobs and queues, and how the last
//! runs of jobs ended. A broker that lost its data is given them again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, stream};

use super::BeatError;
use crate::{
    broker::{Bucket, Change, Changes, Durability, SharedBroker},
    plan::{PAUSE_PREFIX, QUEUE_PAUSE_PREFIX},
    run::LAST_RUN_PREFIX,
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
}

impl Others {
    /// What the own copy has.
    pub(super) fn kept(values: BTreeMap<String, Vec<u8>>) -> Self {
        Self {
            values,
            unsaved: BTreeSet::new(),
        }
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
                self.note(&change);
                note(change);
            }
            for key in gone {
                let change = Change::Deleted { key };
                self.note(&change);
                note(change);
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

    pub(super) fn note(&mut self, change: &Change) {
        let (key, is_news) = match change {
            Change::Put(entry) => {
                let (key, value) = (&entry.key, &entry.value);
                let before = self.values.insert(key.clone(), value.clone());
                (key, before.as_ref() != Some(value))
            }
            Change::Deleted { key } => (key, self.values.remove(key).is_some()),
            Change::Current => return,
        };
        if is_news {
            self.unsaved.insert(key.clone());
        }
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
