//! How values lie in sled. A leaf of sled's tree holds up to 17 entries whatever their size, and
//! a leaf larger than a segment (512 KiB) goes to a file of its own, which sled does not sync. So
//! values above [`PART_BYTES`] are cut into parts, which keeps every leaf small enough.

use sled::IVec;

/// 17 parts and their keys fit into a segment.
const PART_BYTES: usize = 24 * 1024;

/// In front of the keys of parts: no tree's name starts with it.
const PART_PREFIX: u8 = u8::MAX;

const WHOLE: u8 = 0;
const CUT: u8 = 1;

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
        let mut raw = vec![CUT];
        raw.extend_from_slice(&self.id.to_be_bytes());
        raw.extend_from_slice(&self.count.to_be_bytes());
        raw
    }

    /// The parts that a stored value refers to, if it is not whole.
    fn decode(raw: &[u8]) -> Option<Self> {
        let (tag, rest) = raw.split_first()?;
        let (id, count) = rest.split_first_chunk::<8>()?;
        (*tag == CUT).then_some(())?;
        Some(Self {
            id: u64::from_be_bytes(*id),
            count: u32::from_be_bytes(count.try_into().ok()?),
        })
    }
}

/// Adds one write to a sled batch, with the parts that it makes or leaves behind.
pub(super) fn write(
    database: &sled::Db,
    batch: &mut sled::Batch,
    key: &[u8],
    value: Option<&[u8]>,
) -> sled::Result<()> {
    if let Some(old) = database.get(key)?.as_deref().and_then(Cut::decode) {
        for part in 0..old.count {
            batch.remove(old.key(part));
        }
    }
    let Some(value) = value else {
        batch.remove(key);
        return Ok(());
    };
    if value.len() <= PART_BYTES {
        let mut raw = Vec::with_capacity(1 + value.len());
        raw.push(WHOLE);
        raw.extend_from_slice(value);
        batch.insert(key, raw);
        return Ok(());
    }
    let mut cut = Cut {
        id: database.generate_id()?,
        count: 0,
    };
    for part in value.chunks(PART_BYTES) {
        batch.insert(cut.key(cut.count), part);
        cut.count += 1;
    }
    batch.insert(key, cut.encode());
    Ok(())
}

/// Reads the value of a key.
pub(super) fn read(database: &sled::Db, key: &[u8]) -> sled::Result<Option<Vec<u8>>> {
    for _ in 0..MAX_READS {
        let Some(raw) = database.get(key)? else {
            return Ok(None);
        };
        if let Some(value) = assemble(database, &raw)? {
            return Ok(Some(value));
        }
    }
    Err(sled::Error::Corruption { at: None, bt: () })
}

/// The value behind what is stored, or `None` if it was replaced meanwhile.
pub(super) fn assemble(database: &sled::Db, raw: &IVec) -> sled::Result<Option<Vec<u8>>> {
    let Some(cut) = Cut::decode(raw) else {
        return match raw.split_first() {
            Some((&WHOLE, value)) => Ok(Some(value.to_vec())),
            Some(_) | None => Err(sled::Error::Corruption { at: None, bt: () }),
        };
    };
    let mut value = Vec::new();
    for part in 0..cut.count {
        match database.get(cut.key(part))? {
            Some(bytes) => value.extend_from_slice(&bytes),
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}
