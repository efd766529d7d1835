//! Beat on the embedded broker: what it makes of the state that it finds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[cfg(feature = "simulation")]
#[path = "beat/clock.rs"]
mod clock_ahead;
#[path = "support/listener.rs"]
mod listener;
#[path = "beat/reload.rs"]
mod reload;
#[path = "beat/repeated.rs"]
mod repeated;
#[path = "beat/webhooks.rs"]
mod webhooks;

use std::{path::PathBuf, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use orchestrator::{
    beat::{Beat, BeatOptions, ReloadCause},
    broker::{
        Bucket, Cas, Durability, Outgoing, Published, SharedBroker, Slot,
        embedded::{EmbeddedBroker, EmbeddedOptions},
    },
    clock,
    job::Job,
    plan::{JobState, SkipReason, Verdict, Watermark},
    run::{RunId, RunMessage, RunRecord, RunRequest, RunState},
    schedules::{self, JobSet},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Only bounds how long a failing test hangs.
const PATIENCE: Duration = Duration::from_secs(90);

struct World {
    directory: tempfile::TempDir,
    broker: SharedBroker,
}

/// A beat at work; told to stop when dropped.
struct Beating {
    stop: CancellationToken,
    reload: mpsc::Sender<ReloadCause>,
    _ended: JoinHandle<()>,
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Beating {
    fn begin(beat: Beat) -> Self {
        let (sender, mut reload) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        Beating {
            _ended: tokio::spawn(async move { beat.run(&mut reload, &stopped).await }),
            reload: sender,
            stop,
        }
    }
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("broker");
        let broker = EmbeddedBroker::open(&path, EmbeddedOptions::default()).unwrap();
        Self { directory, broker }
    }

    fn jobs(&self, text: &str) -> JobSet {
        let file = self.file();
        std::fs::write(&file, text).unwrap();
        schedules::load(&[file], clock::now()).unwrap().set
    }

    async fn put(&self, key: &str, value: &impl serde::Serialize) {
        let value = serde_json::to_vec(value).unwrap();
        self.broker.put(Bucket::State, key, value).await.unwrap();
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, key: &str) -> T {
        let entry = self.broker.get(Bucket::State, key).await.unwrap().unwrap();
        serde_json::from_slice(&entry.value).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("jobs.toml")
    }

    async fn beat(&self, id: &str, set: JobSet) -> Beating {
        Beating::begin(self.start(id, set).await)
    }

    fn options(&self, id: &str) -> BeatOptions {
        BeatOptions {
            id: id.to_owned(),
            schedules: vec![self.file()],
            own: None,
            keep_verdicts: Duration::from_secs(7 * 86_400),
            leader_lease: None,
            ping: None,
            credentials: None,
            pulse: orchestrator::health::Pulse::unwatched("beat"),
        }
    }

    /// A beat that has taken over `set` and does not work yet.
    async fn start(&self, id: &str, set: JobSet) -> Beat {
        let beat = Beat::start(Arc::clone(&self.broker), self.options(id), set).await;
        beat.unwrap()
    }

    async fn publish(&self, job: &Job, run_id: &RunId, at: DateTime<Utc>) -> RunMessage {
        let request = RunRequest {
            run_id: run_id.clone(),
            scheduled_for: at,
            published_at: at,
            not_before: None,
            last_success: None,
            args: serde_json::Map::new(),
            parent: None,
        };
        let message = RunMessage::for_job(job, request);
        let published = self.broker.publish(Outgoing {
            run_id: run_id.clone(),
            queue: job.queue.clone(),
            slot: Slot::under(job.policy.overlap)[0],
            payload: message.encode().unwrap(),
        });
        assert_eq!(published.await.unwrap(), Published::Stored);
        message
    }

    async fn until_committed(&self, to: DateTime<Utc>) {
        let looking = async {
            loop {
                let watermark: Watermark = self.get("watermark").await;
                if watermark.next.is_none() && watermark.at >= to {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, looking).await;
        found.expect("the step should be committed");
    }
}

fn whole_minute(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(at.timestamp() / 60 * 60, 0).unwrap()
}

/// A beat has announced the step to a tick of a job, and nothing more.
async fn announced_by(beat: &str) -> (World, JobSet, DateTime<Utc>) {
    let world = World::new();
    let set = world.jobs("[job.crawl]\nevery = \"1m\"\nshell = \"true\"\n");
    let job = set.get(&"crawl".parse().unwrap()).unwrap();
    let tick = whole_minute(clock::now());
    let before = tick - chrono::Duration::seconds(30);
    let announced = Watermark {
        at: before,
        next: Some(tick),
        beat: beat.to_owned(),
        set_back_from: None,
    };
    world.put("watermark", &announced).await;
    let state = JobState::first_seen(job, before, before);
    world.put("job.crawl", &state).await;
    (world, set, tick)
}

/// A step was announced, its run published and executed; then beat died. When it comes back the
/// broker has forgotten the run's id, and another run is in its slot.
#[tokio::test]
async fn a_step_that_is_repeated_late_does_not_call_its_own_run_skipped() {
    let (world, set, tick) = announced_by("dead").await;
    let job = set.get(&"crawl".parse().unwrap()).unwrap();
    let in_the_way = RunId::manual(job.name.clone(), uuid::Uuid::now_v7());
    let other = world.publish(job, &in_the_way, tick).await;
    let mut record = RunRecord::queued(&RunMessage {
        run_id: RunId::for_tick(job.name.clone(), tick),
        ..other
    });
    record.end(RunState::Succeeded, tick, None);
    let value = serde_json::to_vec(&record).unwrap();
    let key = record.run_id.key();
    world.broker.put(Bucket::Runs, &key, value).await.unwrap();
    let _beating = world.beat("b", set).await;
    world.until_committed(tick).await;
    let after: JobState = world.get("job.crawl").await;
    let wrong = after.ledger.notes.iter().find(|note| note.first == tick);
    assert_eq!(wrong, None);
}

/// A step was announced by a beat that stood still in the middle of it; another one repeats it. Whatever the first
/// still has on its way finds another version, also of what the second had nothing to say about.
#[tokio::test]
async fn nothing_that_an_overtaken_beat_has_on_its_way_is_taken() {
    let (world, set, tick) = announced_by("frozen").await;
    let mut known = Vec::new();
    for key in ["watermark", "job.crawl"] {
        let entry = world.broker.get(Bucket::State, key).await.unwrap();
        known.push((key, entry.unwrap().revision));
    }
    let _beating = world.beat("b", set).await;
    world.until_committed(tick).await;
    for (key, revision) in known {
        let late = world.broker.compare_and_set(
            Bucket::State,
            key,
            Some(revision),
            b"{}".to_vec(),
            Durability::Crash,
        );
        assert_eq!(late.await.unwrap(), Cas::Conflict, "{key}");
    }
}

/// What is known of a job that was removed from the schedules is kept for a while, with its pause, and then forgotten.
#[tokio::test]
async fn a_job_that_is_gone_is_remembered_for_seven_days() {
    let world = World::new();
    let text = "[job.one]\nevery = \"20h\"\nfirst_run = \"now\"\nshell = \"true\"\n";
    let two = text.replace("one", "two");
    let set = world.jobs(&format!("{text}{two}"));
    let now = clock::now();
    let watermark = Watermark {
        at: now,
        next: None,
        beat: "before".to_owned(),
        set_back_from: None,
    };
    world.put("watermark", &watermark).await;
    for (name, days) in [("one", 6), ("two", 8)] {
        let job = set.get(&name.parse().unwrap()).unwrap();
        let then = now - chrono::Duration::days(days);
        let state = JobState::first_seen(job, then, then);
        let state = state.gone(then).unwrap();
        world.put(&format!("job.{name}"), &state).await;
        world
            .put(
                &format!("pause.{name}"),
                &serde_json::json!({ "since": then }),
            )
            .await;
    }
    let other = world.jobs("[job.other]\nevery = \"1h\"\nshell = \"true\"\n");
    drop(world.start("b", other).await);
    for (name, is_kept) in [("one", true), ("two", false)] {
        for key in [format!("job.{name}"), format!("pause.{name}")] {
            let found = world.broker.get(Bucket::State, &key).await.unwrap();
            assert_eq!(found.is_some(), is_kept, "{key}");
        }
    }
    let beating = world.beat("c", set).await;
    let one: JobState = world.get("job.one").await;
    assert_eq!(one.gone_since, None);
    let first = one.first_run_at.unwrap();
    assert!(first < now, "it had its first run: {first}");
    let two: JobState = world.get("job.two").await;
    assert!(two.first_seen >= now, "it is new");
    drop(beating);
}
