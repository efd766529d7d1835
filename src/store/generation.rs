//! How far the store had come when it was last synced, kept beside it: a store that is older than that
//! was set back or emptied, which sled itself does not notice.
//!
//! Two slots, written in turns, each with a checksum: one of them survives a write that was cut off. A slot is
//! written after the sync that it tells of, and not synced itself: whatever reaches the disk of it, the
//! store is at least as new.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

/// Beside sled's own files.
pub(super) const FILE_NAME: &str = "generation";

const MAGIC: [u8; 4] = *b"ORG1";
const SLOT_BYTES: usize = 16;
/// In sectors of their own.
const SLOT_DISTANCE: u64 = 512;

/// The file beside the store.
#[derive(Debug)]
pub(super) struct GenerationFile {
    file: File,
}

impl GenerationFile {
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(directory.join(FILE_NAME))?;
        Ok(Self { file })
    }

    /// The generation that was confirmed last; 0 if none was.
    pub(super) fn read(&self) -> io::Result<u64> {
        let mut newest = 0;
        for slot in 0..2 {
            let mut bytes = [0; SLOT_BYTES];
            match self.file.read_exact_at(&mut bytes, slot * SLOT_DISTANCE) {
                Ok(()) => newest = newest.max(decode(&bytes).unwrap_or(0)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(error) => return Err(error),
            }
        }
        Ok(newest)
    }

    pub(super) fn write(&self, generation: u64) -> io::Result<()> {
        let slot = generation % 2;
        self.file
            .write_all_at(&encode(generation), slot * SLOT_DISTANCE)
    }
}

fn encode(generation: u64) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    let (magic, rest) = bytes.split_at_mut(MAGIC.len());
    magic.copy_from_slice(&MAGIC);
    let (number, sum) = rest.split_at_mut(size_of::<u64>());
    number.copy_from_slice(&generation.to_le_bytes());
    sum.copy_from_slice(&crc32c::crc32c(number).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<u64> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (number, sum) = rest.split_first_chunk::<8>()?;
    let sum = u32::from_le_bytes(sum.try_into().ok()?);
    (crc32c::crc32c(number) == sum).then(|| u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slot_survives_a_write_that_was_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let file = GenerationFile::open(directory.path()).unwrap();
        assert_eq!(file.read().unwrap(), 0);
        for generation in [1, 2, 3] {
            file.write(generation).unwrap();
            assert_eq!(file.read().unwrap(), generation);
        }
        file.file
            .write_all_at(b"ORG1 cut off", SLOT_DISTANCE)
            .unwrap();
        assert_eq!(file.read().unwrap(), 2);
        assert_eq!(decode(&encode(u64::MAX)), Some(u64::MAX));
    }
}
