//! Somebody without a key who can write to the server, and what that does to those who have one.

use std::sync::Arc;

use async_nats::{Client, HeaderMap};
use orchestrator::{
    broker::{
        self, Broker, Candidate, Outgoing, Published, RefusedBy, Slot,
        nats::{NatsBroker, NatsOptions},
    },
    clock,
    job::{Execute, Overlap, RunSpec},
    run::{Authority, Keyring, RunId, RunMessage, SIGNATURE_HEADER, Signer},
};

use super::{
    harness::{LONG, next, options},
    server::NatsServer,
};

struct Scene {
    server: NatsServer,
    beat: Arc<NatsBroker>,
    hostile: Client,
}

fn signer(seed: u8) -> Signer {
    Signer::from_seed(&[seed; 32])
}

fn ring(seeds: &[u8]) -> Keyring {
    let mut ring = Keyring::default();
    for seed in seeds {
        ring.add(signer(*seed).public().clone());
    }
    ring
}

async fn with_key(url: String, authority: Authority) -> Arc<NatsBroker> {
    let options = NatsOptions {
        authority: Some(authority),
        ..options(url, LONG)
    };
    NatsBroker::connect(options).await.unwrap()
}

impl Scene {
    /// A beat with the first key, which knows of the second.
    async fn new() -> Self {
        let server = NatsServer::start();
        let authority = Authority::new(signer(1), Some(ring(&[1, 2])));
        let beat = with_key(server.url(), authority).await;
        // So that the stream is there.
        assert!(beat.pending(0, 1).await.unwrap().is_empty());
        let hostile = async_nats::connect(server.url()).await.unwrap();
        Self {
            server,
            beat,
            hostile,
        }
    }

    /// Publishes as anybody can who may write to the server; it has to be stored.
    async fn forge(&self, subject: &str, headers: &[(&str, &str)], payload: &[u8]) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let payload = payload.to_vec().into();
        let request = async_nats::Request::new().headers(map).payload(payload);
        let answer = self.hostile.send_request(subject.to_owned(), request);
        let answer = answer.await.unwrap().payload;
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer.get("error"), None, "{answer}");
        assert_eq!(answer.get("duplicate"), None, "{answer}");
    }

    /// The rules by which letters were refused, newest first.
    async fn refused(&self) -> Vec<String> {
        let letters = self.beat.dead_letters(None, 10).await.unwrap();
        let refused = letters.into_iter().filter_map(|(_, letter)| letter.refused);
        refused
            .map(|refused| {
                assert_eq!(refused.by, RefusedBy::Signature);
                refused.rule
            })
            .collect()
    }
}

fn tick(job: &str) -> RunId {
    format!("{job}@20991123T023000Z").parse().unwrap()
}

fn message(run_id: &RunId) -> Vec<u8> {
    let spec = RunSpec::new(Execute::Command(vec!["true".parse().unwrap()]));
    let queue = "default".parse().unwrap();
    let message = RunMessage::new(run_id.clone(), queue, clock::now(), spec);
    message.encode().unwrap()
}

fn outgoing(run_id: &RunId, slot: Slot) -> Outgoing {
    Outgoing {
        run_id: run_id.clone(),
        queue: "default".parse().unwrap(),
        slot,
        payload: message(run_id),
    }
}

#[tokio::test]
async fn an_id_that_was_used_up_in_advance_takes_no_tick_away() {
    let scene = Scene::new().await;
    let run = tick("crawl");
    let id = run.to_string();
    // The server would answer "duplicate" to whoever used this id as it is.
    let elsewhere = "orch.jobs.nobody.other.slot";
    scene.forge(elsewhere, &[("Nats-Msg-Id", &id)], b"{}").await;
    let published = scene.beat.publish(outgoing(&run, Slot::Run)).await;
    assert_eq!(published, Ok(Published::Stored));
    // Its own repeat is one.
    let again = scene.beat.publish(outgoing(&run, Slot::Run)).await;
    assert_eq!(again, Ok(Published::Duplicate));
    let delivery = next(scene.beat.as_ref(), "default").await;
    assert_eq!(delivery.subject, "orch.jobs.default.crawl.20991123T023000Z");
    let header = delivery.signature.as_deref();
    let ring = ring(&[1]);
    let verified = ring.verify(&delivery.subject, header, &delivery.payload);
    assert_eq!(verified.as_ref(), Ok(&signer(1).public().id()));
}

#[tokio::test]
async fn a_forged_message_holds_no_slot_and_is_kept_for_a_person() {
    let scene = Scene::new().await;
    let queue = "default".parse().unwrap();
    for (nth, slot) in [Slot::Job, Slot::Run].into_iter().enumerate() {
        // Under its own name, under that of another run, with a signature for another place, by another key.
        for (round, rule) in ["unsigned", "unsigned", "altered", "untrusted"]
            .into_iter()
            .enumerate()
        {
            let run: RunId = format!("crawl@20991123T02{nth}{round}00Z").parse().unwrap();
            let subject = match slot {
                Slot::Job | Slot::Next => "orch.jobs.default.crawl.slot".to_owned(),
                Slot::Run => format!("orch.jobs.default.{}", run.key()),
            };
            let claimed = if round == 1 {
                tick("crawl")
            } else {
                run.clone()
            };
            let signature = match rule {
                "altered" => Some(signer(1).sign("orch.jobs.low.crawl.slot", &message(&run))),
                "untrusted" => Some(signer(9).sign(&subject, &message(&run))),
                _ => None,
            };
            let id = format!("{claimed}.{nth}{round}");
            let mut headers = vec![("Nats-Msg-Id", id.as_str())];
            headers.extend(signature.as_deref().map(|value| (SIGNATURE_HEADER, value)));
            scene.forge(&subject, &headers, &message(&claimed)).await;
            let seen = scene.beat.occupant(&queue, &run, slot).await.unwrap();
            assert_eq!(seen, None, "{slot:?} {round}");
            let published = scene.beat.publish(outgoing(&run, slot)).await;
            assert_eq!(published, Ok(Published::Stored), "{slot:?} {round}");
            let refused = scene.refused().await;
            assert_eq!(refused.first().map(String::as_str), Some(rule));
            let stored = scene.beat.occupant(&queue, &run, slot).await.unwrap();
            assert!(scene.beat.remove(&stored.unwrap()).await.unwrap());
        }
    }
    assert_eq!(scene.refused().await.len(), 8);
}

#[tokio::test]
async fn runs_of_others_who_may_publish_are_respected() {
    let scene = Scene::new().await;
    let run = tick("crawl");
    let second = with_key(scene.server.url(), Authority::new(signer(2), None)).await;
    let stranger = with_key(scene.server.url(), Authority::new(signer(3), None)).await;
    let publish = async |broker: &NatsBroker, run: &RunId| {
        broker.publish(outgoing(run, Slot::Job)).await.unwrap()
    };
    assert_eq!(publish(&second, &run).await, Published::Stored);
    assert_eq!(publish(&scene.beat, &run).await, Published::Duplicate);
    // It does not know the key, and cannot tell that it is a wrong one.
    assert_eq!(publish(&stranger, &run).await, Published::Duplicate);
    assert!(scene.refused().await.is_empty());
    // The other way round this one can.
    let other = tick("feed");
    assert_eq!(publish(&stranger, &other).await, Published::Stored);
    assert_eq!(publish(&scene.beat, &other).await, Published::Stored);
    assert_eq!(scene.refused().await, ["untrusted"]);
}

#[tokio::test]
async fn a_forged_message_makes_nobody_cancel_what_it_names() {
    let scene = Scene::new().await;
    let victim = tick("payments");
    let published = scene.beat.publish(outgoing(&victim, Slot::Run)).await;
    assert_eq!(published, Ok(Published::Stored));
    let id = victim.to_string();
    let headers = [("Nats-Msg-Id", id.as_str())];
    let slot = "orch.jobs.default.crawl.slot";
    scene.forge(slot, &headers, &message(&victim)).await;
    let run = tick("crawl");
    let candidate = Candidate {
        run_id: run.clone(),
        queue: "default".parse().unwrap(),
        overlap: Overlap::Replace,
        payload: message(&run),
    };
    let published = broker::publish(scene.beat.as_ref(), &candidate, &[], clock::now()).await;
    assert_eq!(published, Ok(Published::Stored));
    let record = scene.beat.get(broker::Bucket::Runs, &victim.key()).await;
    assert_eq!(record.unwrap(), None, "it was cancelled");
    let mut seen = Vec::new();
    for _ in 0..2 {
        let delivery = next(scene.beat.as_ref(), "default").await;
        seen.extend(RunMessage::run_id_in(&delivery.payload));
        scene.beat.ack(&delivery.receipt).await.unwrap();
    }
    seen.sort();
    assert_eq!(seen, [run, victim]);
    let left = scene.beat.pending(0, 10).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}
