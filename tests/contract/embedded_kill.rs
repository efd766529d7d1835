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

use super::harness::{LONG, outgoing, payload, pull};

const ROUNDS: usize = 20;
const DIRECTORY: &str = "ORCHESTRATOR_TEST_KILL_DIRECTORY";
const ROUND: &str = "ORCHESTRATOR_TEST_KILL_ROUND";
const STORED: &str = "stored ";
const DELIVERED: &str = "delivered ";

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
    let publishers = (0..8).map(|publisher| publish_for_ever(&*broker, publisher, round));
    futures::future::join_all(publishers).await;
}

async fn publish_for_ever(broker: &dyn Broker, publisher: usize, round: usize) {
    let job = format!("job-{publisher}");
    for n in 0.. {
        let taken = match n % 4 {
            0 => pull(broker, &[("default", 1)], 1, Duration::ZERO).await,
            _ => Vec::new(),
        };
        let run = outgoing("default", &job, round * 100_000 + n);
        let (key, id) = (run.run_id.key(), run.run_id.to_string());
        assert_eq!(broker.publish(run).await.unwrap(), Published::Stored);
        let value = id.clone().into();
        broker.put(Bucket::Runs, &key, value).await.unwrap();
        // One write a line: a line is either there as a whole or was never written.
        let mut lines = format!("{STORED}{id} {key}\n");
        for delivery in taken {
            // Its count was queued before the publish that is confirmed now.
            lines += &format!("{DELIVERED}{}\n", payload(&delivery));
        }
        std::io::stdout().write_all(lines.as_bytes()).unwrap();
    }
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

/// What a child said before it was killed.
#[derive(Default)]
struct Said {
    /// Ids with the keys of their records.
    stored: Vec<(String, String)>,
    delivered: Vec<String>,
}

/// Kills the child after it acknowledged `enough` runs.
fn kill_after(mut child: Child, enough: usize) -> Said {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = Said::default();
    let mut killed = false;
    while let Some(Ok(line)) = lines.next() {
        if let Some((_, text)) = line.split_once(STORED) {
            let (id, key) = text.split_once(' ').unwrap();
            said.stored.push((id.to_owned(), key.to_owned()));
        } else if let Some((_, id)) = line.split_once(DELIVERED) {
            said.delivered.push(id.to_owned());
        }
        if said.stored.len() >= enough && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "it ended by itself after {}", said.stored.len());
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_sigkill() {
    let directory = tempfile::tempdir().unwrap();
    let (mut promised, mut delivered) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..ROUNDS {
        let child = start_child(directory.path(), round);
        // Another number each round, so that the kill meets another moment.
        let said = kill_after(child, 20 + round * 7);
        let broker = EmbeddedBroker::open(directory.path(), options()).unwrap();
        for (id, key) in said.stored {
            let entry = broker.get(Bucket::Runs, &key).await.unwrap();
            let value = entry
                .unwrap_or_else(|| panic!("the record of {id} is lost"))
                .value;
            assert_eq!(value, id.clone().into_bytes());
            promised.insert(id);
        }
        delivered.extend(said.delivered);
        let pending = broker.pending(0, usize::MAX).await.unwrap();
        let found: BTreeSet<String> = pending
            .into_iter()
            .map(|p| String::from_utf8(p.payload).unwrap())
            .collect();
        let lost: Vec<_> = promised.difference(&found).collect();
        assert!(lost.is_empty(), "round {round} lost {lost:?}");
        broker.shutdown().await;
    }
    // Every lease is void, and every delivery that was certainly counted is.
    let broker = EmbeddedBroker::open(directory.path(), options()).unwrap();
    let all = pull(&*broker, &[("default", 1)], usize::MAX, Duration::ZERO).await;
    let again = all.iter().filter(|delivery| delivery.deliveries >= 2);
    let counted: BTreeSet<_> = again.map(payload).collect();
    assert!(!delivered.is_empty());
    let lost: Vec<_> = delivered.difference(&counted).collect();
    assert!(lost.is_empty(), "deliveries were not counted: {lost:?}");
    assert!(promised.len() <= all.len());
}
