//! `orchestrator bench`.

use futures::TryStreamExt;
use serde_json::Value;

use crate::support::{Installation, nats::NatsServer};

const LITTLE: [&str; 7] = [
    "bench",
    "--rounds=1",
    "--programs=40",
    "--concurrency=4",
    "--noops=100",
    "--noop-concurrency=16",
    "--delays=10",
];

fn assert_measured(report: &Value) {
    for (what, count) in [("programs", 40), ("noops", 100)] {
        let compared = &report[what];
        let number = |key: &str| compared[key].as_f64().unwrap();
        assert!(number("rate") > 0.0 && number("limit") > 0.0, "{report}");
        let ratio = number("rate") / number("limit");
        assert!((number("ratio") - ratio).abs() < 1e-6, "{report}");
        assert_eq!(compared["count"], count);
    }
    let delay = |key: &str| report["delay_ms"][key].as_f64().unwrap();
    assert!(
        delay("p50") > 0.0 && delay("p50") <= delay("p99"),
        "{report}"
    );
    assert_eq!(report["delay_ms"]["count"], 10);
}

#[test]
fn the_embedded_broker_is_measured_and_nothing_stays() {
    let here = Installation::new();
    here.schedule("a.toml", "[job.a]\nshell = \"true\"\n");
    let up = here.up(&[]);
    let report = here.json(&LITTLE);
    assert_measured(&report);
    assert!(report["broker"].as_str().unwrap().contains("embedded"));
    let left = std::fs::read_dir(here.path("data")).unwrap();
    let mut names = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(!names.any(|name| name.starts_with("bench")), "left over");
    assert_eq!(here.json(&["runs"]), Value::Array(Vec::new()));
    assert!(up.stop().success());
}

#[tokio::test]
async fn nats_is_measured_in_a_namespace_that_goes_afterwards() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    let report = here.json(&LITTLE);
    assert_measured(&report);
    assert!(report["broker"].as_str().unwrap().contains(&nats.url()));
    let client = async_nats::connect(nats.url()).await.unwrap();
    let streams = async_nats::jetstream::new(client).stream_names();
    let left: Vec<String> = streams.try_collect().await.unwrap();
    assert_eq!(left, [""; 0]);
}
