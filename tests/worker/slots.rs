//! How much a worker takes, and from where; draining.

use std::time::Duration;

use orchestrator::{
    broker::{Broker, Bucket},
    job::Seconds,
    run::{AttemptEnd, RunState, WorkerStatus},
};

use super::bench::{Bench, LONG, join, message, shell, until};

fn tick(job: &str, n: usize) -> String {
    format!("{job}@20261123T02{:02}{:02}Z", n / 60, n % 60)
}

#[tokio::test]
async fn never_more_at_once_than_there_are_slots() {
    let bench = Bench::new(LONG);
    let mut options = Bench::options("w1");
    options.concurrency = 2;
    // Each job counts those that run beside it; the first does not end before there is a second.
    let script = format!(
        "cd {}; mkdir $$.job; until [ -e two ]; do [ $(ls -d *.job | wc -l) -lt 2 ] || touch two; sleep 0.01; done
        ls -d *.job | wc -l >> most; sleep 0.05; rmdir $$.job",
        bench.path("").display()
    );
    let runs: Vec<_> = (0..12)
        .map(|n| message(&tick("crawl", n), "default", shell(&script)))
        .collect();
    for run in &runs {
        bench.publish(run).await;
    }
    let _working = bench.work_as(options);
    for run in &runs {
        assert_eq!(bench.ended(run).await.state, RunState::Succeeded);
    }
    let beside: Vec<u32> = bench
        .text("most")
        .lines()
        .map(|line| line.trim().parse().unwrap())
        .collect();
    assert_eq!(beside.len(), 12);
    assert_eq!(beside.iter().max(), Some(&2), "{beside:?}");
}

#[tokio::test]
async fn queues_are_served_by_weight() {
    let bench = Bench::new(LONG);
    let mut runs = Vec::new();
    for (queue, job) in [("high", "h"), ("default", "d"), ("low", "l")] {
        for n in 0..18 {
            let run = message(&tick(job, n), queue, shell("exit 0"));
            bench.publish(&run).await;
            runs.push(run);
        }
    }
    let shares = ["high:5", "default:3", "low:1"].map(|share| share.parse().unwrap());
    let mut options = orchestrator::worker::WorkerOptions::new("w1".to_owned(), shares.into());
    options.concurrency = 1;
    let _working = bench.work_as(options);
    let mut started = Vec::new();
    for run in &runs {
        let record = bench.ended(run).await;
        started.push((record.started_at.unwrap(), record.queue.to_string()));
    }
    started.sort();
    let count = |queue: &str| started[..18].iter().filter(|(_, q)| q == queue).count();
    let counts = ["high", "default", "low"].map(count);
    for (count, expected) in counts.iter().zip([10_usize, 6, 2]) {
        assert!(count.abs_diff(expected) <= 1, "{counts:?}");
    }
}

#[tokio::test]
async fn draining_lets_jobs_end_that_can() {
    let bench = Bench::new(LONG);
    let working = bench.work("w1");
    let go = bench.path("go");
    let script = format!("while ! [ -e {} ]; do sleep 0.02; done", go.display());
    let run = message(&tick("crawl", 0), "default", shell(&script));
    bench.publish(&run).await;
    bench
        .recorded(&run, "a start", |r| r.state == RunState::Running)
        .await;
    working.drain.cancel();
    let status = || async {
        let entry = bench.broker.get(Bucket::Workers, "w1").await.unwrap()?;
        let status: WorkerStatus = serde_json::from_slice(&entry.value).unwrap();
        status.draining.then_some(status)
    };
    let status = until("word of the draining", status).await;
    assert_eq!(status.running, std::slice::from_ref(&run.run_id));
    let late = message(&tick("crawl", 1), "default", shell("true"));
    bench.publish(&late).await;
    std::fs::write(&go, "").unwrap();
    join(working).await;
    assert_eq!(bench.record(&run).await.unwrap().state, RunState::Succeeded);
    assert_eq!(bench.record(&late).await, None, "nothing new is taken");
    let told = bench.broker.get(Bucket::Workers, "w1").await.unwrap();
    assert_eq!(told, None, "a worker that stopped is not listed");
}

#[tokio::test]
async fn draining_hands_back_what_does_not_end() {
    let bench = Bench::new(LONG);
    let working = bench.work("w1");
    let marker = bench.path("second");
    // The first execution hangs, the next one finds the marker.
    let script = format!(
        "[ -e {0} ] || {{ touch {0}; exec sleep 60; }}",
        marker.display()
    );
    let run = message(&tick("crawl", 0), "default", shell(&script));
    bench.publish(&run).await;
    until("the first execution", || async {
        marker.exists().then_some(())
    })
    .await;
    working.drain.cancel();
    join(working).await;
    let record = bench.record(&run).await.unwrap();
    assert_eq!((record.state, record.attempts_used), (RunState::Queued, 0));
    assert_eq!(record.attempts[0].end, Some(AttemptEnd::HandedBack));
    let _second = bench.work("w2");
    let record = bench.ended(&run).await;
    assert_eq!(record.state, RunState::Succeeded);
    assert_eq!((record.attempts_used, record.crashes), (1, 0));
    let last = record.attempts.last().unwrap();
    assert_eq!((last.number, last.worker.as_str()), (1, "w2"));
}

#[tokio::test]
async fn a_second_request_kills_at_once() {
    let bench = Bench::new(LONG);
    let mut options = Bench::options("w1");
    options.drain_timeout = Duration::from_secs(600);
    let working = bench.work_as(options);
    let ready = bench.path("ready");
    let script = format!(
        "trap '' TERM; touch {}; while :; do sleep 0.1; done",
        ready.display()
    );
    let mut spec = shell(&script);
    // Much longer than anybody waits here for the worker's end.
    spec.kill.grace = Seconds::new(Duration::from_secs(600));
    let run = message(&tick("crawl", 0), "default", spec);
    bench.publish(&run).await;
    until("the execution", || async { ready.exists().then_some(()) }).await;
    working.drain.cancel();
    working.at_once.cancel();
    join(working).await;
    assert_eq!(bench.record(&run).await.unwrap().state, RunState::Queued);
}
