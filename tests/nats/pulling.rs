//! Runs under way when nobody wants them any more go back at once, not after the lease.

use std::{collections::BTreeSet, time::Duration};

use orchestrator::broker::Broker;
use tokio_util::sync::CancellationToken;

use super::{
    harness::{LONG, SOON, connect, outgoing, publish, pull, request},
    server::NatsServer,
};

const QUEUES: [&str; 3] = ["a", "b", "c"];

async fn publish_to_all(broker: &dyn Broker, n: usize) {
    // A run of its own for each queue: the same id would be a duplicate.
    let ids = n * QUEUES.len()..;
    let runs = QUEUES
        .iter()
        .zip(ids)
        .map(|(queue, n)| broker.publish(outgoing(queue, n)));
    for published in futures::future::join_all(runs).await {
        published.unwrap();
    }
}

/// Takes and acknowledges until `count` runs came.
async fn take(broker: &dyn Broker, queues: &[&str], count: usize) -> BTreeSet<u64> {
    let mut seen = BTreeSet::new();
    let taking = async {
        while seen.len() < count {
            for run in pull(broker, queues, 16, SOON).await.unwrap() {
                broker.ack(&run.receipt).await.unwrap();
                assert!(seen.insert(run.sequence), "twice: {run:?}");
            }
        }
    };
    let taken = tokio::time::timeout(SOON, taking).await;
    assert!(
        taken.is_ok(),
        "{} of {count}, the rest is stranded",
        seen.len()
    );
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn what_several_queues_bring_at_once_goes_back_at_once() {
    let server = NatsServer::start();
    let (broker, publisher) = (
        connect(server.url(), LONG).await,
        connect(server.url(), LONG).await,
    );
    for n in 0..150 {
        let (got, ()) = tokio::join!(
            pull(&*broker, &QUEUES, 1, SOON),
            publish_to_all(&*publisher, n)
        );
        let got = got.unwrap();
        assert_eq!(got.len(), 1, "round {n}");
        broker.ack(&got[0].receipt).await.unwrap();
        take(&*broker, &QUEUES, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_strands_nothing() {
    let server = NatsServer::start();
    let (broker, publisher) = (
        connect(server.url(), LONG).await,
        connect(server.url(), LONG).await,
    );
    for n in 0..100 {
        let stop = CancellationToken::new();
        let (got, ()) = tokio::join!(broker.pull(request(&QUEUES, 1, SOON), &stop), async {
            publish_to_all(&*publisher, n).await;
            stop.cancel();
        });
        let got = got.unwrap();
        for run in &got {
            broker.ack(&run.receipt).await.unwrap();
        }
        take(&*broker, &QUEUES, QUEUES.len() - got.len()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_race_for_the_last_run_do_not_hold_each_other_up() {
    let server = NatsServer::start();
    let publisher = connect(server.url(), LONG).await;
    let over = CancellationToken::new();
    let (sender, mut taken) = tokio::sync::mpsc::unbounded_channel();
    let mut workers = Vec::new();
    for _ in 0..4 {
        let broker = connect(server.url(), LONG).await;
        let (over, sender) = (over.clone(), sender.clone());
        workers.push(tokio::spawn(async move {
            while !over.is_cancelled() {
                let request = request(&["high", "low"], 2, SOON);
                for run in broker.pull(request, &over).await.unwrap() {
                    broker.ack(&run.receipt).await.unwrap();
                    sender.send(run.sequence).unwrap();
                }
            }
        }));
    }
    let mut seen = BTreeSet::new();
    for n in 0..200 {
        // Now three, now one: often there is less than is asked for.
        let count = 1 + 2 * (n % 2);
        for m in 0..count {
            publish(&*publisher, "high", 3 * n + m).await;
        }
        for _ in 0..count {
            // One that was delivered to nobody would come after its lease, which is much longer.
            let came = tokio::time::timeout(SOON, taken.recv()).await;
            let came = came.unwrap_or_else(|_| panic!("round {n}: a run is stranded"));
            assert!(seen.insert(came.unwrap()), "round {n}: twice");
        }
    }
    over.cancel();
    for worker in workers {
        worker.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_one_request_is_not_taken_for_that_of_another() {
    let server = NatsServer::start();
    let broker = connect(server.url(), LONG).await;
    // Others keep the server busy, so that its answers come late.
    let over = CancellationToken::new();
    let mut busy = Vec::new();
    for queue in ["x", "y", "z"] {
        let (noise, over) = (connect(server.url(), LONG).await, over.clone());
        busy.push(tokio::spawn(async move {
            while !over.is_cancelled() {
                let _ = pull(&*noise, &[queue], 8, Duration::ZERO).await;
            }
        }));
    }
    for round in 0..60 {
        publish(&*broker, "a", 100 * round).await;
        for n in 1..=10 {
            publish(&*broker, "c", 100 * round + n).await;
        }
        let mut wanted = request(&QUEUES, 8, SOON);
        for (share, part) in wanted.shares.iter_mut().zip([5, 2, 1]) {
            share.1 = part;
        }
        let stop = CancellationToken::new();
        let got = broker.pull(wanted, &stop).await.unwrap();
        assert_eq!(got.len(), 8, "round {round}");
        for run in &got {
            broker.ack(&run.receipt).await.unwrap();
        }
        take(&*broker, &["c"], 3).await;
    }
    over.cancel();
    for task in busy {
        task.await.unwrap();
    }
}
