//! What is recorded of a run.

use std::time::Duration;

use orchestrator::{
    broker::{Broker, Bucket},
    job::Seconds,
    ops,
    run::{
        AttemptEnd, CANCEL_PREFIX, Claimant, DeliveryMark, Exit, LastRun, RunId, RunMessage,
        RunState,
    },
};
use serde_json::json;

use super::{
    bench::{Bench, LONG, SHORT, join, message, retried, shell},
    faulty::Op,
};

const BY_HAND: &str = "page@01936b2e-7c1a-7d54-8a3f-0123456789ab";
const BY_HAND_TOO: &str = "page@01936b2e-7c1a-7d54-8a3f-0123456789ac";
const TICK: &str = "crawl@20261123T023000Z";

#[tokio::test]
async fn a_success_is_recorded_whole() {
    let bench = Bench::new(LONG);
    let working = bench.work("w1");
    let mut spec = shell("cat; echo '{\"pages\": 2}' > $ORCHESTRATOR_RESULT");
    spec.args.insert("depth".to_owned(), json!(3));
    let run = message(BY_HAND, "default", spec);
    let record = bench.complete(&run).await;
    assert_eq!(record.state, RunState::Succeeded);
    assert_eq!(record.result, Some(json!({"pages": 2})));
    assert_eq!(
        (record.attempts_used, record.crashes, record.fence),
        (1, 0, 1)
    );
    let attempt = &record.attempts[0];
    assert_eq!((attempt.number, attempt.worker.as_str()), (1, "w1"));
    assert_eq!(attempt.end, Some(AttemptEnd::Succeeded));
    assert_eq!(attempt.exit, Some(Exit::Code(0)));
    assert!(record.started_at.unwrap() <= record.finished_at.unwrap());
    assert_eq!(bench.stdout(&run).await, "{\"depth\":3}");
    bench.settled().await;
    working.drain.cancel();
    join(working).await;
}

#[tokio::test]
async fn failures_are_retried_and_end_as_a_dead_letter() {
    let bench = Bench::new(LONG);
    let _working = bench.work("w1");
    let run = message(TICK, "default", retried(shell("exit 4"), 3));
    let record = bench.complete(&run).await;
    assert_eq!(record.state, RunState::Dead);
    assert_eq!((record.attempts_used, record.crashes), (3, 0));
    let numbers: Vec<_> = record.attempts.iter().map(|a| a.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    let gaps = record.attempts.windows(2).map(|pair| {
        let ended = pair[0].finished_at.unwrap();
        (pair[1].started_at - ended).to_std().unwrap()
    });
    // The delay of 50 ms, a tenth of jitter aside.
    assert!(gaps.into_iter().all(|gap| gap >= Duration::from_millis(44)));
    bench.settled().await;
    let letters = bench.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].run_id.as_ref(), Some(&run.run_id));
    assert_eq!(letters[0].payload, run.encode().unwrap());
    assert!(
        letters[0].reason.contains("exit 4"),
        "{}",
        letters[0].reason
    );
}

#[tokio::test]
async fn a_timeout_is_told_apart_from_a_failure() {
    let bench = Bench::new(LONG);
    let _working = bench.work("w1");
    let mut spec = shell("exec sleep 60");
    spec.timeout = Some(Seconds::new(Duration::from_millis(200)));
    let record = bench.complete(&message(BY_HAND, "default", spec)).await;
    assert_eq!(record.state, RunState::Failed);
    assert_eq!(record.attempts[0].end, Some(AttemptEnd::TimedOut));
    assert_eq!(record.attempts[0].exit, Some(Exit::Signal(15)));
}

#[tokio::test]
async fn what_cannot_start_names_what_is_missing() {
    let bench = Bench::new(LONG);
    let _working = bench.work("w1");
    let mut spec = shell("true");
    spec.working_dir = Some("/no/such/directory".into());
    let record = bench.complete(&message(BY_HAND, "default", spec)).await;
    assert_eq!(record.state, RunState::Failed);
    let reason = record.reason.unwrap();
    assert!(reason.contains("/no/such/directory"), "{reason}");
}

#[tokio::test]
async fn a_run_is_cancelled_while_it_is_executed() {
    let bench = Bench::new(LONG);
    let _working = bench.work("w1");
    let run = message(BY_HAND, "default", retried(shell("exec sleep 60"), 3));
    bench.publish(&run).await;
    bench
        .recorded(&run, "a start", |r| r.state == RunState::Running)
        .await;
    ops::cancel(bench.broker.as_ref(), &run.run_id)
        .await
        .unwrap();
    let record = bench.ended(&run).await;
    assert_eq!(record.state, RunState::Cancelled);
    assert_eq!(record.attempts[0].end, Some(AttemptEnd::Cancelled));
    bench.settled().await;
}

/// Asks for the end of a run in its record, and is gone before its worker is told.
async fn cancel_half(bench: &Bench, run: &RunMessage) {
    bench
        .recorded(run, "a start", |r| r.state == RunState::Running)
        .await;
    bench
        .change(run, |record| {
            record.request_cancel(orchestrator::clock::now(), None);
        })
        .await;
}

#[tokio::test]
async fn a_second_cancel_tells_the_worker_again() {
    let bench = Bench::new(LONG);
    let _working = bench.work("w1");
    let run = message(BY_HAND, "default", shell("exec sleep 60"));
    bench.publish(&run).await;
    cancel_half(&bench, &run).await;
    let record = ops::cancel(bench.broker.as_ref(), &run.run_id).await;
    assert_eq!(record.unwrap().state, RunState::Running);
    assert_eq!(bench.ended(&run).await.state, RunState::Cancelled);
}

/// The key that tells a worker can be written by more than may cancel: the record decides.
#[tokio::test]
async fn a_worker_that_is_told_of_a_cancel_looks_into_the_record() {
    let bench = Bench::new(LONG);
    let _working = bench.work("w1");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("told");
    let waits = format!("until test -e {}; do sleep 0.02; done", file.display());
    let run = message(BY_HAND, "default", shell(&waits));
    bench.publish(&run).await;
    let other = message(BY_HAND_TOO, "default", shell("exec sleep 60"));
    bench.publish(&other).await;
    for run in [&run, &other] {
        bench
            .recorded(run, "a start", |r| r.state == RunState::Running)
            .await;
    }
    let key = format!("{CANCEL_PREFIX}{}", run.run_id.key());
    let told = bench.broker.put(Bucket::Workers, &key, Vec::new()).await;
    told.unwrap();
    // Told behind it.
    ops::cancel(bench.broker.as_ref(), &other.run_id)
        .await
        .unwrap();
    assert_eq!(bench.ended(&other).await.state, RunState::Cancelled);
    std::fs::write(&file, "").unwrap();
    assert_eq!(bench.ended(&run).await.state, RunState::Succeeded);
}

#[tokio::test]
async fn a_worker_that_was_not_told_of_a_cancel_finds_it_in_the_record() {
    let bench = Bench::new(LONG);
    bench.broker.fail(Op::Watch, usize::MAX);
    let _working = bench.work("w1");
    let run = message(BY_HAND, "default", shell("exec sleep 60"));
    bench.publish(&run).await;
    cancel_half(&bench, &run).await;
    bench.broker.fail(Op::Watch, 0);
    assert_eq!(bench.ended(&run).await.state, RunState::Cancelled);
}

#[tokio::test]
async fn a_cancel_during_an_outage_is_seen_after_it() {
    let bench = Bench::new(SHORT);
    let _working = bench.work("w1");
    let run = message(BY_HAND, "default", shell("exec sleep 60"));
    bench.broker.fail(Op::Renew, usize::MAX);
    bench.publish(&run).await;
    cancel_half(&bench, &run).await;
    // Nothing was renewed: it comes again after its lease, and with it the record is read.
    assert_eq!(bench.ended(&run).await.state, RunState::Cancelled);
}

#[tokio::test]
async fn a_repeat_of_a_run_that_has_ended_is_dropped() {
    let bench = Bench::new(LONG);
    let marker = bench.path("ran");
    let script = format!("touch {}", marker.display());
    let run = message(BY_HAND, "default", shell(&script));
    let at = orchestrator::clock::now();
    bench
        .change(&run, |record| record.end(RunState::Succeeded, at, None))
        .await;
    bench.publish(&run).await;
    let _working = bench.work("w1");
    bench.settled().await;
    assert!(!marker.exists());
    assert_eq!(bench.record(&run).await.unwrap().attempts, []);
}

#[tokio::test]
async fn a_retry_that_arrives_early_is_put_off() {
    let bench = Bench::new(LONG);
    let run = message(BY_HAND, "default", retried(shell("true"), 3));
    let due = orchestrator::clock::now() + Duration::from_millis(800);
    bench
        .change(&run, |record| record.put_off(RunState::Retrying, Some(due)))
        .await;
    bench.publish(&run).await;
    let _working = bench.work("w1");
    let record = bench.ended(&run).await;
    assert!(record.attempts[0].started_at >= due);
}

/// A clock that was ahead published one, and recorded the failure of the other; then it was set right.
#[tokio::test]
async fn what_a_clock_that_was_ahead_put_off_does_not_wait_until_then() {
    let bench = Bench::new(LONG);
    let ahead = orchestrator::clock::now() + Duration::from_secs(8 * 3600);
    let tick = RunId::for_tick("crawl".parse().unwrap(), ahead);
    let early = RunMessage {
        not_before: tick.tick().map(|tick| tick + Duration::from_millis(300)),
        ..message(&tick.to_string(), "default", shell("true"))
    };
    let retried = message(BY_HAND, "default", retried(shell("true"), 3));
    let by = Claimant {
        worker: "ahead".to_owned(),
        delivery: DeliveryMark {
            sequence: 2,
            count: 0,
        },
        at: ahead,
    };
    bench
        .change(&retried, |record| {
            *record = record.clone().claim(&by, None, 3).unwrap().record;
            record.close_attempt(ahead, AttemptEnd::Failed, None);
            record.put_off(RunState::Retrying, Some(ahead + Duration::from_secs(1)));
        })
        .await;
    bench.publish(&early).await;
    bench.publish(&retried).await;
    let _working = bench.work("w1");
    for run in [&early, &retried] {
        assert_eq!(bench.ended(run).await.state, RunState::Succeeded);
    }
}

#[tokio::test]
async fn the_last_run_of_a_job_with_ticks_is_remembered() {
    let bench = Bench::new(LONG);
    let _working = bench.work("w1");
    let by_hand = message(BY_HAND, "default", shell("true"));
    let tick = message(TICK, "default", shell("true"));
    bench.complete(&by_hand).await;
    bench.complete(&tick).await;
    bench.settled().await;
    let last = async |job: &str| {
        let key = format!("last.{job}");
        bench.broker.get(Bucket::State, &key).await.unwrap()
    };
    let entry = last("crawl").await.unwrap();
    let remembered: LastRun = serde_json::from_slice(&entry.value).unwrap();
    assert_eq!(remembered.run_id, tick.run_id);
    assert_eq!(remembered.last_success.unwrap().run_id, tick.run_id);
    assert_eq!(last("page").await, None, "on-demand jobs do not pay for it");
}

#[tokio::test]
async fn a_message_that_nobody_understands_is_buried() {
    let bench = Bench::new(LONG);
    let good = message(TICK, "default", shell("true"));
    let bad = message(BY_HAND, "default", shell("true"));
    let mut foreign = serde_json::to_value(&bad).unwrap();
    foreign["version"] = 2.into();
    bench
        .publish_bytes(&bad, serde_json::to_vec(&foreign).unwrap())
        .await;
    let other = message("other@20261123T023000Z", "default", shell("true"));
    bench.publish_bytes(&other, b"not json".to_vec()).await;
    let _working = bench.work("w1");
    assert_eq!(bench.complete(&good).await.state, RunState::Succeeded);
    bench.settled().await;
    let letters = bench.dead_letters().await;
    let about = |text: &str| letters.iter().find(|l| l.reason.contains(text)).unwrap();
    assert_eq!(letters.len(), 2);
    assert_eq!(about("version 2").run_id.as_ref(), Some(&bad.run_id));
    assert_eq!(about("not understood").payload, b"not json");
}
