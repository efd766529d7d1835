//! A server that is not there, cannot, or does not want to.

use futures::StreamExt;
use orchestrator::broker::{
    self, Broker, BrokerError, Bucket, Change, Published,
    nats::{Credentials, NatsBroker, NatsOptions},
};

use super::{
    harness::{
        LONG, SOON, api, connect, eventually, next, options, outgoing, publish, pull, run_id,
    },
    proxy::{Line, Proxy},
    server::NatsServer,
};

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_told_at_once_with_the_place_and_the_mend() {
    let url = "nats://user:secret@127.0.0.1:9".to_owned();
    let error = NatsBroker::connect(options(url, LONG)).await.unwrap_err();
    assert!(
        matches!(error, BrokerError::Unreachable { .. }),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.contains("nats://127.0.0.1:9"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_jetstream_is_refused_with_the_mend() {
    let server = NatsServer::start_with("# no jetstream");
    let error = NatsBroker::connect(options(server.url(), LONG)).await;
    let error = error.unwrap_err();
    assert!(matches!(error, BrokerError::Failed { .. }), "{error:?}");
    assert!(error.to_string().contains("nats-server -js"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_permitted_fails_fast_and_names_the_subject() {
    let server = NatsServer::start_with(
        r#"
        authorization { users = [
            { user: beat, password: b },
            { user: worker, password: w, permissions { publish { deny: [
                "orch.jobs.>", "$JS.API.CONSUMER.MSG.NEXT.*.secret"
            ] } } },
            { user: deaf, password: d, permissions { subscribe { deny: ["_INBOX.>"] } } },
        ] }
        "#,
    );
    let user = |user: &str, password: &str| NatsOptions {
        credentials: Credentials {
            user: Some(user.to_owned()),
            password: Some(password.to_owned()),
            ..Credentials::default()
        },
        ..options(server.url(), LONG)
    };
    let worker = NatsBroker::connect(user("worker", "w")).await.unwrap();
    let refused = worker.publish(outgoing("high", 1)).await.unwrap_err();
    assert!(
        matches!(refused, BrokerError::NotPermitted { .. }),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("orch.jobs.high.crawl."));
    let refused = pull(&*worker, &["secret"], 1, SOON).await.unwrap_err();
    assert!(
        matches!(refused, BrokerError::NotPermitted { .. }),
        "{refused:?}"
    );
    // What is permitted goes on.
    let beat = NatsBroker::connect(user("beat", "b")).await.unwrap();
    publish(&*beat, "high", 1).await;
    let run = next(&*worker, "high").await;
    worker.ack(&run.receipt).await.unwrap();
    for (name, password) in [("deaf", "d"), ("beat", "wrong"), ("nobody", "")] {
        let refused = NatsBroker::connect(user(name, password)).await.unwrap_err();
        let expected = matches!(refused, BrokerError::NotPermitted { .. });
        assert!(expected, "{name}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_whose_answer_is_lost_can_be_repeated() {
    let server = NatsServer::start();
    let proxy = Proxy::to(server.port()).await;
    let broker = connect(proxy.url(), LONG).await;
    publish(&*broker, "high", 1).await;
    proxy.set(Line::Mute);
    let lost = broker.publish(outgoing("high", 2)).await.unwrap_err();
    assert!(matches!(lost, BrokerError::Unreachable { .. }), "{lost:?}");
    proxy.set(Line::Cut);
    proxy.set(Line::Whole);
    let published = eventually("the connection", async || {
        broker.publish(outgoing("high", 2)).await.ok()
    });
    assert_eq!(published.await, Published::Duplicate);
    assert_eq!(broker.pending(0, 10).await.unwrap().len(), 2);
}

/// Some servers count one value too many after a crash: whoever waits for it would wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn values_of_which_not_all_arrive_are_not_waited_for_without_an_end() {
    const VALUES: usize = 60;
    let server = NatsServer::start();
    let proxy = Proxy::to(server.port()).await;
    let broker = connect(proxy.url(), LONG).await;
    for n in 0..VALUES {
        let value = vec![b'x'; 64 * 1024];
        broker
            .put(Bucket::State, &format!("many.{n}"), value)
            .await
            .unwrap();
    }
    proxy.set(Line::Slow);
    let mut changes = broker.watch(Bucket::State, "many.").await.unwrap();
    assert!(matches!(changes.next().await, Some(Ok(Change::Put(_)))));
    proxy.set(Line::Mute);
    let mut seen = 1;
    let error = loop {
        match changes.next().await {
            Some(Ok(Change::Put(_))) => seen += 1,
            Some(Err(error)) => break error,
            other => panic!("{other:?} after {seen}"),
        }
    };
    assert!(seen < VALUES, "all were there before the line was mute");
    assert!(matches!(error, BrokerError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("did not all arrive"), "{error}");
    proxy.set(Line::Cut);
    let refused = eventually("the connection to be cut", async || {
        (proxy.refused() > 0).then_some(())
    });
    refused.await;
    proxy.set(Line::Whole);
    let all = eventually("all values", async || {
        broker::list(&*broker, Bucket::State, "many.").await.ok()
    });
    assert_eq!(all.await.len(), VALUES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_consumer_is_made_again() {
    let server = NatsServer::start();
    let broker = connect(server.url(), LONG).await;
    for n in 0..3 {
        publish(&*broker, "high", n).await;
    }
    let run = next(&*broker, "high").await;
    broker.ack(&run.receipt).await.unwrap();
    api(server.url(), "CONSUMER.DELETE.ORCH_JOBS.high", "").await;
    for _ in 0..2 {
        let run = next(&*broker, "high").await;
        broker.ack(&run.receipt).await.unwrap();
    }
    assert!(broker.pending(0, 10).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_removed_under_a_waiting_pull_does_not_end_the_service() {
    let server = NatsServer::start();
    let broker = connect(server.url(), LONG).await;
    publish(&*broker, "high", 0).await;
    let run = next(&*broker, "high").await;
    broker.ack(&run.receipt).await.unwrap();
    let (run, ()) = tokio::join!(next(&*broker, "high"), async {
        eventually("a waiting request", async || {
            let info = api(server.url(), "CONSUMER.INFO.ORCH_JOBS.high", "").await;
            (info["num_waiting"] == 1).then_some(())
        })
        .await;
        api(server.url(), "CONSUMER.DELETE.ORCH_JOBS.high", "").await;
        publish(&*broker, "high", 1).await;
    });
    assert_eq!(run.payload, run_id("crawl", 1).to_string().into_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_of_ours_is_delivered_as_it_is() {
    let server = NatsServer::start();
    let broker = connect(server.url(), LONG).await;
    publish(&*broker, "high", 1).await;
    let run = next(&*broker, "high").await;
    broker.ack(&run.receipt).await.unwrap();
    server.publish("orch.jobs.high.anything.slot", b"\xff not JSON");
    let run = next(&*broker, "high").await;
    assert_eq!(run.payload, b"\xff not JSON");
    let pending = broker.pending(0, 10).await.unwrap();
    assert_eq!(pending.len(), 1);
    assert!(broker.remove(&pending[0]).await.unwrap());
    assert!(!broker.remove(&pending[0]).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_what_nobody_has_made_yet_finds_nothing() {
    let server = NatsServer::start();
    let broker = connect(server.url(), LONG).await;
    let job = run_id("crawl", 1);
    assert_eq!(broker.get(Bucket::State, "a").await, Ok(None));
    assert_eq!(broker.latest(Bucket::Runs, "a.").await, Ok(None));
    assert_eq!(broker.pending(0, 10).await, Ok(Vec::new()));
    assert_eq!(broker.queues().await, Ok(Vec::new()));
    assert_eq!(broker.read_log(&job, 0, 10).await, Ok(Vec::new()));
    assert_eq!(broker.dead_letters(None, 10).await, Ok(Vec::new()));
    broker.trim_log(&job, 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_or_a_server_without_room_is_full_and_not_broken() {
    let account = "jetstream {}\naccounts { A { users: [{ user: a, password: a }], jetstream: { max_file: 2MB } } }\nno_auth_user: a";
    for limited in [account, "jetstream { max_file_store: 2MB }"] {
        let server = NatsServer::start_with(limited);
        let broker = connect(server.url(), LONG).await;
        let big = |n: usize| orchestrator::broker::Outgoing {
            payload: vec![b'x'; 100_000],
            ..outgoing("high", n)
        };
        let mut stored = 0;
        let error = loop {
            match broker.publish(big(stored)).await {
                Ok(_) => stored += 1,
                Err(error) => break error,
            }
        };
        assert!(
            matches!(error, BrokerError::Full { .. }),
            "{limited}: {error:?}"
        );
        assert!((5..25).contains(&stored), "{limited}: {stored}");
        let value = vec![b'x'; 200_000];
        let error = broker.put(Bucket::State, "big", value).await.unwrap_err();
        assert!(
            matches!(error, BrokerError::Full { .. }),
            "{limited}: {error:?}"
        );
        // Many at once fare no worse.
        let many = (0..100).map(|n| broker.publish(big(1000 + n)));
        for published in futures::future::join_all(many).await {
            let error = published.unwrap_err();
            assert!(
                matches!(error, BrokerError::Full { .. }),
                "{limited}: {error:?}"
            );
        }
        for _ in 0..3 {
            let run = next(&*broker, "high").await;
            broker.ack(&run.receipt).await.unwrap();
        }
        let again = eventually("room", async || broker.publish(big(stored)).await.ok()).await;
        assert_eq!(again, orchestrator::broker::Published::Stored);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_is_full_and_not_broken() {
    let server = NatsServer::start();
    let broker = connect(server.url(), LONG).await;
    publish(&*broker, "high", 0).await;
    let mut info = api(server.url(), "STREAM.INFO.ORCH_JOBS", "").await;
    let mut config = info["config"].take();
    config["max_msgs"] = 2.into();
    api(server.url(), "STREAM.UPDATE.ORCH_JOBS", &config.to_string()).await;
    publish(&*broker, "high", 1).await;
    let full = broker.publish(outgoing("high", 2)).await.unwrap_err();
    assert!(matches!(full, BrokerError::Full { .. }), "{full:?}");
    let run = next(&*broker, "high").await;
    broker.ack(&run.receipt).await.unwrap();
    publish(&*broker, "high", 2).await;
}
