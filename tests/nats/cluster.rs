//! Three servers that replicate everything: one of them dies under load, and nothing is lost.

use std::{collections::BTreeSet, time::Duration};

use orchestrator::broker::{Broker, Bucket, Pending, nats::NatsBroker};
use tokio_util::sync::CancellationToken;

use super::{
    harness::{SOON, api, eventually, options},
    outage::{Done, publishing, working},
    server::NatsServer,
};

const LEASE: Duration = Duration::from_secs(2);

async fn connect(servers: &[NatsServer]) -> std::sync::Arc<NatsBroker> {
    let urls: Vec<_> = servers.iter().map(NatsServer::url).collect();
    // The servers find each other first.
    eventually("a cluster", async || {
        let options = orchestrator::broker::nats::NatsOptions {
            replicas: 3,
            ..options(urls.join(","), LEASE)
        };
        NatsBroker::connect(options).await.ok()
    })
    .await
}

/// Which of the servers leads the stream of the runs.
async fn leader(servers: &[NatsServer], except: Option<usize>) -> usize {
    let asked = (0..servers.len()).find(|at| Some(*at) != except).unwrap();
    eventually("a leader of the stream", async || {
        let asking = api(servers[asked].url(), "STREAM.INFO.ORCH_JOBS", "");
        let info = tokio::time::timeout(Duration::from_secs(2), asking)
            .await
            .ok()?;
        let name = info["cluster"]["leader"].as_str()?.to_owned();
        name.strip_prefix('n')?.parse().ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_under_load_and_nothing_is_lost() {
    let mut servers = NatsServer::cluster(3);
    let (publisher, worker) = (connect(&servers).await, connect(&servers).await);
    publisher
        .put(Bucket::State, "kept", b"1".to_vec())
        .await
        .unwrap();
    let (enough, over) = (CancellationToken::new(), CancellationToken::new());
    let published = tokio::spawn(publishing(publisher.clone(), enough.clone()));
    let done = Done::default();
    let worked = tokio::spawn(working(worker.clone(), over.clone(), done.clone()));
    let count = || done.lock().unwrap().len();
    for _ in 0..2 {
        let before = count();
        eventually("work", async || (count() > before + 100).then_some(())).await;
        let led = leader(&servers, None).await;
        servers[led].kill9();
        let (killed, before) = (orchestrator::clock::monotonic(), count());
        // What it had delivered already does not count.
        eventually("service again", async || {
            (count() > before + 100).then_some(())
        })
        .await;
        println!("service again after {:.1?}", killed.elapsed());
        assert_ne!(leader(&servers, Some(led)).await, led);
        servers[led].restart();
    }
    enough.cancel();
    let accepted = published.await.unwrap();
    eventually("everything to be done", async || {
        let pending = publisher.pending(0, 1000).await.ok()?;
        let done = done.lock().unwrap();
        let is_done =
            |pending: &Pending| done.contains(String::from_utf8_lossy(&pending.payload).as_ref());
        pending.iter().all(is_done).then_some(())
    })
    .await;
    over.cancel();
    tokio::time::timeout(SOON, worked).await.unwrap().unwrap();
    let done = done.lock().unwrap().clone();
    let lost: BTreeSet<_> = accepted.difference(&done).collect();
    assert!(
        lost.is_empty(),
        "{} of {}: {lost:?}",
        lost.len(),
        accepted.len()
    );
    let kept = publisher.get(Bucket::State, "kept").await.unwrap();
    assert_eq!(kept.unwrap().value, b"1");
}
