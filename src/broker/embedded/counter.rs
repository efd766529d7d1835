//! Numbers that are never given twice, over all restarts.

use super::context::split_number;
use crate::store::{Batch, Store, StoreError, Tree};

/// How many numbers are set aside at once; what is unused at a restart is skipped.
const BLOCK: u64 = 1_024;

/// Counters and totals.
pub(super) const META: Tree = Tree::named("m");

/// A counter on disk. Whoever takes a number must submit the batch before anybody else takes one:
/// the batch may be what sets the number aside.
#[derive(Debug)]
pub(super) struct Counter {
    key: &'static str,
    next: u64,
    ceiling: u64,
}

impl Counter {
    pub(super) fn load(store: &Store, key: &'static str) -> Result<Self, StoreError> {
        let stored = store.get(META, key.as_bytes())?;
        let ceiling = stored.as_deref().and_then(split_number).map_or(0, |n| n.0);
        Ok(Self {
            key,
            next: ceiling + 1,
            ceiling,
        })
    }

    /// The next number, from 1.
    pub(super) fn take(&mut self, batch: &mut Batch) -> u64 {
        if self.next > self.ceiling {
            self.ceiling = self.next + BLOCK - 1;
            let ceiling = self.ceiling.to_be_bytes().to_vec();
            batch.put(META, self.key.as_bytes(), ceiling);
        }
        self.next += 1;
        self.next - 1
    }

    /// The number that was taken last.
    pub(super) fn last(&self) -> u64 {
        self.next - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Durability;

    #[tokio::test]
    async fn no_number_is_given_twice() {
        let directory = tempfile::tempdir().unwrap();
        let mut last = 0;
        for taken in [1, 1_500, 3, BLOCK] {
            let store = Store::open(directory.path()).unwrap();
            let mut counter = Counter::load(&store, "test").unwrap();
            for _ in 0..taken {
                let mut batch = Batch::default();
                let number = counter.take(&mut batch);
                assert!(number > last);
                last = number;
                if !batch.is_empty() {
                    store.commit(batch, Durability::Crash).await.unwrap();
                }
            }
            assert_eq!(counter.last(), last);
            store.close().await;
        }
    }
}
