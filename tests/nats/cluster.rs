//! Three servers that replicate everything: one of them dies or retires under load, and nothing is lost.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use orchestrator::broker::{
    Broker, Bucket, DeadLetter, Lifetime, LogChunk, LogStream, Pending, nats::NatsBroker,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    harness::{SOON, api, eventually, options, outgoing},
    outage::{Done, publishing, working},
    server::NatsServer,
};

const LEASE: Duration = Duration::from_secs(2);

async fn connect(servers: &[NatsServer]) -> Arc<NatsBroker> {
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

/// Publisher and worker at full speed.
struct Load {
    publisher: Arc<NatsBroker>,
    enough: CancellationToken,
    over: CancellationToken,
    published: JoinHandle<BTreeSet<String>>,
    worked: JoinHandle<()>,
    done: Done,
}

impl Load {
    async fn start(servers: &[NatsServer]) -> Self {
        let (publisher, worker) = (connect(servers).await, connect(servers).await);
        let (enough, over) = (CancellationToken::new(), CancellationToken::new());
        let done = Done::default();
        Self {
            published: tokio::spawn(publishing(publisher.clone(), enough.clone())),
            worked: tokio::spawn(working(worker, over.clone(), done.clone())),
            publisher,
            enough,
            over,
            done,
        }
    }

    /// Waits until so many more are done.
    async fn gets_on(&self, by: usize) {
        let count = || self.done.lock().unwrap().len();
        let before = count();
        eventually("service", async || (count() > before + by).then_some(())).await;
    }

    async fn nothing_is_lost(self) {
        self.enough.cancel();
        let accepted = self.published.await.unwrap();
        eventually("everything to be done", async || {
            let pending = self.publisher.pending(0, 1000).await.ok()?;
            let done = self.done.lock().unwrap();
            let is_done = |pending: &Pending| {
                done.contains(String::from_utf8_lossy(&pending.payload).as_ref())
            };
            pending.iter().all(is_done).then_some(())
        })
        .await;
        self.over.cancel();
        tokio::time::timeout(SOON, self.worked)
            .await
            .unwrap()
            .unwrap();
        let done = self.done.lock().unwrap().clone();
        let lost: BTreeSet<_> = accepted.difference(&done).collect();
        assert!(
            lost.is_empty(),
            "{} of {}: {lost:?}",
            lost.len(),
            accepted.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_under_load_and_nothing_is_lost() {
    let mut servers = NatsServer::cluster(3);
    let load = Load::start(&servers).await;
    eventually("a value", async || {
        let put = load.publisher.put(Bucket::State, "kept", b"1".to_vec());
        put.await.ok()
    })
    .await;
    for _ in 0..2 {
        load.gets_on(100).await;
        let led = leader(&servers, None).await;
        servers[led].kill9();
        let killed = orchestrator::clock::monotonic();
        let elected = async {
            eventually("another leader", async || {
                (leader(&servers, Some(led)).await != led).then_some(())
            })
            .await;
            killed.elapsed()
        };
        let served = async {
            // What it had delivered already does not count.
            load.gets_on(100).await;
            killed.elapsed()
        };
        let (elected, served) = tokio::join!(elected, served);
        println!("another leader after {elected:.1?}, service again after {served:.1?}");
        servers[led].restart();
    }
    let publisher = load.publisher.clone();
    load.nothing_is_lost().await;
    let kept = publisher.get(Bucket::State, "kept").await.unwrap();
    assert_eq!(kept.unwrap().value, b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_retires_costs_nothing() {
    let mut servers = NatsServer::cluster_with(
        3,
        "lame_duck_grace_period: \"1s\"\nlame_duck_duration: \"30s\"",
    );
    let load = Load::start(&servers).await;
    load.gets_on(100).await;
    let led = leader(&servers, None).await;
    // As `nats-server --signal ldm` does.
    servers[led].signal(rustix::process::Signal::USR2);
    eventually("its end", async || servers[led].has_ended().then_some(())).await;
    load.gets_on(100).await;
    assert_ne!(leader(&servers, Some(led)).await, led);
    load.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stream_and_bucket_has_three_copies() {
    let servers = NatsServer::cluster(3);
    let broker = connect(&servers).await;
    let run = outgoing("high", 1);
    eventually("a publish", async || broker.publish(run.clone()).await.ok()).await;
    let at = orchestrator::clock::now();
    let chunk = LogChunk {
        attempt: 1,
        stream: LogStream::Stdout,
        at,
        offset: 0,
        bytes: b"x".to_vec(),
    };
    broker.append_log(&run.run_id, chunk).await.unwrap();
    let letter = DeadLetter {
        run_id: None,
        queue: run.queue.clone(),
        at,
        reason: "test".to_owned(),
        payload: Vec::new(),
        refused: None,
        subject: None,
        signature: None,
    };
    broker.dead_letter(letter).await.unwrap();
    let buckets = [Bucket::State, Bucket::Runs, Bucket::Locks, Bucket::Workers];
    let buckets: Vec<_> = buckets
        .into_iter()
        .chain(Lifetime::ALL.map(Bucket::Unique))
        .collect();
    for bucket in &buckets {
        broker.put(*bucket, "a", b"1".to_vec()).await.unwrap();
    }
    let list = api(servers[0].url(), "STREAM.LIST", "").await;
    let streams = list["streams"].as_array().unwrap();
    assert_eq!(streams.len(), 3 + buckets.len());
    for stream in streams {
        assert_eq!(stream["config"]["num_replicas"], 3, "{stream}");
        let others = stream["cluster"]["replicas"].as_array().unwrap();
        assert_eq!(others.len(), 2, "{stream}");
    }
    let consumers = api(servers[0].url(), "CONSUMER.LIST.ORCH_JOBS", "").await;
    let consumers = consumers["consumers"].as_array().unwrap();
    assert_eq!(consumers.len(), 1);
    let others = consumers[0]["cluster"]["replicas"].as_array().unwrap();
    assert_eq!(others.len(), 2, "{consumers:?}");
    let found = broker.remarks().await.unwrap();
    let settings = found
        .iter()
        .find(|remark| remark.check == "streams")
        .unwrap();
    assert_eq!(
        settings.message,
        "11 streams and buckets are as they should be"
    );
}
