//! Beats whose clock is hours ahead, and is set right: no job is silent until then.

use std::{task::Context, time::Instant};

use chrono::TimeDelta;
use futures::StreamExt;
use orchestrator::{
    beat::OwnState,
    broker::Change,
    clock::simulated::{World as Clock, within},
};

use super::*;

const JOB: &str = "[job.crawl]\nevery = \"1s\"\noverlap = \"allow\"\nshell = \"true\"\n";
const AHEAD: TimeDelta = TimeDelta::hours(8);

/// The machine's own clock, but for this.
struct Off(TimeDelta);

impl Clock for Off {
    #[allow(clippy::disallowed_methods, reason = "the clock that is off")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.0
    }

    #[allow(clippy::disallowed_methods, reason = "the clock that is off")]
    fn monotonic(&self) -> Instant {
        Instant::now()
    }

    fn uptime(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn random(&self) -> u64 {
        7
    }

    fn stands_still(&self, _: &Context<'_>) -> bool {
        false
    }
}

impl World {
    /// Has a beat whose clock is ahead decide on ticks, and stops it.
    async fn led_ahead(&self, set: &JobSet, own: Option<OwnState>) {
        let clock = Arc::new(Off(AHEAD));
        let options = BeatOptions {
            own,
            ..self.options("ahead")
        };
        let start = Beat::start(Arc::clone(&self.broker), options, set.clone());
        let beat = within(Arc::clone(&clock) as Arc<dyn Clock>, start).await;
        let (_ask, mut reload) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let run = within(clock, beat.unwrap().run(&mut reload, &stop));
        let led = async {
            self.until_committed(now() + AHEAD + TimeDelta::milliseconds(1_200))
                .await;
            stop.cancel();
        };
        tokio::join!(run, led);
    }

    /// Waits until a watermark of a time to come is set back.
    async fn until_set_back(&self) {
        let looking = async {
            let limit = now() + TimeDelta::hours(1);
            while self.get::<Watermark>("watermark").await.at > limit {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, looking).await;
        found.expect("the watermark should be set back");
    }

    /// The run of a tick, which has ended, and of which no message is left.
    async fn ran(&self, job: &Job, tick: DateTime<Utc>) -> RunId {
        let run_id = RunId::for_tick(job.name.clone(), tick);
        let message = RunMessage::new(run_id.clone(), job.queue.clone(), tick, job.spec.clone());
        let mut record = RunRecord::queued(&message);
        record.end(RunState::Succeeded, now(), None);
        let value = serde_json::to_vec(&record).unwrap();
        let key = run_id.key();
        let put = self.broker.put(Bucket::Runs, &key, value);
        put.await.unwrap();
        run_id
    }

    /// Waits until ticks of the next seconds have become runs, each of them.
    async fn goes_on_at_once(&self) {
        let from = now().timestamp() + 1;
        let wanted: Vec<_> = (from..from + 2).collect();
        let mut found = Vec::new();
        let looking = async {
            while found.len() < wanted.len() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let stored = self.broker.pending(0, 1_000).await.unwrap();
                let runs = stored.iter().map(|stored| &stored.payload);
                let ticks = runs.map(|payload| RunMessage::decode(payload).unwrap().scheduled_for);
                let ticks = ticks.map(|tick| tick.timestamp());
                found = ticks.filter(|tick| wanted.contains(tick)).collect();
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(10), looking).await;
        assert!(ended.is_ok(), "only {found:?} of {wanted:?}");
        found.sort_unstable();
        assert_eq!(found, wanted);
        let state: JobState = self.get("job.crawl").await;
        let watermark: Watermark = self.get("watermark").await;
        assert!(watermark.at < now() + TimeDelta::hours(1), "{watermark:?}");
        assert!(
            !state.is_ahead_of(now() + TimeDelta::minutes(1)),
            "{state:?}"
        );
        assert!(state.ledger.missed < 10_000, "{:?}", state.ledger);
    }
}

fn now() -> DateTime<Utc> {
    clock::now()
}

#[tokio::test]
async fn a_job_that_was_known_is_not_silent_for_as_long_as_the_clock_was_ahead() {
    let world = World::new();
    let set = world.jobs(JOB);
    drop(world.beat("before", set.clone()).await);
    world.led_ahead(&set, None).await;
    let ahead: JobState = world.get("job.crawl").await;
    assert!(ahead.ledger.missed > 20_000, "{ahead:?}");
    let _beating = world.beat("right", set).await;
    world.goes_on_at_once().await;
}

#[tokio::test]
async fn a_job_that_was_first_seen_by_a_clock_that_was_ahead_is_not_silent() {
    let world = World::new();
    let set = world.jobs(JOB);
    world.led_ahead(&set, None).await;
    let _beating = world.beat("right", set).await;
    world.goes_on_at_once().await;
}

/// The beat whose clock was ahead came no further than the state of a job: the watermark is right.
#[tokio::test]
async fn a_state_alone_that_lies_ahead_silences_no_job() {
    let world = World::new();
    let set = world.jobs(JOB);
    let job = set.get(&"crawl".parse().unwrap()).unwrap();
    let ahead = now() + AHEAD;
    let state = JobState::first_seen(job, ahead, ahead);
    world.put("job.crawl", &state).await;
    let watermark = Watermark {
        at: now(),
        next: None,
        beat: "ahead".to_owned(),
        set_back_from: None,
    };
    world.put("watermark", &watermark).await;
    let _beating = world.beat("right", set).await;
    world.goes_on_at_once().await;
}

/// What a beat kept when its clock was ahead does not stand against what another one wrote since.
#[tokio::test]
async fn an_own_copy_of_a_time_to_come_is_not_believed() {
    let world = World::new();
    let set = world.jobs(JOB);
    let kept = world.directory.path().join("own");
    world
        .led_ahead(&set, Some(OwnState::open(&kept).unwrap()))
        .await;
    let beating = world.beat("right", set.clone()).await;
    world.goes_on_at_once().await;
    drop(beating);
    let mut watermarks = world
        .broker
        .watch(Bucket::State, "watermark")
        .await
        .unwrap();
    let options = BeatOptions {
        own: Some(OwnState::open(&kept).unwrap()),
        ..world.options("ahead")
    };
    let beat = Beat::start(Arc::clone(&world.broker), options, set).await;
    let _beating = Beating::begin(beat.unwrap());
    world.goes_on_at_once().await;
    drop(
        world
            .broker
            .put(Bucket::State, "watermark-seen", Vec::new())
            .await,
    );
    while let Some(Ok(Change::Put(entry))) = watermarks.next().await {
        if entry.key != "watermark" {
            break;
        }
        let moved: Watermark = serde_json::from_slice(&entry.value).unwrap();
        assert!(moved.at < now() + TimeDelta::hours(1), "{moved:?}");
    }
}

/// Also by a beat that took over since: what ran stays so, and is not published again, which would be a copy of a signed
/// message.
#[tokio::test]
async fn ticks_that_a_clock_which_was_ahead_had_run_are_not_published_again() {
    let world = World::new();
    let set = world.jobs(JOB);
    let job = set.get(&"crawl".parse().unwrap()).unwrap();
    let state = JobState::first_seen(job, now(), now());
    world.put("job.crawl", &state).await;
    let watermark = Watermark {
        at: now() + AHEAD,
        next: None,
        beat: "ahead".to_owned(),
        set_back_from: None,
    };
    world.put("watermark", &watermark).await;
    let second = |n: i64| DateTime::from_timestamp(now().timestamp() + n, 0).unwrap();
    let ticks = [second(3), second(4), second(5), second(6)];
    let ran = [
        world.ran(job, ticks[0]).await,
        world.ran(job, ticks[1]).await,
    ];
    let waits = RunId::for_tick(job.name.clone(), ticks[2]);
    world.publish(job, &waits, ticks[2]).await;
    let beating = world.beat("right", set.clone()).await;
    world.until_set_back().await;
    drop(beating);
    let _beating = world.beat("next", set.clone()).await;
    world.until_committed(ticks[3]).await;
    let fresh = RunId::for_tick(job.name.clone(), ticks[3]);
    let mut found = Vec::new();
    for run in [&ran[0], &ran[1], &waits, &fresh] {
        found.push(world.messages(run).await);
    }
    assert_eq!(found, [0, 0, 1, 1]);
    let state: JobState = world.get("job.crawl").await;
    for tick in ticks {
        assert_eq!(state.ledger.on(tick), None);
    }
}
