//! Entries that are whole, each by itself, but not all that were written last.

use super::{
    damage::{copied, filled, whole_or_refused},
    *,
};

/// A change behind the store's back, after which every value is still one that was written once.
type Change = fn(now: &sled::Db, before: &sled::Db);

fn key(name: &str) -> Vec<u8> {
    TREE.full_key(name.as_bytes())
}

fn put_back(now: &sled::Db, before: &sled::Db, name: &str) {
    let old = before.get(key(name)).unwrap().unwrap();
    now.insert(key(name), old).unwrap();
}

fn put_back_a_part(now: &sled::Db, before: &sled::Db) {
    let mut parts = before.scan_prefix([parts::PART_PREFIX]);
    let (key, part) = parts.next().unwrap().unwrap();
    now.insert(key, part).unwrap();
}

#[tokio::test]
async fn entries_that_are_whole_but_not_those_written_last_are_damage() {
    let changes: [(&str, Change); 5] = [
        ("nothing", |_, _| {}),
        ("one is lost", |now, _| {
            now.remove(key("kept")).unwrap();
        }),
        ("one is back again", |now, before| {
            put_back(now, before, "removed");
        }),
        ("one is older", |now, before| {
            put_back(now, before, "changed");
        }),
        ("a part is back again", put_back_a_part),
    ];
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut batch = put("large", &[7; 60_000]);
    for key in ["kept", "changed", "removed"] {
        batch.put(TREE, key.as_bytes(), b"first".to_vec());
    }
    store.commit(batch, Durability::Power).await.unwrap();
    store.close().await;
    drop(store);
    let before = tempfile::tempdir().unwrap();
    copied(directory.path(), before.path());
    let before = sled::open(before.path()).unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut batch = put("changed", b"second");
    batch.remove(TREE, b"removed");
    batch.put(TREE, b"large", vec![8; 60_000]);
    store.commit(batch, Durability::Power).await.unwrap();
    store.close().await;
    drop(store);

    for (what, change) in changes {
        let copy = tempfile::tempdir().unwrap();
        copied(directory.path(), copy.path());
        let now = sled::open(copy.path()).unwrap();
        change(&now, &before);
        drop(now);
        match Store::open(copy.path()) {
            Ok(_) if what == "nothing" => {}
            Err(StoreError::Damaged { reason, .. }) if what != "nothing" => {
                assert!(
                    reason.contains("lost, or are back again"),
                    "{what}: {reason}"
                );
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_store_of_the_version_before_has_a_digest_from_its_next_write_on() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path()).await;
    // It told of the generation alone.
    let database = sled::open(directory.path()).unwrap();
    let payload = 100_u64.to_le_bytes();
    let last = parts::sealed(parts::WHOLE, parts::GENERATION, &payload);
    database.insert(parts::GENERATION, last).unwrap();
    drop(database);
    whole_or_refused(directory.path()).unwrap();
    let store = Store::open(directory.path()).unwrap();
    let again = put("key-0", "key-0".repeat(50).as_bytes());
    store.commit(again, Durability::Power).await.unwrap();
    store.close().await;
    drop(store);
    whole_or_refused(directory.path()).unwrap();
    let database = sled::open(directory.path()).unwrap();
    database.remove(key("key-1")).unwrap();
    drop(database);
    let error = whole_or_refused(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn entries_that_nobody_counted_are_damage() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path()).await;
    let database = sled::open(directory.path()).unwrap();
    database.remove(parts::GENERATION).unwrap();
    drop(database);
    std::fs::remove_file(directory.path().join("generation")).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}
