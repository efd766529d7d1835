//! How values lie in sled. A leaf of sled's tree holds up to 17 entries whatever their size, and
//! a leaf larger than a segment (512 KiB) goes to a file of its own, which sled does not sync. So
//! values above [`PART_BYTES`] are cut into parts, which keeps every leaf small enough.

use sled::IVec;

use super::digest::Digest;

/// 17 parts and their keys fit into a segment.
const PART_BYTES: usize = 24 * 1024;

/// In front of the keys of parts: no tree's name starts with it.
pub(super) const PART_PREFIX: u8 = u8::MAX;

pub(super) const WHOLE: u8 = 0;
const CUT: u8 = 1;
/// Of a value that is larger than a part.
const PART: u8 = 2;

/// In front of the key of the generation: no tree's name starts with it.
const OWN_PREFIX: u8 = PART_PREFIX - 1;

/// Where the [`Last`] group is told of.
pub(super) const GENERATION: &[u8] = &[OWN_PREFIX, b'g'];

/// What is in front of every payload: what it is, and a CRC-32C over key and payload.
const HEADER: usize = 1 + size_of::<u32>();

fn sum(key: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), payload)
}

pub(super) fn sealed(kind: u8, key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(HEADER + payload.len());
    raw.push(kind);
    raw.extend_from_slice(&sum(key, payload).to_le_bytes());
    raw.extend_from_slice(payload);
    raw
}

/// What was sealed, with its kind; `None` if it is something else.
fn unsealed<'a>(key: &[u8], raw: &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (header, payload) = raw.split_first_chunk::<HEADER>()?;
    let [kind, stored @ ..] = *header;
    (u32::from_le_bytes(stored) == sum(key, payload)).then_some((kind, payload))
}

fn damaged() -> sled::Error {
    sled::Error::Corruption { at: None, bt: () }
}

/// How often to look again when a value was replaced while its parts were read.
const MAX_READS: usize = 100;

/// Where the parts of a large value are.
struct Cut {
    id: u64,
    count: u32,
}

impl Cut {
    fn key(&self, part: u32) -> Vec<u8> {
        let mut key = vec![PART_PREFIX];
        key.extend_from_slice(&self.id.to_be_bytes());
        key.extend_from_slice(&part.to_be_bytes());
        key
    }

    fn encode(&self) -> Vec<u8> {
        let mut raw = Vec::new();
        raw.extend_from_slice(&self.id.to_be_bytes());
        raw.extend_from_slice(&self.count.to_be_bytes());
        raw
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let (id, count) = payload.split_first_chunk::<8>()?;
        Some(Self {
            id: u64::from_be_bytes(*id),
            count: u32::from_be_bytes(count.try_into().ok()?),
        })
    }
}

/// How far the store has come: its last group of writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Last {
    /// How many groups have been written.
    pub(super) generation: u64,
    /// Over all entries but this one.
    pub(super) digest: Digest,
}

/// A group of writes that becomes one batch of sled.
pub(super) struct Group<'a> {
    database: &'a sled::Db,
    batch: sled::Batch,
    digest: Digest,
}

impl<'a> Group<'a> {
    pub(super) fn new(database: &'a sled::Db, last: Last) -> Self {
        Self {
            database,
            batch: sled::Batch::default(),
            digest: last.digest,
        }
    }

    /// Adds one write, with the parts that it makes or leaves behind. There is one write to a key in a group.
    pub(super) fn write(&mut self, key: &[u8], value: Option<&[u8]>) -> sled::Result<()> {
        let old = self.database.get(key)?;
        if let Some(old) = &old {
            if let Some((CUT, cut)) = unsealed(key, old)
                && let Some(cut) = Cut::decode(cut)
            {
                for part in 0..cut.count {
                    self.remove(&cut.key(part))?;
                }
            }
            self.digest.remove(key, old);
        }
        match value {
            Some(value) if value.len() <= PART_BYTES => {
                self.insert(key, sealed(WHOLE, key, value));
            }
            Some(value) => self.insert_parts(key, value)?,
            None => self.batch.remove(key),
        }
        Ok(())
    }

    fn insert_parts(&mut self, key: &[u8], value: &[u8]) -> sled::Result<()> {
        let mut cut = Cut {
            id: self.database.generate_id()?,
            count: 0,
        };
        for part in value.chunks(PART_BYTES) {
            let part_key = cut.key(cut.count);
            self.insert(&part_key, sealed(PART, &part_key, part));
            cut.count += 1;
        }
        self.insert(key, sealed(CUT, key, &cut.encode()));
        Ok(())
    }

    /// What was under this key is no longer in the digest.
    fn insert(&mut self, key: &[u8], raw: Vec<u8>) {
        self.digest.add(key, &raw);
        self.batch.insert(key, raw);
    }

    fn remove(&mut self, key: &[u8]) -> sled::Result<()> {
        if let Some(old) = self.database.get(key)? {
            self.digest.remove(key, &old);
            self.batch.remove(key);
        }
        Ok(())
    }

    /// The batch, which tells how far the store has come with it.
    pub(super) fn finish(mut self, generation: u64) -> (sled::Batch, Last) {
        let last = Last {
            generation,
            digest: self.digest,
        };
        let payload = [&generation.to_le_bytes()[..], &last.digest.to_bytes()].concat();
        self.batch
            .insert(GENERATION, sealed(WHOLE, GENERATION, &payload));
        (self.batch, last)
    }
}

/// Reads the value of a key.
pub(super) fn read(database: &sled::Db, key: &[u8]) -> sled::Result<Option<Vec<u8>>> {
    for _ in 0..MAX_READS {
        let Some(raw) = database.get(key)? else {
            return Ok(None);
        };
        if let Some(value) = assemble(database, key, &raw)? {
            return Ok(Some(value));
        }
    }
    Err(damaged())
}

/// The value behind what is stored under `key`, or `None` if it was replaced meanwhile.
pub(super) fn assemble(
    database: &sled::Db,
    key: &[u8],
    raw: &IVec,
) -> sled::Result<Option<Vec<u8>>> {
    let cut = match unsealed(key, raw).ok_or_else(damaged)? {
        (WHOLE, value) => return Ok(Some(value.to_vec())),
        (CUT, cut) => Cut::decode(cut).ok_or_else(damaged)?,
        _ => return Err(damaged()),
    };
    let mut value = Vec::new();
    for part in 0..cut.count {
        let key = cut.key(part);
        let Some(raw) = database.get(&key)? else {
            return Ok(None);
        };
        match unsealed(&key, &raw) {
            Some((PART, bytes)) => value.extend_from_slice(bytes),
            _ => return Err(damaged()),
        }
    }
    Ok(Some(value))
}

/// How far the store says that it has come: the generation, and the digest unless an earlier version wrote it last.
/// `None`: nothing was ever written.
fn read_last(database: &sled::Db) -> sled::Result<Option<(u64, Option<Digest>)>> {
    let Some(raw) = database.get(GENERATION)? else {
        return Ok(None);
    };
    let Some((WHOLE, payload)) = unsealed(GENERATION, &raw) else {
        return Err(damaged());
    };
    let (generation, digest) = payload.split_first_chunk().ok_or_else(damaged)?;
    let digest = match digest {
        [] => None,
        bytes => Some(Digest::from_bytes(bytes.try_into().map_err(|_| damaged())?)),
    };
    Ok(Some((u64::from_le_bytes(*generation), digest)))
}

/// Looks at everything that is stored. Returns how far the store has come, or what is wrong with it.
pub(super) fn verify(database: &sled::Db) -> sled::Result<Result<Last, String>> {
    let said = read_last(database)?;
    let mut digest = Digest::default();
    let mut count: u64 = 0;
    for entry in database.iter() {
        let (key, raw) = entry?;
        if unsealed(&key, &raw).is_none() {
            let key = key.escape_ascii();
            return Ok(Err(format!("the value of {key} is not what was written")));
        }
        if database.get(&key)?.as_ref() != Some(&raw) {
            let key = key.escape_ascii();
            return Ok(Err(format!("{key} is not found where it belongs")));
        }
        if *key != *GENERATION {
            digest.add(&key, &raw);
            count += 1;
        }
    }
    Ok(match said {
        None if count > 0 => Err(format!(
            "it has {count} entries, but does not say how it came to them"
        )),
        None => Ok(Last::default()),
        Some((_, Some(said))) if said != digest => Err(format!(
            "its {count} entries are not all that were written last: some were lost, or are back again"
        )),
        Some((generation, _)) => Ok(Last { generation, digest }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_that_or_nothing() {
        let sealed = sealed(b'v', b"key", b"payload");
        assert_eq!(unsealed(b"key", &sealed), Some((b'v', &b"payload"[..])));
        assert_eq!(unsealed(b"other", &sealed), None);
        // All but the first, which says what it is.
        for bit in 8..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unsealed(b"key", &flipped), None, "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(unsealed(b"key", &sealed[..length]), None, "{length} bytes");
        }
    }
}
