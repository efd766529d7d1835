//! Names of trees, and batches of writes.

/// Ends the name of a tree within a key of the database.
const SEPARATOR: u8 = 0;

/// A group of keys. All trees live in one tree of sled, so that a batch over several is atomic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tree(&'static str);

impl Tree {
    /// The tree of this name: printable ASCII, and short, for it is a part of every key.
    pub const fn named(name: &'static str) -> Self {
        Self(name)
    }

    pub(super) fn full_key(self, key: &[u8]) -> Vec<u8> {
        let mut full = Vec::with_capacity(self.0.len() + 1 + key.len());
        full.extend_from_slice(self.0.as_bytes());
        full.push(SEPARATOR);
        full.extend_from_slice(key);
        full
    }

    /// The smallest key of the database behind this tree.
    pub(super) fn end(self) -> Vec<u8> {
        let mut end = self.0.as_bytes().to_vec();
        end.push(SEPARATOR + 1);
        end
    }

    /// The length of what [`Tree::full_key`] puts in front.
    pub(super) fn prefix_length(self) -> usize {
        self.0.len() + 1
    }
}

/// The smallest key behind all that start with `prefix`, if there is one.
pub(super) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Writes that happen together or not at all. A later write to a key replaces an earlier one.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// Sets a key.
    pub fn put(&mut self, tree: Tree, key: &[u8], value: Vec<u8>) {
        self.writes.push((tree.full_key(key), Some(value)));
    }

    /// Removes a key, if it is there.
    pub fn remove(&mut self, tree: Tree, key: &[u8]) {
        self.writes.push((tree.full_key(key), None));
    }

    /// Whether there is nothing to write. An empty batch is confirmed after all before it.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// About how much there is to write.
    pub(super) fn bytes(&self) -> usize {
        let size = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| {
            key.len() + value.as_ref().map_or(0, Vec::len)
        };
        self.writes.iter().map(size).sum()
    }

    pub(super) fn writes(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.writes
            .iter()
            .map(|(key, value)| (key.as_slice(), value.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_where_the_next_one_starts() {
        for (prefix, end) in [
            (&b"a"[..], Some(&b"b"[..])),
            (b"a\xff", Some(b"b")),
            (b"\xff\xff", None),
            (b"", None),
        ] {
            assert_eq!(prefix_end(prefix).as_deref(), end, "{prefix:?}");
        }
    }

    #[test]
    fn trees_do_not_overlap() {
        let (a, ab) = (Tree::named("a"), Tree::named("ab"));
        assert!(a.full_key(&[0xff; 9]) < a.end());
        assert!(a.end() <= ab.full_key(b""));
    }
}
