//! A step that is repeated late: what has changed since it was announced.

use chrono::TimeDelta;

use super::*;

const MOVED: &str = "[job.crawl]\nevery = \"1m\"\nqueue = \"new\"\nshell = \"true\"\n";
const LOOSENED: &str = "[job.crawl]\nevery = \"1m\"\noverlap = \"allow\"\nshell = \"true\"\n";
const SKIPPING: &str = "[job.crawl]\nevery = \"1m\"\ncatch_up = \"skip\"\nshell = \"true\"\n";

impl World {
    /// Stores the run of `tick` as it was stored so long ago that the broker has forgotten its id.
    async fn stored_long_ago(&self, job: &Job, tick: DateTime<Utc>) -> RunId {
        let run_id = RunId::for_tick(job.name.clone(), tick);
        let request = RunRequest {
            run_id: run_id.clone(),
            scheduled_for: tick,
            published_at: tick,
            not_before: None,
            last_success: None,
            args: serde_json::Map::new(),
            parent: None,
        };
        let published = self.broker.publish(Outgoing {
            run_id: RunId::manual(job.name.clone(), uuid::Uuid::now_v7()),
            queue: job.queue.clone(),
            slot: Slot::under(job.policy.overlap)[0],
            payload: RunMessage::for_job(job, request).encode().unwrap(),
        });
        assert_eq!(published.await.unwrap(), Published::Stored);
        run_id
    }

    /// How many messages of `run` there are.
    pub(super) async fn messages(&self, run: &RunId) -> usize {
        let stored = self.broker.pending(0, 100).await.unwrap();
        let runs = stored.iter().map(|stored| &stored.payload);
        let runs = runs.map(|payload| RunMessage::decode(payload).unwrap().run_id);
        runs.filter(|id| id == run).count()
    }

    /// A beat has announced the step to a tick that is a minute old at least, and nothing more.
    async fn announced_late(&self, set: &JobSet) -> DateTime<Utc> {
        let job = set.get(&"crawl".parse().unwrap()).unwrap();
        let tick = whole_minute(clock::now()) - TimeDelta::minutes(2);
        let before = tick - TimeDelta::seconds(30);
        let announced = Watermark {
            at: before,
            next: Some(tick),
            beat: "dead".to_owned(),
            set_back_from: None,
        };
        self.put("watermark", &announced).await;
        let state = JobState::first_seen(job, before, before);
        self.put("job.crawl", &state).await;
        tick
    }

    /// The verdict on a tick of which no run was made.
    async fn verdict(&self, tick: DateTime<Utc>) -> Option<(Verdict, Option<SkipReason>)> {
        let after: JobState = self.get("job.crawl").await;
        let note = after.ledger.on(tick)?;
        Some((note.verdict, note.reason))
    }
}

/// Its run was published; then its job was edited, and the step is repeated.
async fn finds_its_run_after(edit: &str) {
    let (world, set, tick) = announced_by("dead").await;
    let job = set.get(&"crawl".parse().unwrap()).unwrap();
    let run = world.stored_long_ago(job, tick).await;
    let _beating = world.beat("b", world.jobs(edit)).await;
    world.until_committed(tick).await;
    assert_eq!(world.messages(&run).await, 1);
    assert_eq!(world.verdict(tick).await, None);
}

#[tokio::test]
async fn a_run_in_a_queue_that_its_job_has_left_is_not_published_again() {
    finds_its_run_after(MOVED).await;
}

#[tokio::test]
async fn a_run_in_a_slot_of_another_overlap_is_not_published_again() {
    finds_its_run_after(LOOSENED).await;
}

#[tokio::test]
async fn a_tick_that_is_to_be_skipped_when_late_is_not_run_late() {
    let world = World::new();
    let set = world.jobs(SKIPPING);
    let tick = world.announced_late(&set).await;
    let run = RunId::for_tick("crawl".parse().unwrap(), tick);
    let _beating = world.beat("b", set).await;
    world.until_committed(tick).await;
    assert_eq!(world.messages(&run).await, 0);
    assert_eq!(world.verdict(tick).await, Some((Verdict::Missed, None)));
}

#[tokio::test]
async fn a_tick_that_was_run_in_time_is_not_called_late() {
    let world = World::new();
    let set = world.jobs(SKIPPING);
    let tick = world.announced_late(&set).await;
    let job = set.get(&"crawl".parse().unwrap()).unwrap();
    let run = world.stored_long_ago(job, tick).await;
    let _beating = world.beat("b", set).await;
    world.until_committed(tick).await;
    assert_eq!(world.messages(&run).await, 1);
    assert_eq!(world.verdict(tick).await, None);
}

#[tokio::test]
async fn what_would_start_in_a_blackout_is_not_run() {
    let world = World::new();
    let (now, second) = (clock::now(), "%FT%TZ");
    let from = (now - TimeDelta::seconds(30)).format(second);
    let to = (now + TimeDelta::minutes(30)).format(second);
    let set = world.jobs(&format!(
        "[blackout.now]\nfrom = \"{from}\"\nto = \"{to}\"\n\
         [job.crawl]\nevery = \"1m\"\nblackout = \"now\"\nshell = \"true\"\n"
    ));
    let tick = world.announced_late(&set).await;
    let run = RunId::for_tick("crawl".parse().unwrap(), tick);
    let _beating = world.beat("b", set).await;
    world.until_committed(tick).await;
    assert_eq!(world.messages(&run).await, 0);
    let blackout = Some(SkipReason::Blackout);
    assert_eq!(
        world.verdict(tick).await,
        Some((Verdict::Skipped, blackout))
    );
}
