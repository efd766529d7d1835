mod full;

use std::{
    fs::File,
    os::unix::fs::{FileExt, PermissionsExt},
};

use super::*;

const TREE: Tree = Tree::named("t");
const OTHER: Tree = Tree::named("tt");

fn put(key: &str, value: &[u8]) -> Batch {
    let mut batch = Batch::default();
    batch.put(TREE, key.as_bytes(), value.to_vec());
    batch
}

fn keys(scan: Scan) -> Vec<String> {
    scan.map(|pair| String::from_utf8(pair.unwrap().0).unwrap())
        .collect()
}

#[tokio::test]
async fn values_are_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/store");
    let store = Store::open(&path).unwrap();
    for (key, durability) in [("a", Durability::Crash), ("b", Durability::Power)] {
        store.commit(put(key, b"1"), durability).await.unwrap();
    }
    let mut batch = put("a", b"2");
    batch.remove(TREE, b"b");
    batch.put(OTHER, b"c", b"3".to_vec());
    store.commit(batch, Durability::Power).await.unwrap();
    store.close().await;
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.get(TREE, b"a").unwrap().as_deref(), Some(&b"2"[..]));
    assert_eq!(store.get(TREE, b"b").unwrap(), None);
    assert_eq!(keys(store.scan(TREE)), ["a"]);
    assert_eq!(keys(store.scan(OTHER)), ["c"]);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn scans_are_in_order_from_either_end_and_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut batch = Batch::default();
    for key in ["b.2", "a.1", "b.1", "b", "c.1"] {
        batch.put(TREE, key.as_bytes(), Vec::new());
    }
    batch.put(OTHER, b"b.3", Vec::new());
    store.commit(batch, Durability::Crash).await.unwrap();
    assert_eq!(keys(store.scan(TREE)), ["a.1", "b", "b.1", "b.2", "c.1"]);
    assert_eq!(keys(store.scan_prefix(TREE, b"b.")), ["b.1", "b.2"]);
    let mut backwards = store.scan_prefix(TREE, b"b.");
    assert_eq!(backwards.next_back().unwrap().unwrap().0, b"b.2");
    let after = store.range(TREE, Bound::Excluded(b"b.1"), Bound::Unbounded);
    assert_eq!(keys(after), ["b.2", "c.1"]);
}

#[tokio::test]
async fn large_values_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let large: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[0]).collect();
    store
        .commit(put("a", &large), Durability::Power)
        .await
        .unwrap();
    assert_eq!(store.get(TREE, b"a").unwrap().unwrap(), large);
    let scanned: Vec<_> = store.scan(TREE).collect();
    assert_eq!(scanned, [Ok((b"a".to_vec(), large.clone()))]);
    // Replaced, and put and removed within what may become one group.
    let shorter = large[..100_000].to_vec();
    store
        .commit(put("a", &shorter), Durability::Crash)
        .await
        .unwrap();
    assert_eq!(store.get(TREE, b"a").unwrap().unwrap(), shorter);
    let mut removal = put("b", &large);
    removal.remove(TREE, b"a");
    removal.remove(TREE, b"b");
    store.commit(removal, Durability::Crash).await.unwrap();
    let keys = store.inner.database.iter().keys();
    let keys: Vec<_> = keys.map(|key| key.unwrap().to_vec()).collect();
    assert_eq!(keys, [parts::GENERATION], "no part is left");
}

#[tokio::test]
async fn readers_never_see_a_mixed_value() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let value = |n: u8| vec![n; 100_000 + usize::from(n) * 1_000];
    store
        .commit(put("a", &value(0)), Durability::Crash)
        .await
        .unwrap();
    let reader = {
        let store = store.clone();
        tokio::task::spawn_blocking(move || {
            loop {
                let seen = store.get(TREE, b"a").unwrap().unwrap();
                assert_eq!(seen, value(seen[0]));
                if seen[0] == 100 {
                    return;
                }
            }
        })
    };
    for n in 1..=100 {
        store
            .commit(put("a", &value(n)), Durability::Crash)
            .await
            .unwrap();
    }
    reader.await.unwrap();
}

#[tokio::test]
async fn batches_are_applied_in_the_order_of_submitting() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut last = None;
    for n in 0..5_000u32 {
        let room = store.reserve(10).await.unwrap();
        let durability = match n % 3 {
            0 => Durability::Power,
            _ => Durability::Crash,
        };
        last = Some(store.submit(room, put("a", &n.to_be_bytes()), durability, |_| {}));
    }
    last.unwrap().confirmed().await.unwrap();
    let value = store.get(TREE, b"a").unwrap().unwrap();
    assert_eq!(value, 4_999u32.to_be_bytes());
}

#[tokio::test]
async fn the_callback_runs_when_nobody_waits() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let room = store.reserve(10).await.unwrap();
    let (tell, told) = oneshot::channel();
    drop(
        store.submit(room, put("a", b"1"), Durability::Power, move |result| {
            let _ = tell.send(result.clone());
        }),
    );
    assert_eq!(told.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn a_second_opener_learns_who_holds_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::Held { .. }), "{error}");
    let holder = format!("held by process {} (since 2", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    drop(store);
    Store::open(directory.path()).unwrap();
}

#[tokio::test]
async fn a_closed_store_refuses_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.close().await;
    let refused = store.commit(put("a", b"1"), Durability::Crash).await;
    assert!(
        matches!(refused, Err(StoreError::Closed { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_deleted_directory_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Store::open(&path).unwrap();
    store
        .commit(put("a", b"1"), Durability::Power)
        .await
        .unwrap();
    std::fs::remove_dir_all(&path).unwrap();
    for _ in 0..2 {
        let refused = store.commit(put("a", b"2"), Durability::Crash).await;
        assert!(
            matches!(refused, Err(StoreError::Deleted { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn what_cannot_be_a_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = Store::open(&file.join("store")).unwrap_err();
    assert!(error.to_string().contains("file/store"), "{error}");
}

#[test]
fn every_system_error_has_its_mend() {
    use rustix::io::Errno;
    let text = |errno: Errno| {
        let error = std::io::Error::from(errno);
        StoreError::from_io(Path::new("/data"), "writing", &error).to_string()
    };
    for (errno, mend) in [
        (Errno::ACCESS, "give this user the right"),
        (Errno::ROFS, "mount it writable"),
        (Errno::NOSPC, "make room"),
        (Errno::DQUOT, "make room"),
        (Errno::IO, "start again"),
    ] {
        let text = text(errno);
        assert!(text.contains("/data") && text.contains(mend), "{text}");
    }
}

/// A store with a hundred values, closed in order.
async fn filled(directory: &Path) {
    let store = Store::open(directory).unwrap();
    for n in 0..100 {
        let key = format!("key-{n}");
        let batch = put(&key, key.repeat(50).as_bytes());
        store.commit(batch, Durability::Power).await.unwrap();
    }
    store.close().await;
}

fn copied(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Opens it; if that works, everything must be there.
fn whole_or_refused(directory: &Path) -> Result<(), StoreError> {
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
    std::fs::write(directory.path().join("conf"), "not a configuration").unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    let path = directory.path().display().to_string();
    assert!(error.to_string().contains(&path), "{error}");
}
