//! Three servers that replicate everything: one of them dies or retires under load, and nothing is lost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use orchestrator::{
    broker::{
        Broker, Bucket, DeadLetter, Lifetime, LogChunk, LogStream, Published, nats::NatsBroker,
    },
    clock::monotonic,
};
use rustix::process::Signal;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    harness::{SOON, api, eventually, options, outgoing},
    outage::{Done, all_done, publishing, working},
    server::NatsServer,
};

const LEASE: Duration = Duration::from_secs(2);
/// How long runs may stand still while the cluster serves already. What is asked four times a second goes on soon; only
/// who waits for a server that is dead takes longer.
const OURS: Duration = Duration::from_secs(3);
/// From the death of a leader to service, as a rule. How long an election takes is chance, and nats-server's.
const AGAIN: Duration = Duration::from_secs(10);

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

/// Waits until every server has everything. Before that one more death is one too many: what the others have may be
/// out of date, and the cluster stands still.
async fn whole(servers: &[NatsServer]) {
    let is_whole = |found: &serde_json::Value| {
        let cluster = &found["cluster"];
        let replicas = cluster["replicas"].as_array();
        let current = |replica: &serde_json::Value| {
            replica["current"] == true && replica.get("offline").is_none_or(|is| is == false)
        };
        cluster["leader"].is_string()
            && replicas.is_some_and(|all| all.len() == 2 && all.iter().all(current))
    };
    let client = async_nats::connect(servers[0].url()).await.unwrap();
    let all = async |what: &str, of: &str| {
        let asking = client.request(format!("$JS.API.{what}"), "".into());
        let answer = tokio::time::timeout(Duration::from_secs(2), asking).await;
        let answer = answer.ok()?.ok()?;
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).ok()?;
        let found = answer[of].as_array()?;
        (!found.is_empty() && found.iter().all(is_whole)).then_some(())
    };
    eventually("a cluster that is whole", async || {
        all("STREAM.LIST", "streams").await?;
        all("CONSUMER.LIST.ORCH_JOBS", "consumers").await
    })
    .await;
}

/// When the cluster served again somebody who asks for nothing but to store a message and to be told of a queue.
/// Before that nothing can be done from outside.
async fn bare_service(url: String) -> Instant {
    let client = async_nats::connect(url).await.unwrap();
    let asked = async |subject: String| {
        let asking = client.request(subject, "".into());
        let answer = tokio::time::timeout(Duration::from_millis(100), asking).await;
        let answer: serde_json::Value = serde_json::from_slice(&answer.ok()?.ok()?.payload).ok()?;
        answer.get("error").is_none().then(monotonic)
    };
    let stored = eventually("a stored message", async || {
        // Each in a slot of its own.
        let slot = uuid::Uuid::new_v4().simple();
        asked(format!("orch.jobs.probe.probe.{slot}")).await
    });
    let told = eventually("a queue", async || {
        asked("$JS.API.CONSUMER.INFO.ORCH_JOBS.high".to_owned()).await
    });
    let (stored, told) = tokio::join!(stored, told);
    stored.max(told)
}

/// Publisher and worker at full speed.
struct Load {
    publisher: Arc<NatsBroker>,
    enough: CancellationToken,
    over: CancellationToken,
    published: JoinHandle<()>,
    worked: JoinHandle<()>,
    accepted: Done,
    done: Done,
}

impl Load {
    async fn start(servers: &[NatsServer]) -> Self {
        let (publisher, worker) = (connect(servers).await, connect(servers).await);
        let (enough, over) = (CancellationToken::new(), CancellationToken::new());
        let (accepted, done) = (Done::default(), Done::default());
        let publishing = publishing(publisher.clone(), enough.clone(), accepted.clone());
        Self {
            published: tokio::spawn(publishing),
            worked: tokio::spawn(working(worker, over.clone(), done.clone())),
            publisher,
            enough,
            over,
            accepted,
            done,
        }
    }

    /// Waits until so many more are accepted, and so many more done.
    async fn gets_on(&self, by: usize) {
        let counts = || {
            let accepted = self.accepted.lock().unwrap().len();
            (accepted, self.done.lock().unwrap().len())
        };
        let before = counts();
        eventually("service", async || {
            let now = counts();
            (now.0 > before.0 + by && now.1 > before.1 + by).then_some(())
        })
        .await;
    }

    async fn nothing_is_lost(self) {
        self.enough.cancel();
        self.published.await.unwrap();
        let accepted = self.accepted.lock().unwrap().clone();
        all_done(&self.publisher, &accepted, &self.done).await;
        self.over.cancel();
        tokio::time::timeout(SOON, self.worked)
            .await
            .unwrap()
            .unwrap();
    }
}

/// `KILLS` makes it longer.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_under_load_and_nothing_is_lost() {
    let kills = std::env::var("KILLS").map_or(2, |text| text.parse::<usize>().unwrap());
    let mut servers = NatsServer::cluster(3);
    let load = Load::start(&servers).await;
    eventually("a value", async || {
        let put = load.publisher.put(Bucket::State, "kept", b"1".to_vec());
        put.await.ok()
    })
    .await;
    let mut times = Vec::new();
    for _ in 0..kills {
        whole(&servers).await;
        let before = monotonic();
        load.gets_on(100).await;
        let usual = before.elapsed();
        let led = leader(&servers, None).await;
        servers[led].kill9();
        let killed = monotonic();
        let bare = bare_service(servers[(led + 1) % servers.len()].url());
        let served = async {
            // What it had delivered already does not count.
            load.gets_on(100).await;
            monotonic()
        };
        let (bare, served) = tokio::join!(bare, served);
        let later = served.saturating_duration_since(bare);
        println!(
            "the cluster serves again after {:.1?}, runs go on {later:.2?} later; otherwise so many take {usual:.2?}",
            bare - killed
        );
        // The election is nats-server's; what comes after it is ours, but for what a busy machine takes anyway.
        assert!(later < OURS + usual, "{later:?}, otherwise {usual:?}");
        times.push(served - killed);
        servers[led].restart();
    }
    times.sort_unstable();
    assert!(times[(kills - 1) / 2] <= AGAIN, "{times:?}");
    let publisher = load.publisher.clone();
    load.nothing_is_lost().await;
    // Its bucket may have lost its own leader just now.
    let kept = eventually("a value", async || {
        publisher.get(Bucket::State, "kept").await.ok()
    });
    assert_eq!(kept.await.unwrap().value, b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_leader_has_is_not_taken_for_stored() {
    let mut servers = NatsServer::cluster(3);
    let broker = connect(&servers).await;
    eventually("a publish", async || {
        broker.publish(outgoing("high", 0)).await.ok()
    })
    .await;
    whole(&servers).await;
    let led = leader(&servers, None).await;
    let broker = connect(&servers[led..=led]).await;
    assert_eq!(
        broker.publish(outgoing("high", 0)).await,
        Ok(Published::Duplicate)
    );
    let others: Vec<_> = (0..servers.len()).filter(|at| *at != led).collect();
    for at in &others {
        servers[*at].kill9();
    }
    // Until the others have it, it may still be lost. A leader of 2.9 or 2.10 calls the second one a duplicate.
    let twice = [1, 1].map(|n| broker.publish(outgoing("high", n)));
    let twice = futures::future::join_all(twice).await;
    for at in &others {
        servers[*at].restart();
    }
    for published in twice {
        let error = published.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
    }
    eventually("a publish", async || {
        broker.publish(outgoing("high", 1)).await.ok()
    })
    .await;
    let stored = eventually("what is stored", async || broker.pending(0, 10).await.ok());
    assert_eq!(stored.await.len(), 2);
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
    servers[led].signal(Signal::USR2);
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

/// Little room on every server: it is shared as on a single one, and runs are carried all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_much_room_is_set_up() {
    let servers = NatsServer::cluster_with(3, "jetstream { max_file_store: 24MB }");
    let broker = connect(&servers).await;
    eventually("streams", async || {
        let made = broker.make_everything().await;
        made.inspect_err(|error| eprintln!("not yet: {error}")).ok()
    })
    .await;
    let run = outgoing("high", 1);
    eventually("a publish", async || broker.publish(run.clone()).await.ok()).await;
    let jobs = api(servers[0].url(), "STREAM.INFO.ORCH_JOBS", "").await;
    assert_eq!(jobs["config"]["max_bytes"], 4 << 20, "{jobs}");
    assert_eq!(jobs["config"]["num_replicas"], 3, "{jobs}");
    // There is no room left for a gigabyte, nor for half of it.
    let names = api(servers[0].url(), "STREAM.LIST", "").await;
    for stream in names["streams"].as_array().unwrap() {
        let bound = stream["config"]["max_bytes"].as_i64().unwrap();
        assert!(bound <= 16 << 20, "{stream}");
    }
}
