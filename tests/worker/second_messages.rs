//! Another message of a run that is being executed: its lease says nothing of the holder's.

use std::time::Duration;

use chrono::TimeDelta;
use orchestrator::{
    broker::{Broker, Bucket},
    clock,
    run::{AttemptEnd, Claimant, DeliveryMark, RunMessage, RunRecord, RunState},
    worker::WorkerOptions,
};
use serde_json::json;

use super::{
    bench::{Bench, SHORT, message, shell, until},
    faulty::Op,
    leases::{KEPT, RUN, held, program},
};

/// Another message of `run`, in a queue of its own: its lease says nothing of the first one's.
async fn published_again(bench: &Bench, run: &RunMessage) {
    let again = RunMessage {
        queue: "moved".parse().unwrap(),
        ..run.clone()
    };
    let other = message("crawl@20261123T033000Z", "moved", run.spec.clone());
    bench.publish_bytes(&other, again.encode().unwrap()).await;
}

fn serving_moved(id: &str) -> WorkerOptions {
    WorkerOptions::new(id.to_owned(), vec!["moved".parse().unwrap()])
}

#[tokio::test]
async fn another_message_of_a_run_waits_as_long_as_its_holder_lives() {
    let bench = Bench::new(KEPT);
    let _first = bench.work("w1");
    let script = format!("echo x >> {}; sleep 5", bench.path("ran").display());
    let run = message(RUN, "default", shell(&script));
    bench.publish(&run).await;
    until("the program", || async {
        (bench.text("ran") == "x\n").then_some(())
    })
    .await;
    let _second = bench.work_as(serving_moved("w2"));
    published_again(&bench, &run).await;
    let record = bench.ended(&run).await;
    assert_eq!((record.state, record.fence), (RunState::Succeeded, 1));
    bench.settled().await;
    assert_eq!(bench.text("ran"), "x\n", "it was executed once");
}

/// A run that the worker `gone` holds by a message that is gone.
async fn held_by_one_that_is_gone(bench: &Bench) -> RunMessage {
    let script = format!("echo x >> {}", bench.path("ran").display());
    let run = message(RUN, "default", shell(&script));
    let by = Claimant {
        worker: "gone".to_owned(),
        delivery: DeliveryMark {
            sequence: 77,
            count: 1,
        },
        at: clock::now(),
    };
    let held = RunRecord::queued(&run).claim(&by, None, 3).unwrap().record;
    let value = serde_json::to_vec(&held).unwrap();
    let key = run.run_id.key();
    bench.broker.put(Bucket::Runs, &key, value).await.unwrap();
    run
}

/// The worker `gone` says that it executes `run`, by a clock that is an hour `ahead`.
async fn says_that_it_executes(bench: &Bench, run: &RunMessage, ahead: i64) {
    let now = clock::now() + TimeDelta::hours(ahead);
    let status = json!({
        "id": "gone", "host": "h", "pid": 1, "queues": ["default"], "concurrency": 1, "running": [run.run_id],
        "started_at": now, "seen_at": now, "draining": false, "silence": 2.0,
    });
    let value = status.to_string().into_bytes();
    let told = bench.broker.put(Bucket::Workers, "gone", value).await;
    told.unwrap();
}

async fn is_taken_over(bench: &Bench, run: &RunMessage) {
    let record = bench.ended(run).await;
    assert_eq!((record.state, record.fence), (RunState::Succeeded, 2));
    assert_eq!(record.attempts[0].end, Some(AttemptEnd::Lost));
}

#[tokio::test]
async fn another_message_of_a_run_stands_for_one_that_is_gone() {
    let bench = Bench::new(SHORT);
    let run = held_by_one_that_is_gone(&bench).await;
    let _second = bench.work_as(serving_moved("w2"));
    published_again(&bench, &run).await;
    is_taken_over(&bench, &run).await;
}

/// Its holder's last word is forgotten after a minute only.
#[tokio::test]
async fn another_message_of_a_run_waits_for_a_dead_holder_no_longer_than_for_its_lease() {
    let bench = Bench::new(KEPT);
    let run = held_by_one_that_is_gone(&bench).await;
    let _second = bench.work_as(serving_moved("w2"));
    published_again(&bench, &run).await;
    // Alive for three leases, as seen by a broker and not by a clock.
    for word in 0..45 {
        says_that_it_executes(&bench, &run, [-1, 0, 1][word % 3]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let record = bench.record(&run).await.unwrap();
        assert_eq!((record.state, record.fence), (RunState::Running, 1));
    }
    let died = clock::monotonic();
    is_taken_over(&bench, &run).await;
    let waited = clock::monotonic() - died;
    assert!(waited < Duration::from_secs(25), "{waited:?}");
}

#[tokio::test]
async fn a_holder_that_nobody_can_see_stops_when_another_message_of_its_run_is_claimed() {
    let bench = Bench::new(KEPT);
    let (_first, run) = held(&bench).await;
    let old = program(&bench, 1).await;
    until("its word", || async {
        let told = bench.broker.get(Bucket::Workers, "w1").await.unwrap();
        told.is_some().then_some(())
    })
    .await;
    bench.broker.fail(Op::Status, usize::MAX);
    let _second = bench.work_as(serving_moved("w2"));
    published_again(&bench, &run).await;
    let new = program(&bench, 2).await;
    until("the end of the old program", || async {
        (!old.exists()).then_some(())
    })
    .await;
    assert!(new.exists());
}
