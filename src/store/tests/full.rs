//! A disk that takes no more: a child with a limited file size writes until it fails.

use std::process::Command;

use super::*;

const DIRECTORY: &str = "ORCHESTRATOR_TEST_FULL_DIRECTORY";
const CONFIRMED: &str = "confirmed ";

fn numbered(n: u32) -> Batch {
    put(&format!("{n:06}"), &[7; 2_000])
}

/// The child. Does nothing unless the parent test started it.
#[tokio::test]
#[ignore = "started by nothing_is_confirmed_that_was_not_written"]
async fn write_until_it_fails() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let store = Store::open(Path::new(&directory)).unwrap();
    for n in 0..100_000 {
        let durability = match n % 2 {
            0 => Durability::Power,
            _ => Durability::Crash,
        };
        match store.commit(numbered(n), durability).await {
            Ok(()) => println!("{CONFIRMED}{n}"),
            Err(first) => {
                for later in [Durability::Crash, Durability::Power] {
                    let refused = store.commit(numbered(n), later).await;
                    assert_eq!(refused, Err(first.clone()), "the failure is final");
                }
                println!("failed: {first}");
                // Dropping would try to write again.
                std::process::exit(0);
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_confirmed_that_was_not_written() {
    let directory = tempfile::tempdir().unwrap();
    // Blocks of 512 bytes; with the signal ignored, writing beyond them is an error.
    let script = "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\"";
    let output = Command::new("/bin/sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::full::write_until_it_fails"])
        .args(["--ignored", "--nocapture"])
        .env(DIRECTORY, directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let path = directory.path().display().to_string();
    let failure = text.lines().find(|line| line.starts_with("failed: "));
    assert!(failure.is_some_and(|line| line.contains(&path)), "{text}");
    let store = Store::open(directory.path()).unwrap();
    let mut confirmed = 0;
    for line in text.lines() {
        if let Some((_, n)) = line.split_once(CONFIRMED) {
            let key = format!("{:06}", n.parse::<u32>().unwrap());
            let value = store.get(TREE, key.as_bytes()).unwrap();
            assert_eq!(value, Some(vec![7; 2_000]), "{key} was confirmed");
            confirmed += 1;
        }
    }
    assert!(confirmed > 100, "{confirmed}");
}
