//! A worker over NATS, cut off while its job runs.

use std::time::Duration;

use orchestrator::{
    broker::{Broker, Bucket, Outgoing, Published, Slot},
    clock,
    job::{Execute, RunSpec},
    run::{RunMessage, RunRecord, RunState},
    worker::{Worker, WorkerOptions},
};
use tokio_util::sync::CancellationToken;

use super::{
    harness::{connect, eventually, run_id},
    proxy::{Line, Proxy},
    server::NatsServer,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_over_an_outage_longer_than_its_lease_and_is_not_started_again() {
    let server = NatsServer::start();
    let proxy = Proxy::to(server.port()).await;
    let directory = tempfile::tempdir().unwrap();
    let (observer, broker) = (
        connect(server.url(), Duration::from_secs(1)).await,
        connect(proxy.url(), Duration::from_secs(1)).await,
    );
    let options = WorkerOptions::new("w1".to_owned(), vec!["high".parse().unwrap()]);
    let worker = Worker::new(broker, options).unwrap();
    let (drain, at_once) = (CancellationToken::new(), CancellationToken::new());
    let working = tokio::spawn(worker.run(drain.clone(), at_once.clone()));
    let path = |name: &str| directory.path().join(name);
    // Ends when told to; until then it shows that it is alive.
    let script = format!(
        "echo start >> {0}/starts; until [ -e {0}/end ]; do echo . >> {0}/alive; sleep 0.1; done",
        directory.path().display()
    );
    let spec = RunSpec::new(Execute::Shell(script));
    let queue = "high".parse().unwrap();
    let message = RunMessage::new(run_id("crawl", 1), queue, clock::now(), spec);
    let published = observer.publish(Outgoing {
        run_id: message.run_id.clone(),
        queue: message.queue.clone(),
        slot: Slot::Run,
        payload: message.encode().unwrap(),
    });
    assert_eq!(published.await.unwrap(), Published::Stored);
    let lines = |name: &str| {
        let text = std::fs::read_to_string(path(name)).unwrap_or_default();
        text.lines().count()
    };
    eventually("the job", async || (lines("alive") > 0).then_some(())).await;
    proxy.set(Line::Cut);
    let before = lines("alive");
    // At least 2.5 s: more than two leases.
    eventually("two leases", async || {
        (lines("alive") > before + 25).then_some(())
    })
    .await;
    proxy.set(Line::Whole);
    let record = async |wanted: &dyn Fn(&RunRecord) -> bool| {
        eventually("the record", async || {
            let key = message.run_id.key();
            let entry = observer.get(Bucket::Runs, &key).await.ok()??;
            let record: RunRecord = serde_json::from_slice(&entry.value).ok()?;
            wanted(&record).then_some(record)
        })
        .await
    };
    // It is delivered here again, or its renewal comes first: in both cases it goes on.
    let whole = lines("alive");
    eventually("two more leases", async || {
        (lines("alive") > whole + 25).then_some(())
    })
    .await;
    std::fs::write(path("end"), "").unwrap();
    let ended = record(&|record| record.state.is_final()).await;
    assert_eq!((ended.state, ended.fence), (RunState::Succeeded, 1));
    assert_eq!(lines("starts"), 1, "it was executed once");
    eventually("an empty stream", async || {
        observer.pending(0, 1).await.ok()?.is_empty().then_some(())
    })
    .await;
    drain.cancel();
    working.await.unwrap();
}
