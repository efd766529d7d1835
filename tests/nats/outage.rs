//! The server dies, comes back, or comes back empty.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use orchestrator::broker::{
    Broker, BrokerError, Bucket, Durability, Pending, Published, nats::NatsBroker,
};
use tokio_util::sync::CancellationToken;

use super::{
    harness::{
        LONG, SOON, api, connect, eventually, next, outgoing, publish, pull, request, run_id,
    },
    proxy::{Line, Proxy},
    server::NatsServer,
};

/// Publishes until told to stop, repeating whatever is not certain, and writes down what was accepted.
pub(super) async fn publishing(broker: Arc<NatsBroker>, stop: CancellationToken, accepted: Done) {
    let mut n = 0;
    let mut refusals = Refusals::default();
    while !stop.is_cancelled() {
        match broker.publish(outgoing("high", n)).await {
            Ok(Published::Stored | Published::Duplicate) => {
                let run_id = run_id("crawl", n).to_string();
                accepted.lock().unwrap().insert(run_id);
                n += 1;
            }
            Ok(Published::Occupied(by)) => panic!("occupied by {by}"),
            Err(error) => refusals.tell("publish", &error),
        }
    }
}

/// What a broker that is away answers: told once each time that it changes, for whoever reads why a test failed.
#[derive(Default)]
struct Refusals {
    last: String,
}

impl Refusals {
    fn tell(&mut self, of: &str, error: &BrokerError) {
        assert!(error.is_transient(), "{error:?}");
        let text = error.to_string();
        if text != self.last {
            eprintln!("{of}: {text}");
            self.last = text;
        }
    }
}

/// Runs that were accepted; or that were acknowledged, whether or not the confirmation came.
pub(super) type Done = Arc<Mutex<BTreeSet<String>>>;

/// Takes and acknowledges until told to stop.
pub(super) async fn working(broker: Arc<NatsBroker>, stop: CancellationToken, done: Done) {
    let mut refusals = Refusals::default();
    while !stop.is_cancelled() {
        let pulled = broker.pull(request(&["high"], 8, Duration::from_secs(1)), &stop);
        let runs = match pulled.await {
            Ok(runs) => runs,
            Err(error) => {
                refusals.tell("pull", &error);
                continue;
            }
        };
        // At once: a killed server may have forgotten that it delivered them, and does not answer.
        let acks = runs.iter().map(|run| broker.ack(&run.receipt));
        futures::future::join_all(acks).await;
        let ids = runs.into_iter().map(|run| String::from_utf8(run.payload));
        done.lock().unwrap().extend(ids.map(Result::unwrap));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_restarted_it_loses_nothing_and_everybody_goes_on() {
    let mut server = NatsServer::start();
    let lease = Duration::from_secs(2);
    let (publisher, worker) = (
        connect(server.url(), lease).await,
        connect(server.url(), lease).await,
    );
    let (enough, over) = (CancellationToken::new(), CancellationToken::new());
    let (accepted, done) = (Done::default(), Done::default());
    let published = publishing(publisher.clone(), enough.clone(), accepted.clone());
    let published = tokio::spawn(published);
    let worked = tokio::spawn(working(worker.clone(), over.clone(), done.clone()));
    let mut probes = 0;
    for _ in 0..3 {
        // Both are at work again: what is stored moves on.
        let before = last_sequence(&publisher, &mut probes).await;
        eventually("progress", async || {
            (last_sequence(&publisher, &mut probes).await > before + 50).then_some(())
        })
        .await;
        server.kill9();
        server.restart();
    }
    let before = last_sequence(&publisher, &mut probes).await;
    eventually("progress after the last restart", async || {
        (last_sequence(&publisher, &mut probes).await > before + 50).then_some(())
    })
    .await;
    enough.cancel();
    published.await.unwrap();
    let accepted = accepted.lock().unwrap().clone();
    // Probes that a restart interrupted are left, and what the killed server forgot to remove after it was
    // acknowledged: that is delivered to nobody, and beat sweeps it away.
    all_done(&publisher, &accepted, &done).await;
    over.cancel();
    worked.await.unwrap();
}

/// Waits until every one of `accepted` was delivered, for as long as any comes.
///
/// What the stream still holds says nothing: a server that was killed may keep thousands that it forgot to
/// remove (2.9), before or behind those that nobody has had yet.
pub(super) async fn all_done(broker: &NatsBroker, accepted: &BTreeSet<String>, done: &Done) {
    let left = || -> Vec<String> {
        let done = done.lock().unwrap();
        accepted.difference(&done).cloned().collect()
    };
    let mut missing = left();
    while let Some(first) = missing.first() {
        let before = missing.len();
        let waited = async {
            while left().len() == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(SOON, waited).await.is_err() {
            let stored: BTreeSet<_> = stored(broker).await;
            let kept = missing.iter().filter(|id| stored.contains(*id)).count();
            panic!(
                "{before} of {} are not delivered, {kept} of them stored; from {first} to {}",
                accepted.len(),
                missing[before - 1],
            );
        }
        missing = left();
    }
}

/// Everything that the stream holds.
async fn stored(broker: &NatsBroker) -> BTreeSet<String> {
    let (mut from, mut found) = (0, BTreeSet::new());
    loop {
        let page = eventually("what is stored", async || {
            broker.pending(from, 1000).await.ok()
        })
        .await;
        let Some(last) = page.last() else {
            return found;
        };
        from = last.sequence + 1;
        let text = |run: Pending| String::from_utf8(run.payload).unwrap();
        found.extend(page.into_iter().map(text));
    }
}

/// Grows with every publish, whoever takes the runs.
async fn last_sequence(broker: &NatsBroker, probes: &mut usize) -> u64 {
    eventually("the last sequence", async || {
        // A run of its own each time: the server remembers the ids.
        *probes += 1;
        let probe = outgoing("probe", 1_000_000 + *probes);
        let _ = broker.publish(probe.clone()).await;
        let found = broker.occupant(&probe.queue, &probe.run_id, probe.slot);
        let found = found.await.ok()??;
        broker.remove(&found).await.ok()?.then_some(found.sequence)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_that_failed_is_not_sent_later() {
    let mut server = NatsServer::start();
    let broker = connect(server.url(), Duration::from_secs(1)).await;
    publish(&*broker, "high", 1).await;
    let run = next(&*broker, "high").await;
    server.kill9();
    // What is said in the very moment of the loss may be kept; after that nothing is.
    eventually("the loss to be noticed", async || {
        broker.renew(&run.receipt).await.err()
    })
    .await;
    let error = broker.ack(&run.receipt).await.unwrap_err();
    assert!(
        matches!(error, BrokerError::Unreachable { .. }),
        "{error:?}"
    );
    server.restart();
    let again = next(&*broker, "high").await;
    assert_eq!(again.sequence, run.sequence);
    // Not `deliveries`: a server that was killed may have forgotten how often it had delivered.
    // Answers to what was sent before are in by now: the run must still be stored.
    assert_eq!(broker.pending(0, 10).await.unwrap().len(), 1);
    broker.ack(&again.receipt).await.unwrap();
    assert!(broker.pending(0, 10).await.unwrap().is_empty());
}

/// A server that has lost its data takes what was delivered before for what it delivers now: it has the same numbers.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_before_the_data_were_lost_settles_nothing_after_it() {
    let mut server = NatsServer::start();
    let (holder, other) = (
        connect(server.url(), LONG).await,
        connect(server.url(), LONG).await,
    );
    publish(&*holder, "high", 1).await;
    let before = next(&*holder, "high").await;
    assert_eq!(holder.begun_anew_at().await, Ok(None));
    server.kill9();
    server.wipe();
    server.restart();
    eventually("a run on the empty server", async || {
        other.publish(outgoing("high", 2)).await.ok()
    })
    .await;
    let after = next(&*other, "high").await;
    assert_eq!(after.sequence, before.sequence, "they look alike");
    let is_of_before = eventually("an answer", async || {
        holder.is_of_before(&before.receipt).await.ok()
    });
    assert!(is_of_before.await);
    for settled in [
        holder.renew(&before.receipt).await,
        holder.ack(&before.receipt).await,
        holder.release(&before.receipt, Duration::ZERO).await,
    ] {
        let refused = settled.expect_err("it is somebody else's");
        assert!(matches!(refused, BrokerError::Failed { .. }), "{refused}");
    }
    assert!(holder.begun_anew_at().await.unwrap().is_some());
    assert!(!other.is_of_before(&after.receipt).await.unwrap());
    assert_eq!(
        other.pending(0, 10).await.unwrap().len(),
        1,
        "it is still there"
    );
    other.renew(&after.receipt).await.unwrap();
    other.ack(&after.receipt).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_end_in_bounded_time_while_the_server_is_away() {
    let server = NatsServer::start();
    let proxy = Proxy::to(server.port()).await;
    let broker = connect(proxy.url(), LONG).await;
    publish(&*broker, "high", 1).await;
    let run = next(&*broker, "high").await;
    proxy.set(Line::Cut);
    let stop = CancellationToken::new();
    let calls = async {
        tokio::join!(
            broker.renew(&run.receipt),
            broker.release(&run.receipt, SOON),
            broker.put(Bucket::State, "a", b"1".to_vec()),
            broker.compare_and_set(Bucket::State, "b", None, b"1".to_vec(), Durability::Crash),
            broker.pull(request(&["high"], 1, SOON), &stop),
        )
    };
    let within = tokio::time::timeout(Duration::from_secs(9), calls).await;
    let (renewed, released, put, set, pulled) = within.expect("bounded time");
    for error in [
        renewed.unwrap_err(),
        released.unwrap_err(),
        put.unwrap_err(),
        set.unwrap_err(),
        pulled.unwrap_err(),
    ] {
        assert!(
            matches!(error, BrokerError::Unreachable { .. }),
            "{error:?}"
        );
    }
    proxy.set(Line::Whole);
    eventually("the connection", async || {
        broker.renew(&run.receipt).await.ok()
    })
    .await;
}

/// `AWAY_TRIES` makes it longer: with 70, four minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_for_long_is_found_again() {
    let tries = std::env::var("AWAY_TRIES").map_or(8, |text| text.parse().unwrap());
    let server = NatsServer::start();
    let proxy = Proxy::to(server.port()).await;
    let broker = connect(proxy.url(), LONG).await;
    publish(&*broker, "high", 0).await;
    proxy.set(Line::Cut);
    let mut seen = 0;
    while seen < tries {
        // Each of them soon after the one before.
        seen = eventually("another try", async || {
            let refused = proxy.refused();
            (refused > seen).then_some(refused)
        })
        .await;
    }
    proxy.set(Line::Whole);
    eventually("a publish", async || {
        broker.publish(outgoing("high", 1)).await.ok()
    })
    .await;
    assert_eq!(broker.pending(0, 10).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_servers_the_one_that_is_there_is_used() {
    let mut server = NatsServer::start();
    // One accepts connections and says nothing; at the other nobody listens.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr();
    let (mute_at, nobody) = (mute.local_addr().unwrap(), nobody.unwrap());
    let url = format!("nats://{mute_at}, nats://{nobody}, {}", server.url());
    let broker = connect(url, LONG).await;
    publish(&*broker, "high", 0).await;
    server.restart();
    eventually("a publish", async || {
        broker.publish(outgoing("high", 1)).await.ok()
    })
    .await;
    assert_eq!(broker.pending(0, 10).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_waits_learns_at_once_that_the_connection_is_lost() {
    let server = NatsServer::start();
    let proxy = Proxy::to(server.port()).await;
    let broker = connect(proxy.url(), LONG).await;
    let puller = broker.clone();
    let pulling = tokio::spawn(async move { pull(&*puller, &["high"], 1, 4 * SOON).await });
    eventually("the queue to be known", async || {
        let queues = broker.queues().await.unwrap();
        (!queues.is_empty()).then_some(())
    })
    .await;
    eventually("a waiting request", async || {
        let info = api(server.url(), "CONSUMER.INFO.ORCH_JOBS.high", "").await;
        (info["num_waiting"] == 1).then_some(())
    })
    .await;
    // Also if it is back at once: the server has forgotten the request.
    proxy.set(Line::Cut);
    eventually("the loss to be noticed", async || {
        broker.queues().await.err()
    })
    .await;
    proxy.set(Line::Whole);
    let pulled = tokio::time::timeout(SOON, pulling).await.unwrap();
    assert!(matches!(
        pulled.unwrap(),
        Err(BrokerError::Unreachable { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_data_is_set_up_again() {
    let mut server = NatsServer::start();
    let broker = connect(server.url(), LONG).await;
    publish(&*broker, "high", 1).await;
    broker.put(Bucket::State, "a", b"1".to_vec()).await.unwrap();
    server.kill9();
    server.wipe();
    server.restart();
    let value = eventually("an answer", async || {
        broker.get(Bucket::State, "a").await.ok()
    });
    assert_eq!(value.await, None);
    broker.put(Bucket::State, "a", b"2".to_vec()).await.unwrap();
    // The queue, too, is made again.
    publish(&*broker, "high", 1).await;
    next(&*broker, "high").await;
    assert_eq!(broker.queues().await.unwrap().len(), 1);
}
