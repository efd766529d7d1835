//! Files that are not what was written: whatever the damage, the store is opened whole or refused.

use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt};

use super::*;

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store as it is after a while: every value was replaced several times, some were removed.
async fn lived_in(directory: &Path, random: &mut Random) -> Model {
    let mut model = Model::new();
    for _ in 0..3 {
        let store = Store::open(directory).unwrap();
        for round in 0..150_u64 {
            let mut batch = Batch::default();
            for _ in 0..20 {
                let key = format!("key-{:03}", random.below(300)).into_bytes();
                if random.below(10) == 0 {
                    batch.remove(TREE, &key);
                    model.remove(&key);
                } else {
                    let most = if random.below(50) == 0 { 60_000 } else { 400 };
                    let length = 10 + random.below(most);
                    let fill = [key.as_slice(), &round.to_le_bytes()].concat();
                    let value: Vec<_> =
                        fill.iter().cycle().take(length as usize).copied().collect();
                    batch.put(TREE, &key, value.clone());
                    model.insert(key, value);
                }
            }
            // One sync at the end: disks may be slow.
            let durability = match round {
                149 => Durability::Power,
                _ => Durability::Crash,
            };
            store.commit(batch, durability).await.unwrap();
        }
        store.close().await;
    }
    model
}

fn damage(file: &Path, random: &mut Random) -> String {
    let mut bytes = std::fs::read(file).unwrap();
    let size = bytes.len() as u64;
    let at = random.below(size.max(1)) as usize;
    let what = match random.below(6) {
        0..=2 => {
            if !bytes.is_empty() {
                bytes[at] ^= 1 << random.below(8);
            }
            "flipped"
        }
        3 => {
            bytes.truncate(at);
            "cut"
        }
        4 => {
            let end = (at + 4096).min(bytes.len());
            bytes[at..end].fill(0);
            "zeros"
        }
        _ => {
            let end = (at + 512).min(bytes.len());
            for byte in &mut bytes[at..end] {
                *byte = random.below(256) as u8;
            }
            "noise"
        }
    };
    std::fs::write(file, bytes).unwrap();
    format!("{what} at {at} of {size} in {}", file.display())
}

/// How many values are missing, are there though they were removed, and are others.
fn difference(model: &Model, found: &Model) -> String {
    let missing = model.keys().filter(|key| !found.contains_key(*key)).count();
    let back = found.keys().filter(|key| !model.contains_key(*key)).count();
    let is_another =
        |(key, value): &(&Vec<u8>, &Vec<u8>)| model.get(*key).is_some_and(|own| own != *value);
    let others = found.iter().filter(is_another).count();
    format!(
        "{missing} missing, {back} back again, {others} others, of {}",
        model.len()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_damage_it_is_whole_or_refused() {
    let (seed, rounds) = (number("DAMAGE_SEED", 7), number("DAMAGE_ROUNDS", 80));
    println!("DAMAGE_SEED={seed} DAMAGE_ROUNDS={rounds}");
    let mut random = Random(seed);
    let original = tempfile::tempdir().unwrap();
    let model = lived_in(original.path(), &mut random).await;
    let (mut refused, mut whole) = (0, 0);
    for round in 0..rounds {
        let directory = tempfile::tempdir().unwrap();
        copied(original.path(), directory.path());
        let files = std::fs::read_dir(directory.path()).unwrap();
        let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let file = match random.below(4) {
            0 => files.swap_remove(random.below(files.len() as u64) as usize),
            _ => directory.path().join("db"),
        };
        let what = damage(&file, &mut random);
        let opened = Store::open(directory.path());
        match opened.and_then(|store| store.scan(TREE).collect::<Result<Model, _>>()) {
            Ok(found) if found == model => whole += 1,
            Ok(found) => panic!(
                "round {round}, {what}: opened, but not with what was stored: {}",
                difference(&model, &found)
            ),
            Err(StoreError::Damaged { .. }) => refused += 1,
            Err(other) => panic!("round {round}, {what}: {other}"),
        }
    }
    println!("{refused} of {rounds} refused, {whole} were whole");
}

/// A store with a hundred values, closed in order.
pub(super) async fn filled(directory: &Path) {
    let store = Store::open(directory).unwrap();
    for n in 0..100 {
        let key = format!("key-{n}");
        let batch = put(&key, key.repeat(50).as_bytes());
        let durability = match n {
            99 => Durability::Power,
            _ => Durability::Crash,
        };
        store.commit(batch, durability).await.unwrap();
    }
    store.close().await;
}

pub(super) fn copied(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Opens it; if that works, everything must be there.
pub(super) fn whole_or_refused(directory: &Path) -> Result<(), StoreError> {
    let store = Store::open(directory)?;
    let found: Vec<_> = store.scan(TREE).collect::<Result<_, _>>()?;
    assert_eq!(found.len(), 100, "it was opened with a part of its values");
    for (key, value) in found {
        let key = String::from_utf8(key).unwrap();
        assert_eq!(value, key.repeat(50).as_bytes(), "{key}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_are_never_read_as_values() {
    let original = tempfile::tempdir().unwrap();
    filled(original.path()).await;
    let size = std::fs::metadata(original.path().join("db")).unwrap().len();
    let copy = tempfile::tempdir().unwrap();
    copied(original.path(), copy.path());
    whole_or_refused(copy.path()).unwrap();
    let mut refused = 0;
    for round in 0..60 {
        let directory = tempfile::tempdir().unwrap();
        copied(original.path(), directory.path());
        let file = File::options()
            .read(true)
            .write(true)
            .open(directory.path().join("db"))
            .unwrap();
        // Spread over what is written of the file.
        let at = size * round / 60 + round * 37 % 256;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at.min(size - 1)).unwrap();
        byte[0] ^= 1 << (round % 8);
        file.write_all_at(&byte, at.min(size - 1)).unwrap();
        match whole_or_refused(directory.path()) {
            Ok(()) => {}
            Err(StoreError::Damaged { .. }) => refused += 1,
            Err(other) => panic!("round {round}: {other}"),
        }
    }
    println!("{refused} of 60 refused, the others were whole");
}

#[tokio::test]
async fn a_store_that_was_set_back_or_emptied_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path()).await;
    let before = tempfile::tempdir().unwrap();
    copied(directory.path(), before.path());
    let store = Store::open(directory.path()).unwrap();
    store
        .commit(put("more", b"1"), Durability::Power)
        .await
        .unwrap();
    store.close().await;
    drop(store);
    let generation = directory.path().join("generation");
    for name in ["db", "conf"] {
        std::fs::copy(before.path().join(name), directory.path().join(name)).unwrap();
    }
    let error = Store::open(directory.path()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("set back or emptied"), "{text}");

    for emptied in [Some(0), Some(1000), None] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::copy(&generation, directory.path().join("generation")).unwrap();
        if let Some(bytes) = emptied {
            copied(before.path(), directory.path());
            std::fs::copy(&generation, directory.path().join("generation")).unwrap();
            let db = File::options()
                .write(true)
                .open(directory.path().join("db"));
            db.unwrap().set_len(bytes).unwrap();
        }
        let error = Store::open(directory.path()).unwrap_err();
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "{emptied:?}: {error}"
        );
        // What is damaged is kept, and an empty store takes its place.
        let (store, aside) = Store::open_or_set_aside(directory.path()).unwrap();
        let aside = aside.unwrap();
        assert!(aside.directory.join("generation").exists());
        assert!(aside.directory.join("db").exists(), "{emptied:?}");
        assert_eq!(store.scan(TREE).count(), 0);
        store
            .commit(put("a", b"1"), Durability::Power)
            .await
            .unwrap();
        store.close().await;
        drop(store);
        let (store, aside) = Store::open_or_set_aside(directory.path()).unwrap();
        assert_eq!(aside, None);
        assert_eq!(store.get(TREE, b"a").unwrap().unwrap(), b"1");
    }
}

#[tokio::test]
async fn damaged_files_are_an_error_and_not_a_panic() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("db")).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(
        error.to_string().contains("db") || matches!(error, StoreError::Io { .. }),
        "{error}"
    );
    let directory = tempfile::tempdir().unwrap();
    for conf in ["not a configuration", "segment_size: 1\n"] {
        std::fs::write(directory.path().join("conf"), conf).unwrap();
        let error = Store::open(directory.path()).unwrap_err();
        let path = directory.path().display().to_string();
        assert!(error.to_string().contains(&path), "{error}");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_opening_that_was_cut_off_harms_nothing() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path()).await;
    // What sled leaves behind when it is killed, or the disk is full, while it is opened.
    for name in [
        "snap.0000000000000001.generating",
        "snap.FFFFFFFFFFFFFFFF.generating",
    ] {
        std::fs::write(directory.path().join(name), "").unwrap();
    }
    whole_or_refused(directory.path()).unwrap();
}
