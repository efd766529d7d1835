//! What a worker does when its lease is at stake.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use orchestrator::run::{AttemptEnd, RunMessage, RunState};

use super::{
    bench::{Bench, LONG, SHORT, Working, join, message, shell, until},
    faulty::Op,
};

pub(super) const RUN: &str = "crawl@20261123T023000Z";

/// A lease that must not run out: a machine that stands still for two thirds of it is not to be taken for a mistake.
pub(super) const KEPT: Duration = Duration::from_millis(1_500);

/// A run on a worker whose only slot it takes, so that this one cannot get its own run again.
pub(super) async fn held(bench: &Bench) -> (Working, RunMessage) {
    let mut options = Bench::options("w1");
    options.concurrency = 1;
    let first = bench.work_as(options);
    let script = format!(
        "echo $$ > {}.$ORCHESTRATOR_FENCE; exec sleep 60",
        bench.path("pid").display()
    );
    let run = message(RUN, "default", shell(&script));
    bench.publish(&run).await;
    (first, run)
}

/// Where the program that was started under `fence` is in /proc.
pub(super) async fn program(bench: &Bench, fence: u32) -> PathBuf {
    let name = format!("pid.{fence}");
    let pid = until("the program", || async {
        let text = bench.text(&name);
        text.ends_with('\n').then_some(text)
    });
    Path::new("/proc").join(pid.await.trim())
}

#[tokio::test]
async fn a_run_longer_than_its_lease_is_executed_once() {
    let bench = Bench::new(KEPT);
    let (_first, _second) = (bench.work("w1"), bench.work("w2"));
    let script = format!("echo x >> {}; sleep 4", bench.path("ran").display());
    let record = bench
        .complete(&message(RUN, "default", shell(&script)))
        .await;
    assert_eq!((record.state, record.fence), (RunState::Succeeded, 1));
    assert_eq!(bench.text("ran"), "x\n");
}

#[tokio::test]
async fn a_job_goes_on_without_its_lease_until_somebody_else_has_it() {
    let bench = Bench::new(SHORT);
    let (first, run) = held(&bench).await;
    let old = program(&bench, 1).await;
    bench.broker.fail(Op::Renew, 40);
    // Renewed every 75 ms while that fails: 20 times is longer than a lease.
    until("failed renewals", || async {
        (bench.broker.left(Op::Renew) <= 20).then_some(())
    })
    .await;
    assert!(old.exists(), "it goes on");
    let second = bench.work("w2");
    let new = program(&bench, 2).await;
    until("the end of the old program", || async {
        (!old.exists()).then_some(())
    })
    .await;
    first.drain.cancel();
    join(first).await;
    let record = bench.record(&run).await.unwrap();
    assert_eq!((record.state, record.fence), (RunState::Running, 2));
    assert_eq!(record.attempts[0].end, Some(AttemptEnd::Lost));
    assert_eq!(
        record.attempts[1].end, None,
        "a fenced worker records nothing"
    );
    assert!(new.exists());
    second.drain.cancel();
    join(second).await;
}

#[tokio::test]
async fn an_answer_that_comes_after_the_lease_is_no_renewal() {
    // Long enough for a takeover between its end and the age at which the late answer would be no good by itself.
    let bench = Bench::new(Duration::from_secs(3));
    let (first, _run) = held(&bench).await;
    let old = program(&bench, 1).await;
    bench.broker.fall_silent();
    until("a renewal", || async {
        (bench.broker.unanswered() > 0).then_some(())
    })
    .await;
    let second = bench.work("w2");
    let new = program(&bench, 2).await;
    bench.broker.answer();
    until("the end of the old program", || async {
        (!old.exists()).then_some(())
    })
    .await;
    assert!(new.exists());
    for worker in [first, second] {
        worker.drain.cancel();
        join(worker).await;
    }
}

#[tokio::test]
async fn a_worker_that_gets_its_own_run_again_goes_on_with_it() {
    let bench = Bench::new(SHORT);
    let _working = bench.work("w1");
    let script = format!("echo x >> {}; sleep 4", bench.path("ran").display());
    let run = message(RUN, "default", shell(&script));
    // Renewed every 75 ms while that fails: longer than a lease in all.
    bench.broker.fail(Op::Renew, 15);
    let record = bench.complete(&run).await;
    assert_eq!(bench.broker.left(Op::Renew), 0);
    assert_eq!(bench.text("ran"), "x\n", "it was executed once");
    assert_eq!((record.state, record.fence), (RunState::Succeeded, 1));
    assert!(
        record.attempts[0].delivery.count > 1,
        "it was delivered again"
    );
    bench.settled().await;
}

#[tokio::test]
async fn the_lease_is_kept_while_the_outcome_waits_for_the_broker() {
    let bench = Bench::new(KEPT);
    let first = bench.work("w1");
    let script = format!("echo x >> {}", bench.path("ran").display());
    let run = message(RUN, "default", shell(&script));
    // Tried after 50, 100, 200, … ms: together longer than two leases.
    bench.broker.fail(Op::Record, 8);
    bench.publish(&run).await;
    until("the first execution", || async {
        (!bench.text("ran").is_empty()).then_some(())
    })
    .await;
    let _second = bench.work("w2");
    let record = bench.ended(&run).await;
    assert_eq!(bench.text("ran"), "x\n", "it was executed once");
    assert_eq!((record.state, record.fence), (RunState::Succeeded, 1));
    assert_eq!(bench.broker.left(Op::Record), 0);
    bench.settled().await;
    drop(first);
}

#[tokio::test]
async fn draining_does_not_wait_for_ever_for_a_broker() {
    let bench = Bench::new(SHORT);
    let mut options = Bench::options("w1");
    options.drain_timeout = Duration::from_millis(200);
    let working = bench.work_as(options);
    let script = format!("echo x >> {}", bench.path("ran").display());
    bench.broker.fail(Op::Record, usize::MAX);
    let run = message(RUN, "default", shell(&script));
    bench.publish(&run).await;
    until("tries to record", || async {
        (bench.broker.left(Op::Record) < usize::MAX).then_some(())
    })
    .await;
    working.drain.cancel();
    join(working).await;
    // It was not recorded: its lease brings it back, and the next worker calls the attempt lost.
    bench.broker.fail(Op::Record, 0);
    let _second = bench.work("w2");
    let record = bench.ended(&run).await;
    assert_eq!((record.state, record.crashes), (RunState::Succeeded, 1));
    assert_eq!(record.attempts[0].end, Some(AttemptEnd::Lost));
}

#[tokio::test]
async fn a_run_that_waits_its_turn_is_not_handed_out_twice() {
    let bench = Bench::new(LONG);
    let _workers: Vec<_> = (0..4).map(|n| bench.work(&format!("w{n}"))).collect();
    let script = format!(
        "echo $ORCHESTRATOR_RUN_ID >> {}",
        bench.path("ran").display()
    );
    let runs: Vec<_> = (0..40)
        .map(|n| {
            message(
                &format!("crawl@20261123T0230{n:02}Z"),
                "default",
                shell(&script),
            )
        })
        .collect();
    for run in &runs {
        bench.publish(run).await;
    }
    for run in &runs {
        assert_eq!(bench.ended(run).await.fence, 1);
    }
    assert_eq!(bench.text("ran").lines().count(), 40);
}
