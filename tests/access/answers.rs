//! What the server answers reaches nobody but the role that asked, wherever a request wants its answer: permissions do
//! not reach it, the accounts do.

use std::time::Duration;

use async_nats::Client;
use serde_json::{Value, json};

use super::{
    installation::{Accounts, Shipped, config, is_old, lists},
    support::{Installation, Service, wait_for},
};

/// A key that every worker may write.
const OWN: &str = "$KV.ORCH_RUNS.evil.1";
/// A stream that is there to be spoilt, and where it takes messages from.
const BAIT: &str = "BAIT";

/// A server with the streams of a beat, and one who can see and mend everything.
struct Scene {
    shipped: Shipped,
    admin: Client,
    _beat: Service,
    _installation: Installation,
}

impl Scene {
    async fn set(accounts: Accounts) -> Self {
        let shipped = Shipped::start_in(accounts);
        let installation = Installation::new();
        installation.schedule("jobs.toml", "[job.tick]\ncommand = [\"true\"]\n");
        let env = shipped.env("beat");
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, &**value)).collect();
        let beat = installation.start_with("beat", &["beat"], &env);
        wait_for("beat's streams", || {
            let last = shipped.server.has_stream("KV_ORCH_UNIQUE_MONTH");
            last.then_some(())
        });
        let admin = shipped.admin().await;
        let queue = json!({ "stream_name": "ORCH_JOBS", "config": {
            "durable_name": "high", "name": "high", "ack_policy": "explicit", "filter_subject": "orch.jobs.high.>" } });
        let made = "CONSUMER.CREATE.ORCH_JOBS.high.orch.jobs.high.>";
        let scene = Self {
            shipped,
            admin,
            _beat: beat,
            _installation: installation,
        };
        assert_eq!(scene.api(made, &queue).await.get("error"), None);
        scene
    }

    async fn api(&self, subject: &str, body: &Value) -> Value {
        let asked = self
            .admin
            .request(format!("$JS.API.{subject}"), body.to_string().into());
        serde_json::from_slice(&asked.await.unwrap().payload).unwrap()
    }

    /// Makes the bait anew, with one message.
    async fn lay(&self) {
        self.api(&format!("STREAM.DELETE.{BAIT}"), &json!({})).await;
        let stream = json!({ "name": BAIT, "subjects": ["bait.>"], "storage": "memory" });
        let made = self.api(&format!("STREAM.CREATE.{BAIT}"), &stream).await;
        assert_eq!(made.get("error"), None, "{made}");
        self.admin.request("bait.one", "1".into()).await.unwrap();
    }

    /// Whether the bait is as it was laid.
    async fn is_whole(&self) -> bool {
        let found = self.api(&format!("STREAM.INFO.{BAIT}"), &json!({})).await;
        let said = found["config"].get("description");
        found["state"]["messages"] == 1 && found["state"]["last_seq"] == 1 && said.is_none()
    }

    async fn is_stored(&self, stream: &str, subject: &str) -> bool {
        let which = json!({ "last_by_subj": subject });
        let asked = self.api(&format!("STREAM.MSG.GET.{stream}"), &which).await;
        asked.get("message").is_some()
    }
}

/// What a role may ask, and the body of it.
fn questions(role: &str) -> Vec<(String, &'static str)> {
    let (mine, is_reader) = match role {
        "viewer" | "operator" => ("KV_ORCH_STATE.$KV.ORCH_STATE", true),
        _ => ("KV_ORCH_RUNS.$KV.ORCH_RUNS", false),
    };
    let mut asked = vec![
        ("$JS.API.INFO".to_owned(), ""),
        ("$JS.API.STREAM.INFO.ORCH_JOBS".to_owned(), ""),
    ];
    if is_reader || !is_old() {
        asked.push((format!("$JS.API.DIRECT.GET.{mine}.not.there"), ""));
    }
    if is_reader {
        let all = "$JS.API.STREAM.MSG.GET.KV_ORCH_STATE".to_owned();
        asked.push((all, "{\"seq\":1}"));
    } else {
        let next = "$JS.API.CONSUMER.MSG.NEXT.ORCH_JOBS.high";
        asked.push((next.to_owned(), "{\"batch\":1,\"no_wait\":true}"));
        asked.push((next.to_owned(), "{\"batch\":1,\"expires\":50000000}"));
        asked.push(("orch.logs.evil.1".to_owned(), "1"));
    }
    if role != "viewer" {
        asked.push(("$KV.ORCH_RUNS.evil.2".to_owned(), "{}"));
    }
    // The answer is what the role itself has written, as the body of a request.
    if is_reader || !is_old() {
        asked.push((format!("$JS.API.DIRECT.GET.KV_ORCH_RUNS.{OWN}"), ""));
    }
    asked
}

/// Has the answer sent to `target`, and comes back when the server has dealt with it.
async fn misdirect(scene: &Scene, client: &Client, (ask, body): (&str, &str), target: &str) {
    let sent = client.publish_with_reply(ask.to_owned(), target.to_owned(), body.to_owned().into());
    sent.await.unwrap();
    // The same again, answered to the one who asks: what was asked before is answered before.
    let asked = client.request(ask.to_owned(), body.to_owned().into());
    let answered = tokio::time::timeout(Duration::from_secs(10), asked).await;
    answered
        .unwrap_or_else(|_| panic!("no answer to {ask}"))
        .unwrap_or_else(|error| panic!("{ask}: {error}"));
    // Requests to the API are worked off one after the other.
    scene.api("STREAM.INFO.ORCH_JOBS", &json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_no_request_and_is_stored_nowhere() {
    let scene = Scene::set(Accounts::Own).await;
    let mut spoilt = Vec::new();
    for role in ["viewer", "operator", "worker_high"] {
        let client = scene.shipped.connected(role).await;
        for (ask, body) in questions(role) {
            for (what, own) in [
                ("STREAM.PURGE", ""),
                ("STREAM.DELETE", ""),
                ("STREAM.MSG.DELETE", "{\"seq\":1}"),
                (
                    "STREAM.UPDATE",
                    "{\"name\":\"BAIT\",\"subjects\":[\"bait.>\"],\"storage\":\"memory\",\"description\":\"evil\"}",
                ),
            ] {
                scene.lay().await;
                scene.admin.request(OWN, own.into()).await.unwrap();
                let target = format!("$JS.API.{what}.{BAIT}");
                misdirect(&scene, &client, (&ask, body), &target).await;
                if !scene.is_whole().await {
                    spoilt.push(format!("{role}: {ask} to {target}"));
                }
            }
            scene.lay().await;
            for (stream, target) in [
                (BAIT, "bait.two"),
                ("KV_ORCH_STATE", "$KV.ORCH_STATE.def.evil"),
                ("KV_ORCH_STATE", "$KV.ORCH_STATE.leader.evil"),
                ("ORCH_DEAD", "orch.dead.evil"),
                ("ORCH_JOBS", "orch.jobs.default.evil.slot"),
            ] {
                // An operator may publish these himself.
                if role == "operator" && target.starts_with("orch.") {
                    continue;
                }
                misdirect(&scene, &client, (&ask, body), target).await;
                if scene.is_stored(stream, target).await {
                    spoilt.push(format!("{role}: {ask} to {target}"));
                }
            }
        }
    }
    assert!(spoilt.is_empty(), "{spoilt:#?}");
}

/// Why there are accounts; and that the test above would notice.
#[tokio::test(flavor = "multi_thread")]
async fn in_one_account_permissions_do_not_hold_an_answer() {
    let scene = Scene::set(Accounts::One).await;
    for (role, ask, body) in [
        (
            "viewer",
            "$JS.API.DIRECT.GET.KV_ORCH_STATE.$KV.ORCH_STATE.not.there",
            "",
        ),
        (
            "worker_high",
            "$JS.API.CONSUMER.MSG.NEXT.ORCH_JOBS.high",
            "{\"batch\":1,\"no_wait\":true}",
        ),
    ] {
        let client = scene.shipped.connected(role).await;
        for what in ["PURGE", "DELETE"] {
            scene.lay().await;
            let target = format!("$JS.API.STREAM.{what}.{BAIT}");
            misdirect(&scene, &client, (ask, body), &target).await;
            assert!(!scene.is_whole().await, "{role}: {ask} to {target}");
        }
        scene.lay().await;
        misdirect(&scene, &client, (ask, body), "bait.two").await;
        assert!(scene.is_stored(BAIT, "bait.two").await, "{role}: {ask}");
    }
}

/// An import that is missing would be an answer that does not come; one too many, a subject that answers reach.
#[test]
fn each_account_imports_what_its_role_may_publish() {
    let roles = lists(&config(""));
    assert_eq!(roles.len(), 4);
    for (may, imports) in roles {
        let inbox = imports.last().unwrap();
        assert!(inbox.starts_with("_INBOX_"), "{inbox}");
        let mut may: Vec<_> = may.into_iter().filter(|subject| subject != inbox).collect();
        let mut imports = imports[..imports.len() - 1].to_vec();
        may.sort();
        imports.sort();
        assert_eq!(may, imports);
    }
}
