//! Runs that are published at the same time, as one atomic batch where the server takes them.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use futures::{StreamExt, future::join_all};
use orchestrator::broker::{
    Broker, BrokerError, Published,
    nats::{Batches, NatsBroker, NatsOptions},
};
use rustix::process::Signal;

use super::{
    harness::{LONG, api, eventually, options, outgoing, publish},
    proxy::{Line, Proxy},
    server::NatsServer,
};

async fn connect(url: String, batches: Batches) -> Arc<NatsBroker> {
    let options = NatsOptions {
        batches,
        ..options(url, LONG)
    };
    NatsBroker::connect(options).await.unwrap()
}

async fn all_at_once(
    broker: &NatsBroker,
    runs: impl IntoIterator<Item = usize>,
) -> Vec<Result<Published, BrokerError>> {
    let runs = runs
        .into_iter()
        .map(|n| broker.publish(outgoing("high", n)));
    join_all(runs).await
}

/// Whether the stream takes batches: servers from 2.12 on.
async fn takes_batches(server: &NatsServer) -> bool {
    let info = api(server.url(), "STREAM.INFO.ORCH_JOBS", "").await;
    info["config"]["allow_atomic"] == true
}

/// How many stored messages came in a batch.
async fn came_in_batches(server: &NatsServer) -> usize {
    let info = api(server.url(), "STREAM.INFO.ORCH_JOBS", "").await;
    let last = info["state"]["last_seq"].as_u64().unwrap();
    let mut found = 0;
    for sequence in 1..=last {
        let which = format!("{{\"seq\":{sequence}}}");
        let message = api(server.url(), "STREAM.MSG.GET.ORCH_JOBS", &which).await;
        let headers = message["message"]["hdrs"].as_str().unwrap();
        let plain = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, headers);
        let plain = String::from_utf8(plain.unwrap()).unwrap();
        found += usize::from(plain.contains("Nats-Batch-Id"));
    }
    found
}

async fn stored(broker: &NatsBroker) -> Vec<String> {
    let pending = broker.pending(0, 5000).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    pending.into_iter().map(|run| text(run.payload)).collect()
}

fn is_each_once(stored: &[String], count: usize) {
    let expected: BTreeSet<_> = (0..count)
        .map(|n| outgoing("high", n).run_id.to_string())
        .collect();
    let found: BTreeSet<_> = stored.iter().cloned().collect();
    assert_eq!(found, expected);
    assert_eq!(stored.len(), count, "none twice");
}

/// The same, on a server that stands still until all are on their way or wait for those that are. How many go by
/// themselves would otherwise depend on who is quicker, this process or the server.
async fn all_wait(
    server: &NatsServer,
    broker: &NatsBroker,
    runs: impl IntoIterator<Item = usize>,
) -> Vec<Result<Published, BrokerError>> {
    server.signal(Signal::STOP);
    let mut all = pin!(tokio::task::unconstrained(all_at_once(broker, runs)));
    let answered = futures::poll!(all.as_mut());
    server.signal(Signal::CONT);
    assert!(answered.is_pending());
    all.await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_comes_in_batches_where_the_server_takes_them() {
    let server = NatsServer::start();
    let broker = connect(server.url(), Batches::Always).await;
    // With the first one all is made that the others need: they do not wait for anything but each other.
    publish(&*broker, "high", 0).await;
    let takes_batches = takes_batches(&server).await;
    let (mut count, mut before) = (1, 0);
    // Only if nobody comes back for a second do all go by themselves: a machine that stands still for so long.
    let in_batches = eventually("a burst in batches", async || {
        for published in all_wait(&server, &broker, count..count + 300).await {
            assert_eq!(published, Ok(Published::Stored));
        }
        count += 300;
        let found = came_in_batches(&server).await;
        let in_batches = found - before;
        before = found;
        (!takes_batches || in_batches > 200).then_some(in_batches)
    })
    .await;
    assert_eq!(in_batches > 0, takes_batches, "{in_batches}");
    is_each_once(&stored(&broker).await, count);
    // All of them once more: none of the batches is taken, and every run is a duplicate.
    for published in all_at_once(&broker, 0..count).await {
        assert_eq!(published, Ok(Published::Duplicate));
    }
    is_each_once(&stored(&broker).await, count);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_a_burst_asks_for_what_all_need() {
    const RUNS: usize = 1_000;
    const LAST: &str = "$JS.API.INFO";
    let server = NatsServer::start();
    let broker = connect(server.url(), Batches::Always).await;
    let onlooker = async_nats::connect(server.url()).await.unwrap();
    let mut questions = onlooker.subscribe("$JS.API.>").await.unwrap();
    onlooker.flush().await.unwrap();
    for published in all_at_once(&broker, 0..RUNS).await {
        assert_eq!(published, Ok(Published::Stored));
    }
    onlooker.request(LAST, "".into()).await.unwrap();
    let mut asked = Vec::new();
    while let Some(question) = questions.next().await {
        match question.subject.as_str() {
            LAST => break,
            subject => asked.push(subject.to_owned()),
        }
    }
    // The stream, whether the server takes batches, the queue's consumer; some of it again if the machine stands still.
    assert!(
        asked.len() < RUNS / 10,
        "{} questions: {:?}",
        asked.len(),
        &asked[..20]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_an_earlier_version_gets_the_setting_and_keeps_what_it_holds() {
    let server = NatsServer::start();
    let earlier = connect(server.url(), Batches::Never).await;
    publish(&*earlier, "high", 0).await;
    assert!(!takes_batches(&server).await);
    let later = connect(server.url(), Batches::Always).await;
    // The first of them makes sure of the stream for the others.
    let first = later.publish(outgoing("high", 0)).await;
    assert_eq!(first, Ok(Published::Duplicate));
    let knows = api(server.url(), "STREAM.INFO.ORCH_JOBS", "").await["config"]
        .get("metadata")
        .is_some_and(|metadata| metadata.get("_nats.req.level").is_some());
    let mut count = 1;
    eventually("a burst in batches", async || {
        let before = came_in_batches(&server).await;
        for published in all_wait(&server, &later, count..count + 100).await {
            assert_eq!(published, Ok(Published::Stored));
        }
        count += 100;
        let in_batches = came_in_batches(&server).await - before;
        (!knows || in_batches > 50).then_some(())
    })
    .await;
    assert_eq!(takes_batches(&server).await, knows);
    // The earlier one goes on.
    for published in all_at_once(&earlier, count..count + 50).await {
        assert_eq!(published, Ok(Published::Stored));
    }
    is_each_once(&stored(&later).await, count + 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_takes_none_any_more_gets_single_runs() {
    let server = NatsServer::start();
    let broker = connect(server.url(), Batches::Always).await;
    publish(&*broker, "high", 0).await;
    if takes_batches(&server).await {
        let mut info = api(server.url(), "STREAM.INFO.ORCH_JOBS", "").await;
        let mut config = info["config"].take();
        config["allow_atomic"] = false.into();
        api(server.url(), "STREAM.UPDATE.ORCH_JOBS", &config.to_string()).await;
    }
    for published in all_at_once(&broker, 1..200).await {
        assert_eq!(published, Ok(Published::Stored));
    }
    is_each_once(&stored(&broker).await, 200);
    assert_eq!(came_in_batches(&server).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_whose_answer_is_lost_can_be_repeated() {
    let server = NatsServer::start();
    let proxy = Proxy::to(server.port()).await;
    let broker = connect(proxy.url(), Batches::Always).await;
    publish(&*broker, "high", 0).await;
    // What is sent arrives, and no answer comes back; then the connection is gone.
    let mut failed = 0;
    for line in [Line::Mute, Line::Cut] {
        proxy.set(line);
        let began = orchestrator::clock::monotonic();
        for published in all_at_once(&broker, 0..300).await {
            let error = published.unwrap_err();
            assert!(error.is_transient(), "{error:?}");
            failed += 1;
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(25), "{took:?}");
    }
    assert_eq!(failed, 600);
    proxy.set(Line::Whole);
    eventually("everything to be stored", async || {
        let all = all_at_once(&broker, 0..300).await;
        all.into_iter()
            .all(|published| published.is_ok())
            .then_some(())
    })
    .await;
    is_each_once(&stored(&broker).await, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn bursts_survive_a_server_that_is_killed() {
    let mut server = NatsServer::start();
    let broker = connect(server.url(), Batches::Always).await;
    publish(&*broker, "high", 0).await;
    for round in 1..=3_usize {
        let publisher = broker.clone();
        let burst = tokio::spawn(async move { all_at_once(&publisher, 0..400 * round).await });
        server.kill9();
        server.restart();
        for published in burst.await.unwrap() {
            if let Err(error) = published {
                assert!(error.is_transient(), "{error:?}");
            }
        }
        eventually("everything to be stored", async || {
            let all = all_at_once(&broker, 0..400 * round).await;
            all.into_iter()
                .all(|published| published.is_ok())
                .then_some(())
        })
        .await;
        is_each_once(&stored(&broker).await, 400 * round);
    }
}
