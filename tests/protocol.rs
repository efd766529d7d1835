//! The examples in `docs/protocol.md` are what this build reads and writes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use orchestrator::{
    broker::{DeadLetter, LogChunk},
    run::{Authority, Keyring, RunMessage, RunRecord, Signer},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn example(kind: &str) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol.md");
    let text = std::fs::read_to_string(path).unwrap();
    let fence = format!("```json {kind}\n");
    let (_, rest) = text.split_once(&fence).expect("the example");
    let (json, _) = rest.split_once("```").unwrap();
    serde_json::from_str(json).unwrap()
}

/// Every field of the example is understood, and written again.
fn round_trip<T: Serialize + DeserializeOwned>(kind: &str) {
    let example = example(kind);
    let value: T = serde_json::from_value(example.clone()).unwrap();
    let again = serde_json::to_value(value).unwrap();
    for (key, expected) in example.as_object().unwrap() {
        assert_eq!(&again[key], expected, "{kind}: {key}");
    }
}

#[test]
fn the_signature_is_what_others_make() {
    let example = example("signature");
    let text = |name: &str| example[name].as_str().unwrap();
    let signer: Signer = text("private_key").parse().unwrap();
    assert_eq!(signer.public().to_string(), text("public_key"));
    assert_eq!(signer.public().id().to_string(), text("key_id"));
    let (subject, payload) = (text("subject"), text("payload").as_bytes());
    assert_eq!(signer.sign(subject, payload), text("signature"));
    let keys = Keyring::parse(text("public_key")).unwrap();
    let verified = keys.verify(subject, Some(text("signature")), payload);
    assert_eq!(verified.unwrap().to_string(), text("key_id"));
    let run_id = RunMessage::decode(payload).unwrap().run_id;
    assert_eq!(signer.message_id(&run_id), text("message_id"));
}

#[test]
fn a_signed_value_is_what_others_make() {
    let example = example("signed-value");
    let text = |name: &str| example[name].as_str().unwrap();
    let authority = Authority::new(text("private_key").parse().unwrap(), None);
    let sealed = authority.sealed(text("address"), text("value").into());
    assert_eq!(String::from_utf8(sealed).unwrap(), text("stored"));
    let opened = authority.opened(text("address"), text("stored").as_bytes());
    assert_eq!(opened.unwrap(), text("value").as_bytes());
}

#[test]
fn the_examples_are_true() {
    round_trip::<RunMessage>("message");
    round_trip::<RunRecord>("record");
    round_trip::<LogChunk>("log");
    round_trip::<DeadLetter>("dead");
    let bytes = serde_json::to_vec(&example("message")).unwrap();
    RunMessage::decode(&bytes).unwrap();
}
