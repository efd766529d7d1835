//! What the embedded broker acknowledged survives SIGKILL: a child publishes and prints what was
//! acknowledged until it is killed; then all of that must be there.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use orchestrator::broker::{
    Broker, Bucket, Published,
    embedded::{EmbeddedBroker, EmbeddedOptions},
};

use super::harness::{LONG, outgoing, pull};

const ROUNDS: usize = 20;
const DIRECTORY: &str = "ORCHESTRATOR_TEST_KILL_DIRECTORY";
const ROUND: &str = "ORCHESTRATOR_TEST_KILL_ROUND";
const STORED: &str = "stored ";

fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        lease: LONG,
        ..EmbeddedOptions::default()
    }
}

/// The child. Does nothing unless the parent test started it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by what_was_acknowledged_survives_sigkill"]
async fn publish_until_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let round: usize = std::env::var(ROUND).unwrap().parse().unwrap();
    let broker = EmbeddedBroker::open(Path::new(&directory), options()).unwrap();
    let publishers = (0..8).map(|publisher| {
        let broker = &broker;
        async move {
            for n in 0.. {
                let run = outgoing("default", &format!("job-{publisher}"), round * 100_000 + n);
                let key = run.run_id.key();
                let id = run.run_id.to_string();
                assert_eq!(broker.publish(run).await.unwrap(), Published::Stored);
                broker
                    .put(Bucket::Runs, &key, id.clone().into())
                    .await
                    .unwrap();
                // One write a line: a line is either there as a whole or was never written.
                let line = format!("{STORED}{id} {key}\n");
                std::io::stdout().write_all(line.as_bytes()).unwrap();
                if n % 4 == 0 {
                    // Deliveries are counted on disk too.
                    pull(&**broker, &[("default", 1)], 1, Duration::ZERO).await;
                }
            }
        }
    });
    futures::future::join_all(publishers).await;
}

fn start_child(directory: &Path, round: usize) -> Child {
    let name = "contract::embedded_kill::publish_until_killed";
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Kills the child after it acknowledged `enough` runs; returns all that it acknowledged.
fn kill_after(mut child: Child, enough: usize) -> Vec<(String, String)> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut stored = Vec::new();
    let mut killed = false;
    while let Some(Ok(line)) = lines.next() {
        if let Some((_, text)) = line.split_once(STORED) {
            let (id, key) = text.split_once(' ').unwrap();
            stored.push((id.to_owned(), key.to_owned()));
        }
        if stored.len() >= enough && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the child ended by itself after {}", stored.len());
    stored
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_sigkill() {
    let directory = tempfile::tempdir().unwrap();
    let mut promised = BTreeSet::new();
    for round in 0..ROUNDS {
        let child = start_child(directory.path(), round);
        // Another number each round, so that the kill meets another moment.
        let stored = kill_after(child, 20 + round * 7);
        let broker = EmbeddedBroker::open(directory.path(), options()).unwrap();
        for (id, key) in stored {
            let entry = broker.get(Bucket::Runs, &key).await.unwrap();
            let value = entry
                .unwrap_or_else(|| panic!("the record of {id} is lost"))
                .value;
            assert_eq!(value, id.clone().into_bytes());
            promised.insert(id);
        }
        let pending = broker.pending(0, usize::MAX).await.unwrap();
        let found: BTreeSet<String> = pending
            .into_iter()
            .map(|p| String::from_utf8(p.payload).unwrap())
            .collect();
        let lost: Vec<_> = promised.difference(&found).collect();
        assert!(lost.is_empty(), "round {round} lost {lost:?}");
        broker.shutdown().await;
    }
}
