//! What every test needs: a broker of its own, workers on it, and waiting with a deadline.

use std::{path::PathBuf, sync::Arc, time::Duration};

use orchestrator::{
    broker::{
        Broker, Bucket, DeadLetter, Durability, LogChunk, LogStream, Outgoing, Published, Slot,
        embedded::{EmbeddedBroker, EmbeddedOptions},
    },
    clock,
    job::{Backoff, Execute, Kill, RetryPolicy, RunSpec, Seconds, SignalName},
    run::{RunId, RunMessage, RunRecord},
    worker::{QueueShare, Worker, WorkerOptions},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::faulty::Faulty;

/// Only bounds how long a failing test hangs.
const PATIENCE: Duration = Duration::from_secs(90);

/// A lease that does not run out within a test.
pub(super) const LONG: Duration = Duration::from_secs(120);

/// A lease that is meant to run out.
pub(super) const SHORT: Duration = Duration::from_millis(900);

/// A broker with a directory for it and for what jobs write.
pub(super) struct Bench {
    directory: TempDir,
    pub(super) broker: Arc<Faulty>,
}

/// A worker at work; told to stop when dropped.
pub(super) struct Working {
    pub(super) drain: CancellationToken,
    pub(super) at_once: CancellationToken,
    pub(super) ended: JoinHandle<()>,
}

impl Drop for Working {
    fn drop(&mut self) {
        self.drain.cancel();
        self.at_once.cancel();
    }
}

pub(super) fn shell(script: &str) -> RunSpec {
    let mut spec = RunSpec::new(Execute::Shell(script.to_owned()));
    spec.kill = Kill {
        signal: SignalName::Term,
        grace: Seconds::from_secs(1),
    };
    spec
}

/// Retried at once, `attempts` in all.
pub(super) fn retried(mut spec: RunSpec, attempts: u32) -> RunSpec {
    spec.retry = RetryPolicy {
        attempts,
        backoff: Backoff::Fixed(Seconds::new(Duration::from_millis(50))),
        ..RetryPolicy::default()
    };
    spec
}

pub(super) fn message(run: &str, queue: &str, spec: RunSpec) -> RunMessage {
    let run_id: RunId = run.parse().unwrap();
    RunMessage {
        scheduled_for: run_id.tick().unwrap_or_else(clock::now),
        ..RunMessage::new(run_id, queue.parse().unwrap(), clock::now(), spec)
    }
}

/// Waits until `look` finds something.
pub(super) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, looking).await {
        Ok(found) => found,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Waits until a task has ended.
pub(super) async fn join(mut working: Working) {
    let ended = tokio::time::timeout(PATIENCE, &mut working.ended).await;
    ended.expect("the worker should stop").unwrap();
}

impl Bench {
    pub(super) fn new(lease: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            lease,
            ..EmbeddedOptions::default()
        };
        let broker = EmbeddedBroker::open(&directory.path().join("broker"), options).unwrap();
        Self {
            broker: Arc::new(Faulty::new(broker)),
            directory,
        }
    }

    /// A path for jobs to write to.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What a job has written, empty if nothing.
    pub(super) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(super) fn work(&self, id: &str) -> Working {
        self.work_as(Self::options(id))
    }

    /// Serves the queue `default`, four runs at once, and drains for a second.
    pub(super) fn options(id: &str) -> WorkerOptions {
        let queues: Vec<QueueShare> = vec!["default".parse().unwrap()];
        let mut options = WorkerOptions::new(id.to_owned(), queues);
        options.concurrency = 4;
        options.drain_timeout = Duration::from_secs(1);
        options
    }

    pub(super) fn work_as(&self, options: WorkerOptions) -> Working {
        let worker = Worker::new(self.broker.clone(), options).unwrap();
        let (drain, at_once) = (CancellationToken::new(), CancellationToken::new());
        let ended = tokio::spawn(worker.run(drain.clone(), at_once.clone()));
        Working {
            drain,
            at_once,
            ended,
        }
    }

    pub(super) async fn publish(&self, message: &RunMessage) {
        let payload = message.encode().unwrap();
        self.publish_bytes(message, payload).await;
    }

    /// Publishes something else in the place of `message`.
    pub(super) async fn publish_bytes(&self, message: &RunMessage, payload: Vec<u8>) {
        let published = self.broker.publish(Outgoing {
            run_id: message.run_id.clone(),
            queue: message.queue.clone(),
            slot: Slot::Run,
            payload,
        });
        assert_eq!(published.await.unwrap(), Published::Stored);
    }

    /// Publishes and waits for the end.
    pub(super) async fn complete(&self, message: &RunMessage) -> RunRecord {
        self.publish(message).await;
        self.ended(message).await
    }

    pub(super) async fn record(&self, message: &RunMessage) -> Option<RunRecord> {
        let key = message.run_id.key();
        let entry = self.broker.get(Bucket::Runs, &key).await.unwrap()?;
        Some(serde_json::from_slice(&entry.value).unwrap())
    }

    /// Waits until the record satisfies `wanted`.
    pub(super) async fn recorded(
        &self,
        message: &RunMessage,
        what: &str,
        wanted: impl Fn(&RunRecord) -> bool,
    ) -> RunRecord {
        until(what, || async {
            self.record(message).await.filter(&wanted)
        })
        .await
    }

    pub(super) async fn ended(&self, message: &RunMessage) -> RunRecord {
        self.recorded(message, "the end of the run", |record| {
            record.state.is_final()
        })
        .await
    }

    /// Changes the record as somebody else would.
    pub(super) async fn change(&self, message: &RunMessage, change: impl Fn(&mut RunRecord)) {
        let key = message.run_id.key();
        until("a change of the record", || async {
            let entry = self.broker.get(Bucket::Runs, &key).await.unwrap();
            let revision = entry.as_ref().map(|entry| entry.revision);
            let mut record = match entry {
                Some(entry) => serde_json::from_slice(&entry.value).unwrap(),
                None => RunRecord::queued(message),
            };
            change(&mut record);
            let value = serde_json::to_vec(&record).unwrap();
            let set =
                self.broker
                    .compare_and_set(Bucket::Runs, &key, revision, value, Durability::Crash);
            matches!(set.await.unwrap(), orchestrator::broker::Cas::Done(_)).then_some(())
        })
        .await;
    }

    /// Waits until the broker holds no runs any more.
    pub(super) async fn settled(&self) {
        until("an empty broker", || async {
            let pending = self.broker.pending(0, 1).await.unwrap();
            pending.is_empty().then_some(())
        })
        .await;
    }

    pub(super) async fn dead_letters(&self) -> Vec<DeadLetter> {
        let letters = self.broker.dead_letters(None, 100).await.unwrap();
        letters.into_iter().map(|(_, letter)| letter).collect()
    }

    pub(super) async fn log(&self, message: &RunMessage) -> Vec<LogChunk> {
        let chunks = self.broker.read_log(&message.run_id, 0, 10_000).await;
        chunks
            .unwrap()
            .into_iter()
            .map(|(_, chunk)| chunk)
            .collect()
    }

    pub(super) async fn stdout(&self, message: &RunMessage) -> String {
        let chunks = self.log(message).await.into_iter();
        let wanted = chunks.filter(|chunk| chunk.stream == LogStream::Stdout);
        String::from_utf8(wanted.flat_map(|chunk| chunk.bytes).collect()).unwrap()
    }
}
