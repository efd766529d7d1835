//! What somebody has changed of the settings of streams and consumers is seen.

use std::time::Duration;

use orchestrator::{
    broker::{Broker, Bucket, Remark, RemarkKind},
    run::WorkerStatus,
};
use serde_json::{Value, json};

use super::{
    harness::{LONG, connect, publish},
    server::NatsServer,
};

const SECOND: u64 = 1_000_000_000;

/// What is said of settings, but for what is well.
async fn wrong(broker: &dyn Broker) -> Vec<Remark> {
    let mut remarks = broker.remarks().await.unwrap();
    remarks.retain(|remark| remark.check == "streams" && remark.kind != RemarkKind::Ok);
    remarks
}

/// Whether the server is of this series or a later one.
fn is_of(remarks: &[Remark], series: (u32, u32)) -> bool {
    let version = remarks
        .iter()
        .find(|remark| remark.check == "version")
        .unwrap();
    let version = version.message.strip_prefix("nats-server ").unwrap();
    let mut numbers = version
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) >= series
}

/// The remarks about a thing, each of which has to say how to mend it.
async fn remarks_about(broker: &dyn Broker, thing: &str, edit: &str) -> Vec<Remark> {
    let mut remarks = wrong(broker).await;
    remarks.retain(|remark| remark.message.contains(&format!("{thing} ")));
    for remark in &remarks {
        let help = remark.help.as_deref().unwrap();
        assert!(help.contains(edit), "{remark:?}");
    }
    remarks
}

/// Expects a remark for each setting, and no other.
fn each_is_named(remarks: &[Remark], thing: &str, settings: &Value) {
    let settings = settings.as_object().unwrap();
    for key in settings.keys() {
        let says = format!("{thing} was changed: {key} is ");
        let named = remarks
            .iter()
            .any(|remark| remark.message.starts_with(&says));
        assert!(named, "{says}: {remarks:#?}");
    }
    assert_eq!(remarks.len(), settings.len(), "{remarks:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_settings_of_streams_are_named() {
    let server = NatsServer::start();
    let broker = connect(server.url(), LONG).await;
    broker.make_everything().await.unwrap();
    publish(&*broker, "high", 1).await;
    assert_eq!(wrong(&*broker).await, []);

    let subjects = |stream: &str, more: &str| {
        let info = server.api(&format!("STREAM.INFO.{stream}"), "");
        json!([info["config"]["subjects"][0], more])
    };
    let mut jobs = json!({
        "subjects": subjects("ORCH_JOBS", "a.>"), "no_ack": true, "discard": "old", "discard_new_per_subject": false,
        "max_msgs_per_subject": 2, "max_age": 3600 * SECOND, "duplicate_window": SECOND, "max_msg_size": 1000,
        "deny_delete": true,
    });
    let bucket = json!({
        "subjects": subjects("KV_ORCH_RUNS", "b.>"), "no_ack": true, "discard": "old", "max_msgs_per_subject": 2,
        "max_age": 3600 * SECOND, "allow_rollup_hdrs": true, "max_msg_size": 1000,
    });
    let logs = json!({
        "subjects": subjects("ORCH_LOGS", "c.>"), "no_ack": true, "discard": "new", "max_msgs": 10, "max_bytes": 10_000,
        "max_msgs_per_subject": 1, "max_age": 3600 * SECOND, "max_msg_size": 1000, "deny_purge": true,
    });
    let dead = json!({
        "subjects": subjects("ORCH_DEAD", "d.>"), "no_ack": true, "discard": "new", "max_msgs": 10, "max_bytes": 10_000,
        "max_msgs_per_subject": 1, "max_age": 3600 * SECOND, "max_msg_size": 1000, "deny_delete": true,
    });
    if is_of(&broker.remarks().await.unwrap(), (2, 10)) {
        jobs["subject_transform"] = json!({ "src": "a.>", "dest": "a.x.>" });
    }
    for (stream, settings) in [
        ("ORCH_JOBS", jobs),
        ("KV_ORCH_RUNS", bucket),
        ("ORCH_LOGS", logs),
        ("ORCH_DEAD", dead),
        ("KV_ORCH_LOCKS", json!({ "sealed": true })),
        ("KV_ORCH_STATE", json!({ "discard_new_per_subject": true })),
    ] {
        server.edit_stream(stream, &settings);
        let edit = format!("`nats stream edit {stream}`");
        let remarks = remarks_about(&*broker, stream, &edit).await;
        each_is_named(&remarks, stream, &settings);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_settings_of_consumers_are_named() {
    let server = NatsServer::start();
    let broker = connect(server.url(), LONG).await;
    broker.make_everything().await.unwrap();
    publish(&*broker, "high", 1).await;
    publish(&*broker, "low", 2).await;
    assert_eq!(wrong(&*broker).await, []);

    let info = server.api("CONSUMER.INFO.ORCH_JOBS.high", "");
    let set = |more: &Value| {
        let mut config = info["config"].clone();
        let more = more.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(more);
        let body = json!({ "stream_name": "ORCH_JOBS", "config": config }).to_string();
        server.api("CONSUMER.DURABLE.CREATE.ORCH_JOBS.high", &body);
    };
    let about = async |edit| remarks_about(&*broker, "high", edit).await;
    let thing = "the consumer high of ORCH_JOBS";
    let changed = json!({
        "max_deliver": 5, "max_ack_pending": 1, "headers_only": true,
        "inactive_threshold": 60 * SECOND, "max_batch": 1, "max_expires": SECOND,
    });
    set(&changed);
    let edit = "`nats consumer edit ORCH_JOBS high`";
    each_is_named(&about(edit).await, thing, &changed);
    set(&json!({ "max_deliver": 3, "backoff": [SECOND, 2 * SECOND] }));
    let remarks = about("").await;
    each_is_named(
        &remarks[..2],
        thing,
        &json!({ "max_deliver": 3, "backoff": [] }),
    );
    // What cannot be edited can be made so.
    server.api("CONSUMER.DELETE.ORCH_JOBS.high", "");
    let made = json!({
        "max_waiting": 16, "mem_storage": true, "replay_policy": "original", "filter_subject": "orch.jobs.high.x.>",
    });
    set(&made);
    each_is_named(&about(edit).await, thing, &made);
    assert_eq!(
        wrong(&*broker).await.len(),
        4,
        "of the other one there is no word"
    );
    if is_of(&broker.remarks().await.unwrap(), (2, 11)) {
        let until = json!({ "pause_until": "2100-01-01T00:00:00Z" });
        server.api("CONSUMER.PAUSE.ORCH_JOBS.low", &until.to_string());
        let mend = "`nats consumer resume ORCH_JOBS low`";
        let remarks = remarks_about(&*broker, "low", mend).await;
        assert_eq!(remarks.len(), 1, "{remarks:#?}");
        assert!(remarks[0].message.contains("is paused until 2100"));
    }
}

/// What cannot be edited, and what leaves no room for other settings.
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_something_was_made_with_are_named() {
    let server = NatsServer::start();
    let broker = connect(server.url(), LONG).await;
    broker.make_everything().await.unwrap();
    publish(&*broker, "high", 1).await;
    let is_new = is_of(&broker.remarks().await.unwrap(), (2, 11));
    let consumer = server.api("CONSUMER.INFO.ORCH_JOBS.high", "")["config"].take();
    let make_consumer = |change: &dyn Fn(&mut Value)| {
        server.api("CONSUMER.DELETE.ORCH_JOBS.high", "");
        let mut config = consumer.clone();
        change(&mut config);
        let body = json!({ "stream_name": "ORCH_JOBS", "config": config }).to_string();
        server.api("CONSUMER.DURABLE.CREATE.ORCH_JOBS.high", &body);
    };
    let thing = "the consumer high of ORCH_JOBS";
    let edit = "`nats consumer edit ORCH_JOBS high`";
    make_consumer(&|config| {
        config["deliver_subject"] = "elsewhere".into();
        config.as_object_mut().unwrap().remove("max_waiting");
    });
    let pushed = remarks_about(&*broker, "high", edit).await;
    let says = format!(
        "{thing} was changed: deliver_subject is elsewhere, and no worker can ask for runs"
    );
    assert!(
        pushed.iter().any(|remark| remark.message == says),
        "{pushed:#?}"
    );
    if is_new {
        let grouped = json!({ "priority_groups": ["a"], "priority_policy": "overflow" });
        make_consumer(&|config| {
            let more = grouped.as_object().unwrap().clone();
            config.as_object_mut().unwrap().extend(more);
        });
        let groups = json!({ "priority_groups": ["a"] });
        each_is_named(&remarks_about(&*broker, "high", edit).await, thing, &groups);
    }
    let mut stream = server.api("STREAM.INFO.ORCH_JOBS", "")["config"].take();
    server.api("STREAM.DELETE.ORCH_JOBS", "");
    stream["max_consumers"] = 3.into();
    server.api("STREAM.CREATE.ORCH_JOBS", &stream.to_string());
    let few = remarks_about(&*broker, "ORCH_JOBS", "`nats stream edit ORCH_JOBS`").await;
    each_is_named(&few, "ORCH_JOBS", &json!({ "max_consumers": 3 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_not_that_of_the_workers_is_named() {
    let server = NatsServer::start();
    let broker = connect(server.url(), LONG).await;
    broker.make_everything().await.unwrap();
    publish(&*broker, "high", 1).await;
    let worker = |id: &'static str, lease: Option<Duration>| {
        let now = chrono::DateTime::UNIX_EPOCH;
        let mut status = json!({
            "id": id, "host": "h", "pid": 1, "queues": ["high:2", "low"], "concurrency": 1, "running": [],
            "started_at": now, "seen_at": now, "draining": false,
        });
        status["lease"] = lease.map_or(Value::Null, |lease| lease.as_secs().into());
        let _: WorkerStatus = serde_json::from_value(status.clone()).unwrap();
        let status = status.to_string().into_bytes();
        broker.put(Bucket::Workers, id, status)
    };
    worker("a", Some(LONG)).await.unwrap();
    worker("older", None).await.unwrap();
    assert_eq!(wrong(&*broker).await, []);
    worker("b", Some(Duration::from_secs(15))).await.unwrap();
    let remarks = wrong(&*broker).await;
    assert_eq!(remarks.len(), 1, "{remarks:#?}");
    let Remark { message, help, .. } = &remarks[0];
    assert!(
        message.contains("the lease of the queue high is 10m"),
        "{message}"
    );
    assert!(message.contains("was told 15s"), "{message}");
    assert!(help.as_deref().unwrap().contains("--lease"), "{help:?}");
}
