//! Webhooks are told of all that happens from the moment on when the jobs are in force.

use std::sync::atomic::{AtomicBool, Ordering};

use orchestrator::{
    broker::Bucket,
    clock,
    plan::{Briefing, Leader, Told},
    run::{LastRun, RunId, RunState},
};

use super::{Beating, PATIENCE, World, listener::Listener};

fn jobs(url: &str) -> String {
    format!(
        "[job.a]\ncommand = [\"false\"]\nevery = \"1h\"\n\
         [notify.ops]\nurl = \"{url}/ops\"\non = [\"failed\"]\n"
    )
}

fn failed() -> LastRun {
    let now = clock::now();
    LastRun {
        run_id: RunId::for_tick("a".parse().unwrap(), now),
        state: RunState::Failed,
        scheduled_for: now,
        started_at: Some(now),
        finished_at: Some(now),
        exit: Some("code 1".to_owned()),
        last_success: None,
    }
}

/// Waits for what a look finds.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, looking).await;
    found.unwrap_or_else(|_| panic!("{what} did not come"))
}

/// A worker that waits runs what beat fires at once, before anybody was sent to the webhooks.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_the_first_moment_is_told() {
    let listener = Listener::start(|_, _| "200 OK");
    let world = World::new();
    let set = world.jobs(&jobs(&listener.url));
    let beat = world.start("b", set).await;
    world.put("last.a", &failed()).await;
    let _beating = Beating::begin(beat);
    let heard = until("a message", async || listener.heard().into_iter().next()).await;
    assert_eq!(heard.path, "/ops");
    assert!(heard.headers["webhook-id"].starts_with("msg_"), "{heard:?}");
    assert!(heard.body.contains("\"event\":\"failed\""), "{heard:?}");
}

/// What a clock that was ahead noted of a webhook does not silence it until then.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_was_briefed_by_a_clock_that_was_ahead_is_told() {
    let listener = Listener::start(|_, _| "200 OK");
    let world = World::new();
    let set = world.jobs(&jobs(&listener.url));
    let ahead = clock::now() + chrono::TimeDelta::hours(8);
    let briefing = Briefing {
        since: ahead,
        last_letter: 0,
    };
    let told = Told {
        missed_until: Some(ahead),
        ..Told::default()
    };
    world.put("told.ops", &briefing).await;
    world.put("told.ops.a", &told).await;
    let beat = world.start("b", set).await;
    world.put("last.a", &failed()).await;
    let _beating = Beating::begin(beat);
    let heard = until("a message", async || listener.heard().into_iter().next()).await;
    assert!(heard.body.contains("\"event\":\"failed\""), "{heard:?}");
    let limit = clock::now() + chrono::TimeDelta::minutes(1);
    until("its briefing", async || {
        let kept: Briefing = world.get("told.ops").await;
        let told: Told = world.get("told.ops.a").await;
        (kept.since < limit && told.missed_until < Some(limit)).then_some(())
    })
    .await;
}

/// Whether the receiver of the test below takes messages.
static IS_WELL: AtomicBool = AtomicBool::new(false);

#[tokio::test(flavor = "multi_thread")]
async fn the_heartbeat_names_webhooks_that_fail() {
    let listener = Listener::start(|_, _| match IS_WELL.load(Ordering::SeqCst) {
        true => "200 OK",
        false => "503 Service Unavailable",
    });
    let world = World::new();
    let set = world.jobs(&jobs(&listener.url));
    let beat = world.start("b", set).await;
    world.put("last.a", &failed()).await;
    let _beating = Beating::begin(beat);
    let leader = async || {
        let entry = world.broker.get(Bucket::State, "leader").await.unwrap();
        entry.map(|entry| serde_json::from_slice::<Leader>(&entry.value).unwrap())
    };
    let told = until("a failing webhook", async || {
        leader().await?.failing_webhooks.into_iter().next()
    });
    let told = told.await;
    assert_eq!(told.webhook.as_str(), "ops");
    IS_WELL.store(true, Ordering::SeqCst);
    until("its recovery", async || {
        leader().await?.failing_webhooks.is_empty().then_some(())
    })
    .await;
    assert!(listener.heard().iter().any(|heard| heard.accepted));
}
