mod damage;
mod entries;
mod full;

use std::os::unix::fs::PermissionsExt;

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
    for (file, expected) in [("", 0o700), ("db", 0o600), ("generation", 0o600)] {
        let mode = path.join(file).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, expected, "{file}");
    }
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
async fn a_directory_that_is_taken_away_is_noticed() {
    type Take = fn(&Path, &Path) -> std::io::Result<()>;
    let takes: [(&str, Take); 3] = [
        ("deleted", |store, _| std::fs::remove_dir_all(store)),
        ("moved", |store, other| std::fs::rename(store, other)),
        ("replaced", |store, other| {
            std::fs::copy(store.join("db"), other)?;
            std::fs::rename(other, store.join("db"))
        }),
    ];
    for (how, take) in takes {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = Store::open(&path).unwrap();
        store
            .commit(put("a", b"1"), Durability::Power)
            .await
            .unwrap();
        take(&path, &directory.path().join("other")).unwrap();
        for _ in 0..2 {
            let refused = store.commit(put("a", b"2"), Durability::Crash).await;
            assert!(
                matches!(refused, Err(StoreError::Deleted { .. })),
                "{how}: {refused:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_writing_thread_that_panics_is_a_failure() {
    for durability in [Durability::Crash, Durability::Power] {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let room = store.reserve(10).await.unwrap();
        let broken = store.submit(room, put("a", b"1"), durability, |_| panic!("a test"));
        broken.confirmed().await.unwrap_err();
        let failed = tokio::time::timeout(std::time::Duration::from_secs(20), async {
            loop {
                if let Err(error) = store.check() {
                    return error;
                }
                tokio::task::yield_now().await;
            }
        });
        let text = failed.await.unwrap().to_string();
        assert!(text.contains("a test"), "{text}");
        let refused = store.commit(put("b", b"1"), durability).await;
        assert!(refused.unwrap_err().to_string().contains("a test"));
    }
}

#[test]
fn what_cannot_be_a_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = Store::open(&file.join("store")).unwrap_err();
    assert!(error.to_string().contains("file/store"), "{error}");
    assert!(error.to_string().contains("use another one"), "{error}");
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
