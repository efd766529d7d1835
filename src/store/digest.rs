//! A digest over all entries, that each group of writes brings up to date: sled itself does not notice every page
//! that damage made it lose or find again.

use sha2::{Digest as _, Sha256};

const BYTES: usize = size_of::<u128>();

/// The sum of the hashes of all entries, whatever their order (AdHash: Bellare and Micciancio, "A New Paradigm for
/// Collision-Free Hashing", 1997). It is there to notice damage, not an adversary, who could write the sum as well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Digest(u128);

impl Digest {
    pub(super) fn add(&mut self, key: &[u8], raw: &[u8]) {
        self.0 = self.0.wrapping_add(hash(key, raw));
    }

    pub(super) fn remove(&mut self, key: &[u8], raw: &[u8]) {
        self.0 = self.0.wrapping_sub(hash(key, raw));
    }

    pub(super) fn to_bytes(self) -> [u8; BYTES] {
        self.0.to_le_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; BYTES]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}

fn hash(key: &[u8], raw: &[u8]) -> u128 {
    let mut sha = Sha256::new();
    // So that no byte of a key can be taken for one of the value.
    sha.update((key.len() as u64).to_le_bytes());
    sha.update(key);
    sha.update(raw);
    let mut half = [0; BYTES];
    half.copy_from_slice(&sha.finalize()[..BYTES]);
    u128::from_le_bytes(half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_stored_counts_and_not_how_it_came_there() {
        let mut one = Digest::default();
        one.add(b"a", b"1");
        one.add(b"b", b"1");
        one.add(b"b", b"2");
        one.remove(b"b", b"1");
        let mut other = Digest::default();
        other.add(b"b", b"2");
        other.add(b"a", b"1");
        assert_eq!(one, other);
        for (key, raw) in [(&b"a"[..], &b"1"[..]), (b"b2", b""), (b"", b"b2")] {
            let mut changed = one;
            changed.add(key, raw);
            changed.remove(b"b", b"2");
            assert_ne!(changed, one, "{key:?}");
        }
        assert_eq!(Digest::from_bytes(one.to_bytes()), one);
    }
}
