//! A broker that fails between the steps of settling a run: what is missing is made up for when the
//! run is delivered again.

use orchestrator::{
    broker::{Broker, Bucket},
    clock,
    health::Health,
    run::{LastRun, RunState},
};

use super::{
    bench::{Bench, LONG, SHORT, message, retried, shell, until},
    faulty::Op,
};

const RUN: &str = "crawl@20261123T023000Z";

#[tokio::test]
async fn a_dead_letter_that_was_refused_is_written_later_and_once() {
    let bench = Bench::new(SHORT);
    let _working = bench.work("w1");
    bench.broker.fail(Op::DeadLetter, 1);
    let run = message(RUN, "default", retried(shell("exit 1"), 2));
    let record = bench.complete(&run).await;
    assert_eq!(record.state, RunState::Dead);
    bench.settled().await;
    assert_eq!(bench.broker.left(Op::DeadLetter), 0);
    let letters = bench.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].run_id.as_ref(), Some(&run.run_id));
}

#[tokio::test]
async fn a_last_run_that_was_refused_is_remembered_later() {
    let bench = Bench::new(SHORT);
    let _working = bench.work("w1");
    bench.broker.fail(Op::LastRun, 1);
    let run = message(RUN, "default", retried(shell("exit 1"), 2));
    bench.complete(&run).await;
    bench.settled().await;
    let entry = bench.broker.get(Bucket::State, "last.crawl").await.unwrap();
    let last: LastRun = serde_json::from_slice(&entry.unwrap().value).unwrap();
    assert_eq!((last.run_id, last.state), (run.run_id, RunState::Dead));
    assert_eq!(bench.dead_letters().await.len(), 1, "no second letter");
}

#[tokio::test]
async fn a_worker_that_cannot_write_records_is_not_ready_and_says_why() {
    let bench = Bench::new(LONG);
    let health = Health::default();
    let mut options = Bench::options("w1");
    options.pulse = health.part("worker");
    let _working = bench.work_as(options);
    bench.broker.fail(Op::Record, usize::MAX);
    let run = message(RUN, "default", shell("true"));
    bench.publish(&run).await;
    let report = || health.report(clock::monotonic());
    let why = until("a worker that is not ready", async || {
        let report = report();
        let detail = &report.parts[0].detail;
        (report.live && !report.ready && detail.contains("records")).then(|| detail.clone())
    });
    let why = why.await;
    assert!(why.ends_with("made to fail"), "{why}");
    bench.broker.fail(Op::Record, 0);
    bench.ended(&run).await;
    until("a worker that is ready", async || {
        report().ready.then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_log_of_all_attempts_together_is_bounded() {
    let bench = Bench::new(LONG);
    let _working = bench.work("w1");
    let mut spec = retried(
        shell("head -c 50000 /dev/zero; sleep 0.3; echo end; exit 1"),
        4,
    );
    spec.output_limit = 80_000;
    let run = message(RUN, "default", spec);
    bench.complete(&run).await;
    bench.settled().await;
    let log = bench.log(&run).await;
    let kept: usize = log.iter().map(|chunk| chunk.bytes.len()).sum();
    assert!((4..=80_000).contains(&kept), "{kept}");
    assert_eq!(log.last().unwrap().attempt, 4);
    assert!(log.last().unwrap().bytes.ends_with(b"end\n"));
}

#[tokio::test]
async fn a_limit_smaller_than_what_comes_at_once_keeps_the_end() {
    let bench = Bench::new(LONG);
    let _working = bench.work("w1");
    let mut spec = shell("seq 1 10000");
    spec.output_limit = 1000;
    let run = message(RUN, "default", spec);
    bench.complete(&run).await;
    let kept = bench.stdout(&run).await;
    assert_eq!(kept.len(), 1000);
    assert!(kept.ends_with("9999\n10000\n"));
}

#[tokio::test]
async fn a_trim_that_was_refused_repeats_no_output() {
    let bench = Bench::new(LONG);
    let _working = bench.work("w1");
    let mut spec = shell("echo 1; sleep 0.5; echo 22; sleep 0.5; echo 333");
    spec.output_limit = 4;
    bench.broker.fail(Op::TrimLog, 1);
    let run = message(RUN, "default", spec);
    bench.complete(&run).await;
    assert_eq!(bench.broker.left(Op::TrimLog), 0);
    assert_eq!(bench.stdout(&run).await, "333\n");
}

#[tokio::test]
async fn a_run_whose_record_says_nothing_becomes_a_dead_letter() {
    let bench = Bench::new(SHORT);
    let run = message(RUN, "default", shell("true"));
    let (key, value) = (run.run_id.key(), b"not JSON".to_vec());
    bench.broker.put(Bucket::Runs, &key, value).await.unwrap();
    bench.publish(&run).await;
    let _working = bench.work("w1");
    bench.settled().await;
    let letters = bench.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].run_id.as_ref(), Some(&run.run_id));
    assert!(
        letters[0].reason.contains("record"),
        "{}",
        letters[0].reason
    );
}
