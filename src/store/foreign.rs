//! Whether a file of data is one of sled's at all. sled passes over whatever it does not understand, so that noise
//! opens as an empty store. Reads the heads of the segments, before sled does, and nothing else.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

/// sled's default, which is never changed here.
const SEGMENT_BYTES: u64 = 512 << 10;
/// A checksum of the rest, and two places in the log.
const HEAD_BYTES: usize = 20;

/// What is at the beginning of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// Room that was never written to, or not before the power went.
    Blank,
    /// sled's.
    Genuine,
    /// Something else.
    Noise,
}

/// Whether there is something in the file, and no segment of sled's among it.
pub(super) fn is_noise(file: &Path) -> io::Result<bool> {
    let file = match File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let size = file.metadata()?.len();
    let mut noise = false;
    for segment in 0..size.div_ceil(SEGMENT_BYTES) {
        let at = segment * SEGMENT_BYTES;
        let mut head = [0; HEAD_BYTES];
        let there = usize::try_from(size - at).unwrap_or(HEAD_BYTES);
        let there = &mut head[..there.min(HEAD_BYTES)];
        file.read_exact_at(there, at)?;
        match judge(&head) {
            Head::Genuine => return Ok(false),
            Head::Noise => noise = true,
            Head::Blank => {}
        }
    }
    Ok(noise)
}

fn judge(head: &[u8; HEAD_BYTES]) -> Head {
    let (sum, rest) = head.split_at(4);
    if head.iter().all(|byte| *byte == 0) {
        Head::Blank
    } else if sum == (!crc32fast::hash(rest)).to_le_bytes() {
        Head::Genuine
    } else {
        Head::Noise
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::{Batch, Durability, Store, StoreError, Tree};

    #[test]
    fn noise_is_damage_and_not_an_empty_store() {
        let seed = uuid::Uuid::new_v4().as_u128();
        println!("seed {seed}");
        let mut state = seed | 1;
        let mut noise = |length: usize| -> Vec<u8> {
            let byte = || {
                state = state.wrapping_mul(0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645) | 1;
                state.to_be_bytes()[0]
            };
            // Nothing but zeros would be blank.
            std::iter::repeat_with(byte)
                .take(length)
                .chain([1])
                .collect()
        };
        for length in [0, 10, 19, 4096, 3 << 19] {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("db"), noise(length)).unwrap();
            let opened = Store::open(directory.path());
            let error = opened.map(|_| ()).unwrap_err();
            assert!(
                matches!(error, StoreError::Damaged { .. }),
                "{length}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn what_a_crash_leaves_of_a_first_start_is_no_noise() {
        const TREE: Tree = Tree::named("t");
        let directory = tempfile::tempdir().unwrap();
        let db = directory.path().join("db");
        for blank in [0, 10, 4096, 3 << 19] {
            fs::write(&db, vec![0; blank]).unwrap();
            assert!(!is_noise(&db).unwrap(), "{blank}");
        }
        fs::remove_file(&db).unwrap();
        assert!(!is_noise(&db).unwrap(), "there is none");
        // As sled has it just opened, with values, and with more segments than one.
        for size in [0, 10, 200_000, 2_000_000] {
            let store = Store::open(directory.path()).unwrap();
            let mut batch = Batch::default();
            batch.put(TREE, format!("{size}").as_bytes(), vec![7; size]);
            store.commit(batch, Durability::Power).await.unwrap();
            store.close().await;
            drop(store);
            assert!(!is_noise(&db).unwrap(), "{size}");
        }
    }
}
