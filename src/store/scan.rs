//! Reading keys in order, from either end.

use std::{ops::Bound, sync::Arc};

use super::{StoreError, Tree, parts, writer::Shared};

/// Keys and values in order. Batches applied meanwhile may or may not be seen.
pub struct Scan {
    database: sled::Db,
    shared: Arc<Shared>,
    tree: Tree,
    entries: sled::Iter,
}

/// What sled's iterator yields.
type Raw = sled::Result<(sled::IVec, sled::IVec)>;

/// A key and its value.
type Pair = (Vec<u8>, Vec<u8>);

impl Scan {
    pub(super) fn new(
        database: sled::Db,
        shared: Arc<Shared>,
        tree: Tree,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Self {
        let from = match from {
            Bound::Unbounded => Bound::Included(tree.full_key(&[])),
            given => given.map(|key| tree.full_key(key)),
        };
        let to = match to {
            Bound::Unbounded => Bound::Excluded(tree.end()),
            given => given.map(|key| tree.full_key(key)),
        };
        let entries = database.range::<Vec<u8>, _>((from, to));
        Self {
            database,
            shared,
            tree,
            entries,
        }
    }

    /// `None`: the key was removed meanwhile.
    fn read(&self, entry: Raw) -> sled::Result<Option<Pair>> {
        let (key, raw) = entry?;
        let value = match parts::assemble(&self.database, &key, &raw)? {
            Some(value) => Some(value),
            None => parts::read(&self.database, &key)?,
        };
        Ok(value.map(|value| (key[self.tree.prefix_length()..].to_vec(), value)))
    }

    fn advance(
        &mut self,
        step: fn(&mut sled::Iter) -> Option<Raw>,
    ) -> Option<Result<Pair, StoreError>> {
        loop {
            let entry = step(&mut self.entries)?;
            let read = self.read(entry).transpose();
            if let Some(result) = read {
                return Some(result.map_err(|error| self.shared.reading(&error)));
            }
        }
    }
}

impl Iterator for Scan {
    type Item = Result<Pair, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance(Iterator::next)
    }
}

impl DoubleEndedIterator for Scan {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.advance(DoubleEndedIterator::next_back)
    }
}
