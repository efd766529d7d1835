//! Webhooks are told of all that happens from the moment on when the jobs are in force.

use orchestrator::{
    clock,
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
