//! Which runs `pull` hands out, and when.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use orchestrator::{broker::Delivery, clock};
use tokio_util::sync::CancellationToken;

use super::harness::{
    Backend, LONG, SOON, assert_nothing, drain, next, outgoing, payload, publish, pull, request,
    run_id, since,
};

fn count(got: &[Delivery], queue: &str) -> usize {
    got.iter().filter(|d| d.queue.as_str() == queue).count()
}

pub(super) async fn order_is_that_of_publishing(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    publish(&*broker, "default", "crawl", 0..10).await;
    let got = drain(&*broker, "default", 10).await;
    let got: Vec<_> = got.iter().map(payload).collect();
    let expected: Vec<_> = (0..10).map(|n| run_id("crawl", n).to_string()).collect();
    assert_eq!(got, expected);
}

pub(super) async fn shares_are_honoured_when_all_queues_are_full(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    for queue in ["high", "default", "low"] {
        publish(&*broker, queue, queue, 0..10).await;
    }
    let shares = [("high", 5), ("default", 2), ("low", 1)];
    let got = pull(&*broker, &shares, 8, SOON).await;
    assert_eq!(got.len(), 8);
    let counts = ["high", "default", "low"].map(|queue| count(&got, queue));
    assert_eq!(counts, [5, 2, 1]);
}

pub(super) async fn what_a_queue_does_not_use_goes_to_the_next(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    publish(&*broker, "high", "crawl", 0..1).await;
    publish(&*broker, "low", "clean-up", 0..10).await;
    let shares = [("high", 5), ("default", 2), ("low", 1)];
    let got = pull(&*broker, &shares, 8, SOON).await;
    assert_eq!(count(&got, "high"), 1);
    assert_eq!(count(&got, "low"), 7);
}

pub(super) async fn preferred_queues_come_first(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    publish(&*broker, "low", "clean-up", 0..10).await;
    publish(&*broker, "high", "crawl", 0..10).await;
    // No share covers these places: they go by order of preference alone.
    let shares = [("high", 0), ("low", 0)];
    let got = pull(&*broker, &shares, 4, SOON).await;
    assert_eq!(count(&got, "high"), 4, "{got:?}");
    // Shares beyond `max` go by order as well.
    let shares = [("high", 3), ("low", 3)];
    let got = pull(&*broker, &shares, 3, SOON).await;
    assert_eq!(count(&got, "high"), 3, "{got:?}");
}

pub(super) async fn never_more_than_max_in_total(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    let queues = ["a", "b", "c", "d"];
    let mut seen = BTreeSet::new();
    for round in 0..20 {
        let shares = queues.map(|name| (name, 1));
        let (got, ()) = tokio::join!(pull(&*broker, &shares, 1, SOON), async {
            let publishing = queues.map(|q| broker.publish(outgoing(q, q, round)));
            for published in futures::future::join_all(publishing).await {
                published.unwrap();
            }
        });
        assert_eq!(got.len(), 1, "round {round}");
        for delivery in got {
            assert!(seen.insert((delivery.queue.clone(), payload(&delivery))));
            broker.ack(&delivery.receipt).await.unwrap();
        }
    }
    // What arrived beyond `max` went back at once: all the others are there, now.
    while seen.len() < 80 {
        let rest = pull(&*broker, &queues.map(|name| (name, 1)), 4, SOON).await;
        assert!(!rest.is_empty(), "lost runs: {} of 80 seen", seen.len());
        for delivery in rest {
            assert!(seen.insert((delivery.queue.clone(), payload(&delivery))));
            broker.ack(&delivery.receipt).await.unwrap();
        }
    }
}

pub(super) async fn waits_and_wakes_on_publish(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    for round in 0..20 {
        let start = clock::monotonic();
        let shares = [("high", 1), ("default", 1)];
        let (got, published) = tokio::join!(
            pull(&*broker, &shares, 2, SOON),
            broker.publish(outgoing("default", "crawl", round))
        );
        published.unwrap();
        assert_eq!(got.len(), 1);
        assert!(since(start) < SOON, "woken, not timed out");
    }
}

pub(super) async fn an_empty_wait_ends_on_time(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    for wait in [Duration::ZERO, Duration::from_millis(300)] {
        let start = clock::monotonic();
        let got = pull(&*broker, &[("default", 1)], 1, wait).await;
        assert!(got.is_empty());
        assert!(since(start) >= wait, "{:?}", since(start));
        assert!(since(start) < SOON, "{:?}", since(start));
    }
}

pub(super) async fn cancelling_loses_no_run(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    let mut taken = BTreeSet::new();
    let rounds = 30;
    for round in 0..rounds {
        let stop = CancellationToken::new();
        let wanted = request(&[("default", 1)], 1, SOON);
        let start = clock::monotonic();
        let (got, ()) = tokio::join!(broker.pull(wanted, &stop), async {
            let run = outgoing("default", "crawl", round);
            if round % 2 == 0 {
                broker.publish(run).await.unwrap();
                stop.cancel();
            } else {
                stop.cancel();
                broker.publish(run).await.unwrap();
            }
        });
        assert!(since(start) < SOON, "the cancelled pull went on waiting");
        for delivery in got.unwrap() {
            assert!(taken.insert(payload(&delivery)));
            broker.ack(&delivery.receipt).await.unwrap();
        }
    }
    while taken.len() < rounds {
        let delivery = next(&*broker, "default").await;
        assert!(taken.insert(payload(&delivery)), "delivered twice");
        broker.ack(&delivery.receipt).await.unwrap();
    }
    assert_nothing(&*broker, "default").await;
}

pub(super) async fn two_pullers_never_get_the_same_run(backend: &dyn Backend) {
    let harness = backend.start(LONG).await;
    let broker = harness.broker();
    let total = 120;
    let taken = AtomicUsize::new(0);
    let puller = async || {
        let mut mine = Vec::new();
        while taken.load(Ordering::Relaxed) < total {
            let wait = Duration::from_millis(500);
            for delivery in pull(&*broker, &[("default", 3)], 3, wait).await {
                broker.ack(&delivery.receipt).await.unwrap();
                taken.fetch_add(1, Ordering::Relaxed);
                mine.push(payload(&delivery));
            }
        }
        mine
    };
    publish(&*broker, "default", "crawl", 0..total / 2).await;
    let (a, b, ()) = tokio::join!(
        puller(),
        puller(),
        publish(&*broker, "default", "crawl", total / 2..total)
    );
    let all: BTreeSet<_> = a.iter().chain(&b).cloned().collect();
    assert_eq!(a.len() + b.len(), total);
    assert_eq!(all.len(), total);
    assert_nothing(&*broker, "default").await;
}
