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
/// Of a value that is larger than a part.
const PART: u8 = 2;

/// In front of the key of the generation: no tree's name starts with it.
const OWN_PREFIX: u8 = PART_PREFIX - 1;

/// How many groups have been written.
pub(super) const GENERATION: &[u8] = &[OWN_PREFIX, b'g'];

/// What is in front of every payload: what it is, and a CRC-32C over key and payload.
const HEADER: usize = 1 + size_of::<u32>();

fn sum(key: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), payload)
}

fn sealed(kind: u8, key: &[u8], payload: &[u8]) -> Vec<u8> {
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

/// Adds one write to a sled batch, with the parts that it makes or leaves behind.
pub(super) fn write(
    database: &sled::Db,
    batch: &mut sled::Batch,
    key: &[u8],
    value: Option<&[u8]>,
) -> sled::Result<()> {
    if let Some(old) = database.get(key)?
        && let Some((CUT, old)) = unsealed(key, &old)
        && let Some(old) = Cut::decode(old)
    {
        for part in 0..old.count {
            batch.remove(old.key(part));
        }
    }
    let Some(value) = value else {
        batch.remove(key);
        return Ok(());
    };
    if value.len() <= PART_BYTES {
        batch.insert(key, sealed(WHOLE, key, value));
        return Ok(());
    }
    let mut cut = Cut {
        id: database.generate_id()?,
        count: 0,
    };
    for part in value.chunks(PART_BYTES) {
        let part_key = cut.key(cut.count);
        let part = sealed(PART, &part_key, part);
        batch.insert(part_key, part);
        cut.count += 1;
    }
    batch.insert(key, sealed(CUT, key, &cut.encode()));
    Ok(())
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

/// Sets the generation in a batch.
pub(super) fn write_generation(batch: &mut sled::Batch, generation: u64) {
    let payload = generation.to_le_bytes();
    batch.insert(GENERATION, sealed(WHOLE, GENERATION, &payload));
}

/// How many groups have been written.
pub(super) fn read_generation(database: &sled::Db) -> sled::Result<u64> {
    let Some(raw) = database.get(GENERATION)? else {
        return Ok(0);
    };
    let number = match unsealed(GENERATION, &raw) {
        Some((WHOLE, payload)) => payload.try_into().map(u64::from_le_bytes).ok(),
        _ => None,
    };
    number.ok_or_else(damaged)
}

/// Looks at everything that is stored. Returns the first key whose value is not what was written.
pub(super) fn verify(database: &sled::Db) -> sled::Result<Option<IVec>> {
    for entry in database.iter() {
        let (key, raw) = entry?;
        if unsealed(&key, &raw).is_none() {
            return Ok(Some(key));
        }
    }
    Ok(None)
}
