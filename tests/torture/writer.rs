//! The victim: a process that opens a store and writes at full speed, and says what was confirmed.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use orchestrator::store::{Batch, Durability, Store, StoreError, Tree};

const DIRECTORY: &str = "ORCHESTRATOR_TEST_TORTURE_DIRECTORY";
const TREE: Tree = Tree::named("torture");
/// Each writes its own keys, one after the other.
const WRITERS: u64 = 12;
/// Of each writer.
const KEYS: u64 = 40;

const OPENING: &str = "opening";
const OPEN: &str = "open";
const CONFIRMED: &str = "confirmed ";

/// The process. Does nothing unless [`start`] started it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the other tests"]
async fn write_until_the_end() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    say(OPENING);
    let store = Store::open(Path::new(&directory)).unwrap();
    say(OPEN);
    let writers = (0..WRITERS).map(|writer| write(&store, writer));
    futures::future::join_all(writers).await;
}

/// Until it is killed, or the disk is gone.
async fn write(store: &Store, writer: u64) {
    // The odd ones do not ask for a sync: after a loss of power nothing is expected of them.
    let durability = match is_durable(writer) {
        true => Durability::Power,
        false => Durability::Crash,
    };
    let counter = format!("{writer}").into_bytes();
    let last = number(store, &counter).unwrap();
    for count in last + 1.. {
        // Together or not at all: the counter, a key, and its shadow.
        let mut batch = Batch::default();
        let value = count.to_le_bytes();
        let key = format!("{writer}.{}", count % KEYS);
        let long = value.repeat(1 + (count % 100) as usize * 8);
        batch.put(TREE, &counter, value.to_vec());
        batch.put(TREE, key.as_bytes(), long.clone());
        batch.put(TREE, format!("{key}.shadow").as_bytes(), long);
        if store.commit(batch, durability).await.is_err() {
            return;
        }
        say(&format!("{CONFIRMED}{writer} {count}"));
    }
}

pub(super) fn is_durable(writer: u64) -> bool {
    writer.is_multiple_of(2)
}

/// In one write: a line is either there as a whole or was never said.
fn say(line: &str) {
    // Nobody listens any more: then this process is about to be killed.
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}

fn number(store: &Store, key: &[u8]) -> Result<u64, StoreError> {
    let value = store.get(TREE, key)?;
    Ok(value.map_or(0, |value| u64::from_le_bytes(value.try_into().unwrap())))
}

/// A running victim.
pub(super) struct Victim {
    child: Child,
    lines: BufReader<ChildStdout>,
}

/// What each writer was told last.
pub(super) type Said = BTreeMap<u64, u64>;

pub(super) fn start(directory: &Path) -> Victim {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "torture::writer::write_until_the_end"])
        .args(["--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    Victim { child, lines }
}

impl Victim {
    /// Returns when it begins to open the store.
    pub(super) fn is_opening(&mut self) {
        self.says(OPENING);
    }

    /// Returns when it is at work.
    pub(super) fn is_writing(&mut self) {
        self.says(OPEN);
    }

    fn says(&mut self, what: &str) {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            // The harness begins its line before the test says anything.
            if line.trim_end().ends_with(what) {
                return;
            }
            line.clear();
        }
        let output = std::io::read_to_string(self.child.stderr.take().unwrap());
        panic!("it ended before it was {what}: {}", output.unwrap());
    }

    /// Reads on until `enough` was confirmed.
    pub(super) fn confirms(&mut self, enough: usize, said: &mut Said) {
        let mut line = String::new();
        for _ in 0..enough {
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return;
            }
            note(&line, said);
            line.clear();
        }
    }

    /// SIGKILL; and what it had said until then.
    pub(super) fn kill(mut self, said: &mut Said) {
        self.child.kill().unwrap();
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            note(&line, said);
            line.clear();
        }
        self.child.wait().unwrap();
    }
}

fn note(line: &str, said: &mut Said) {
    let Some((_, numbers)) = line.split_once(CONFIRMED) else {
        return;
    };
    // The last line may have been cut off.
    if let Some((writer, count)) = numbers.strip_suffix('\n').and_then(|n| n.split_once(' ')) {
        said.insert(writer.parse().unwrap(), count.parse().unwrap());
    }
}

/// How far each writer came, from a store that must open, and in which every batch is whole.
pub(super) fn found(directory: &Path) -> Said {
    let store = Store::open(directory).unwrap_or_else(|error| panic!("{error}"));
    let entries: BTreeMap<_, _> = store.scan(TREE).map(Result::unwrap).collect();
    let mut found = Said::new();
    for writer in 0..WRITERS {
        let last = number(&store, format!("{writer}").as_bytes()).unwrap();
        found.insert(writer, last);
        // The values that the counter implies, and no others.
        for count in last.saturating_sub(KEYS - 1).max(1)..=last {
            let value = count.to_le_bytes().repeat(1 + (count % 100) as usize * 8);
            let key = format!("{writer}.{}", count % KEYS);
            for key in [key.clone(), format!("{key}.shadow")] {
                assert_eq!(
                    entries.get(key.as_bytes()),
                    Some(&value),
                    "{key} of writer {writer}, which came to {last}"
                );
            }
        }
    }
    found
}
