//! Messages that nobody should have published: each that cannot be understood becomes a dead letter with its reason, a
//! replayed one is dropped, and runs go on meanwhile.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Installation, checker, nats::NatsServer, wait_for};

const GOOD: &str = "[job.good]\noverlap = \"allow\"\nshell = \"echo $ORCHESTRATOR_RUN_ID >> good\"\nworking_dir = \"..\"\n";

/// A message as `docs/protocol.md` has it, of a run by hand.
fn message(here: &Installation, run_id: &str, file: &str) -> Value {
    json!({
        "version": 1,
        "run_id": run_id,
        "queue": "default",
        "scheduled_for": "2026-11-23T02:30:00Z",
        "published_at": "2026-11-23T02:30:00.004Z",
        "spec": {
            "execute": { "shell": format!("echo x >> {file}") },
            "working_dir": here.path(""),
            "kill": { "signal": "SIGTERM", "grace": 10.0 },
            "retry": { "attempts": 1, "backoff": { "fixed": 1.0 }, "max": 1.0, "jitter": 0.0 },
            "success_exit": [0],
            "output_limit": 1_048_576
        }
    })
}

fn with(mut message: Value, key: &str, value: Value) -> Vec<u8> {
    message[key] = value;
    message.to_string().into_bytes()
}

fn poison(here: &Installation) -> Vec<(&'static str, Vec<u8>)> {
    let id = "forged@01a21ccd-dc26-7371-8fa5-3dec0ec28cbe";
    let good = || message(here, id, "forged");
    vec![
        ("nothing", Vec::new()),
        ("no text", vec![0xff, 0xfe, 0x00, 0x80]),
        ("no JSON", b"this is not JSON".to_vec()),
        (
            "half of it",
            good().to_string().into_bytes()[..200].to_vec(),
        ),
        ("deeply nested", b"[".repeat(500_000)),
        ("a nested object", b"{\"version\":".repeat(50_000)),
        ("nearly too large", vec![b'x'; 1_000_000]),
        ("a list", b"[1, 2, 3]".to_vec()),
        ("another version", with(good(), "version", json!(99))),
        ("no version", with(good(), "version", Value::Null)),
        ("no run id", with(good(), "run_id", json!(""))),
        (
            "a path as its job",
            with(good(), "run_id", json!("../../etc@20261123T023000Z")),
        ),
        (
            "a time that is none",
            with(good(), "scheduled_for", json!("yesterday")),
        ),
        ("nothing to execute", with(good(), "spec", json!({}))),
        (
            "a number as its command",
            with(good(), "spec", json!({ "execute": { "command": 7 } })),
        ),
    ]
}

#[test]
fn each_is_buried_with_its_reason_and_the_worker_goes_on() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", GOOD);
    let _beat = here.start("beat", &["beat"]);
    let mut worker = here.start("worker", &["worker", "--queue", "default"]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    assert_eq!(here.run(&["run", "good", "--wait"]).code, 0);
    let poison = poison(&here);
    for (number, (_, payload)) in poison.iter().enumerate() {
        nats.publish(&format!("orch.jobs.default.poison-{number}.slot"), payload);
        if number % 5 == 0 {
            assert_eq!(here.run(&["run", "good", "--wait"]).code, 0);
        }
    }
    let letters = wait_for("the dead letters", || {
        let letters = here.try_json(&["dead"])?;
        (letters.as_array()?.len() == poison.len()).then_some(letters)
    });
    for letter in letters.as_array().unwrap() {
        let reason = letter["reason"].as_str().unwrap();
        assert!(
            reason.contains("not understood") || reason.contains("version"),
            "{letter}"
        );
        assert!(reason.len() < 2_000, "{} bytes of reason", reason.len());
    }
    assert_eq!(here.run(&["run", "good", "--wait"]).code, 0);
    assert!(worker.ended().is_none());
    assert!(!here.path("forged").exists());
    checker::all_ended(&here);
    checker::executed_once(&here, "good", "good");
}

#[test]
fn a_replayed_message_is_dropped() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", GOOD);
    let _beat = here.start("beat", &["beat"]);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    let id = "replayed@01a21ccd-dc26-7371-8fa5-3dec0ec28cbf";
    let message = message(&here, id, "replayed").to_string();
    for round in 0..3 {
        // Without a message id, so that the server cannot know it.
        nats.publish("orch.jobs.default.replayed.slot", message.as_bytes());
        wait_for("its end", || {
            (here.try_json(&["show", id])?["state"] == "succeeded").then_some(())
        });
        checker::all_ended(&here);
        assert_eq!(here.lines("replayed").len(), 1, "round {round}");
        assert_eq!(here.run(&["run", "good", "--wait"]).code, 0);
    }
    assert_eq!(here.json(&["dead"]).as_array().unwrap().len(), 0);
}

#[test]
fn what_is_too_large_is_refused_before_it_is_published() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", GOOD);
    let _beat = here.start("beat", &["beat"]);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    let lines = here.path("large.jsonl");
    let large = json!({ "text": "x".repeat(1 << 20) });
    fs::write(&lines, format!("{large}\n")).unwrap();
    let refused = here.run(&["run", "good", "--batch", lines.to_str().unwrap()]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.stderr.contains("more than 1048576"),
        "{}",
        refused.stderr
    );
    fs::write(
        here.path("schedules/large.toml"),
        format!(
            "[job.large]\nevery = \"1h\"\ncommand = [\"echo\", \"{}\"]\n",
            "x".repeat(1 << 20)
        ),
    )
    .unwrap();
    let checked = here.run(&["check"]);
    assert_eq!(checked.code, 3, "{checked:?}");
    assert!(
        checked.stderr.contains("more than 1048576"),
        "{}",
        checked.stderr
    );
    assert_eq!(here.run(&["run", "good", "--wait"]).code, 0);
    checker::all_ended(&here);
}
