//! Runs that are signed, and those that are not what they claim to be.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use async_nats::{Client, HeaderMap, Request};
use orchestrator::run::{RunMessage, SIGNATURE_HEADER, Signer};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::support::{Installation, Service, nats::NatsServer, wait_for};

pub(crate) const JOBS: &str = r#"
[job.note]
shell = 'echo "$ORCHESTRATOR_RUN_ID" >> notes'
working_dir = ".."
overlap = "allow"
[job.tick]
every = "1s"
shell = 'echo "$ORCHESTRATOR_ATTEMPT" >> ticks; [ "$ORCHESTRATOR_ATTEMPT" = 2 ]'
working_dir = ".."
retry = { attempts = 2, backoff = "fixed", initial = "10ms" }
"#;

/// Somebody who may write to the server, and has no key.
pub(crate) struct Hostile {
    runtime: Runtime,
    client: Client,
}

/// A stored message, as anybody can read it.
pub(crate) struct Stolen {
    pub(crate) subject: String,
    pub(crate) signature: String,
    pub(crate) payload: Vec<u8>,
}

impl Hostile {
    pub(crate) fn new(url: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let client = runtime.block_on(async_nats::connect(url)).unwrap();
        Self { runtime, client }
    }

    fn request(&self, subject: &str, request: Request) -> Value {
        let sent = self.client.send_request(subject.to_owned(), request);
        let answer = self.runtime.block_on(sent).unwrap().payload;
        serde_json::from_slice(&answer).unwrap()
    }

    /// Publishes; whether it was stored.
    pub(crate) fn publish(&self, subject: &str, signature: Option<&str>, payload: &[u8]) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(signature) = signature {
            headers.insert(SIGNATURE_HEADER, signature);
        }
        let request = Request::new()
            .payload(payload.to_vec().into())
            .headers(headers);
        self.request(subject, request).get("error").is_none()
    }

    pub(crate) fn steal(&self, job: &str) -> Stolen {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let which = json!({ "seq": 1, "next_by_subj": format!("orch.jobs.*.{job}.>") });
        let request = Request::new().payload(which.to_string().into());
        let answer = self.request("$JS.API.STREAM.MSG.GET.ORCH_JOBS", request);
        let message = &answer["message"];
        let bytes = |name: &str| STANDARD.decode(message[name].as_str().unwrap()).unwrap();
        let headers = String::from_utf8(bytes("hdrs")).unwrap();
        let prefix = format!("{SIGNATURE_HEADER}: ");
        let mut lines = headers.lines();
        Stolen {
            subject: message["subject"].as_str().unwrap().to_owned(),
            signature: lines
                .find_map(|line| line.strip_prefix(&prefix))
                .unwrap()
                .to_owned(),
            payload: bytes("data"),
        }
    }

    /// The last value on a subject.
    pub(crate) fn value(&self, stream: &str, subject: &str) -> String {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let which = json!({ "last_by_subj": subject });
        let request = Request::new().payload(which.to_string().into());
        let answer = self.request(&format!("$JS.API.STREAM.MSG.GET.{stream}"), request);
        let data = STANDARD.decode(answer["message"]["data"].as_str().unwrap());
        String::from_utf8(data.unwrap()).unwrap()
    }

    pub(crate) fn definition(&self, job: &str) -> String {
        self.value("KV_ORCH_STATE", &format!("$KV.ORCH_STATE.def.{job}"))
    }

    pub(crate) fn write(&self, subject: &str, value: &str) {
        assert!(self.publish(subject, None, value.as_bytes()), "{subject}");
    }

    fn delete(&self, here: &Installation, stolen: &Stolen) {
        let purge = json!({ "filter": stolen.subject });
        let request = Request::new().payload(purge.to_string().into());
        let answer = self.request("$JS.API.STREAM.PURGE.ORCH_JOBS", request);
        assert_eq!(answer["purged"], 1, "{answer} {:?}", here.path("."));
    }
}

/// Makes a key; its private file and its public line.
pub(crate) fn new_key(here: &Installation, name: &str) -> (String, String) {
    let made = here.run(&["keys", "new", name]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    (here.path(name).display().to_string(), made.stdout)
}

pub(crate) fn worker(here: &Installation, queue: &str) -> Service {
    let trusted = here.path("trusted").display().to_string();
    let args = ["worker", "--queue", queue, "--trusted-keys", &trusted];
    let worker = here.start(&format!("worker-{queue}"), &args);
    wait_for("the worker", || {
        worker.log().contains("worker starts").then_some(())
    });
    worker
}

pub(crate) fn ready(here: &Installation) {
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(1).cloned());
}

pub(crate) fn letters(here: &Installation) -> Vec<Value> {
    here.json(&["dead", "list"]).as_array().unwrap().clone()
}

/// Waits for the letter that comes after `before`, refused by `rule`.
fn refused(here: &Installation, before: usize, rule: &str) -> Value {
    let letter = wait_for(&format!("the letter: {rule}"), || {
        let letters = letters(here);
        (letters.len() > before).then(|| letters[0].clone())
    });
    assert_eq!(
        letter["refused"],
        json!({ "by": "signature", "rule": rule }),
        "{letter}"
    );
    letter
}

pub(crate) fn succeeded(here: &Installation, run: &str) {
    wait_for("its success", || {
        (here.try_json(&["show", run])?["state"] == "succeeded").then_some(())
    });
}

#[test]
fn only_what_was_signed_is_executed_once_where_it_was_sent() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let (key, public) = new_key(&here, "beat.key");
    let (foreign, _) = new_key(&here, "foreign.key");
    fs::write(here.path("trusted"), public).unwrap();
    let _beat = here.start("beat", &["beat", "--signing-key", &key]);
    ready(&here);
    let hostile = Hostile::new(&nats.url());

    // While nobody works the message is there for everybody to take.
    let sent = here.run(&["run", "note", "--arg", "who=me", "--signing-key", &key]);
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    let run = sent.stdout.trim();
    let stolen = hostile.steal("note");
    let Stolen {
        subject,
        signature,
        payload,
    } = &stolen;
    hostile.delete(&here, &stolen);
    let _default = worker(&here, "default");
    let _low = worker(&here, "low");

    // The ticks of beat, each with a retry, go on beside all of it.
    wait_for("two ticks", || {
        let ticks = here.lines("ticks");
        (ticks.iter().filter(|attempt| *attempt == "2").count() >= 2).then_some(())
    });

    let altered = String::from_utf8(payload.clone())
        .unwrap()
        .replace("\"me\"", "\"you\"");
    assert_ne!(altered.as_bytes(), payload);
    assert!(hostile.publish(subject, Some(signature), altered.as_bytes()));
    let letter = refused(&here, 0, "altered");
    assert_eq!(letter["run_id"], run);
    assert!(hostile.publish(subject, None, payload));
    refused(&here, 1, "unsigned");
    assert!(hostile.publish(subject, Some("v1 hello"), payload));
    refused(&here, 2, "unreadable");
    let elsewhere = subject.replace(".default.", ".low.");
    assert!(hostile.publish(&elsewhere, Some(signature), payload));
    refused(&here, 3, "altered");
    assert!(!here.path("notes").exists());
    // What claims to be a run does not touch it: the message itself is as good as ever, once.
    assert!(hostile.publish(subject, Some(signature), payload));
    succeeded(&here, run);
    assert!(hostile.publish(subject, Some(signature), payload));
    refused(&here, 4, "replayed");
    assert_eq!(here.lines("notes"), [run]);
    let swept = here.run(&["dead", "retry", "--all", "--signing-key", &key]);
    assert_eq!(swept.code, 7, "{}", swept.stderr);
    assert!(swept.stderr.contains("is a copy"), "{}", swept.stderr);
    assert_eq!(here.lines("notes"), [run], "run again");
    let record = here.json(&["show", run]);
    assert_eq!(record["state"], "succeeded", "{record}");

    // Who does not wait for the refusal is warned.
    let warning = "warning: beat signs here, and this run is not signed";
    assert!(!sent.stderr.contains(warning), "{}", sent.stderr);
    let unsigned = here.run(&["run", "note", "--wait"]);
    assert_eq!(unsigned.code, 6, "{}", unsigned.stderr);
    assert!(unsigned.stderr.contains(warning), "{}", unsigned.stderr);
    let refusal = unsigned.stderr.replace(warning, "");
    assert!(refusal.contains("not signed"), "{refusal}");
    refused(&here, 5, "unsigned");
    let trusted = here.path("trusted").display().to_string();
    let keys = ["--signing-key", &foreign, "--trusted-keys", &trusted];
    let by_other = here.run(&[["run", "note", "--wait"].as_slice(), &keys].concat());
    assert_eq!(by_other.code, 6, "{}", by_other.stderr);
    refused(&here, 6, "untrusted");
    assert_eq!(here.lines("notes"), [run]);
}

/// Who may write records can remove the one that says that a run has ended, and store its message again.
#[test]
fn a_run_whose_record_was_removed_is_not_executed_again() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let (key, public) = new_key(&here, "beat.key");
    fs::write(here.path("trusted"), public).unwrap();
    let _beat = here.start("beat", &["beat", "--signing-key", &key]);
    ready(&here);
    let hostile = Hostile::new(&nats.url());
    let sent = here.run(&["run", "note", "--signing-key", &key]);
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    let run = sent.stdout.trim();
    let stolen = hostile.steal("note");
    let _worker = worker(&here, "default");
    succeeded(&here, run);
    for (round, operation) in ["DEL", "PURGE"].into_iter().enumerate() {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", operation);
        let record = format!("$KV.ORCH_RUNS.{}", run.replace('@', "."));
        hostile.request(&record, Request::new().headers(headers));
        let Stolen {
            subject,
            signature,
            payload,
        } = &stolen;
        assert!(hostile.publish(subject, Some(signature), payload));
        let letter = refused(&here, round, "replayed");
        assert_eq!(letter["run_id"], run);
        assert_eq!(here.lines("notes"), [run], "{operation}");
    }
}

#[test]
fn age_keeps_no_run_from_being_retried_or_from_waiting_for_its_time() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let (key, public) = new_key(&here, "beat.key");
    fs::write(here.path("trusted"), public).unwrap();
    let signer: Signer = private(&key).parse().unwrap();
    let mut beat = here.start("beat", &["beat", "--signing-key", &key]);
    ready(&here);
    let hostile = Hostile::new(&nats.url());
    let sent = here.run(&["run", "note", "--signing-key", &key]);
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    let stolen = hostile.steal("note");
    hostile.delete(&here, &stolen);
    beat.signal(Signal::TERM);
    beat.wait();
    let _worker = worker(&here, "default");
    let now = orchestrator::clock::now();
    let days = chrono::Duration::days;
    let publish = |change: &dyn Fn(&mut RunMessage)| {
        let mut message = RunMessage::decode(&stolen.payload).unwrap();
        let id = uuid::Uuid::now_v7();
        message.run_id = format!("note@{id}").parse().unwrap();
        change(&mut message);
        let subject = format!("orch.jobs.default.note.{id}");
        let payload = message.encode().unwrap();
        let signature = signer.sign(&subject, &payload);
        assert!(hostile.publish(&subject, Some(&signature), &payload));
        message.run_id.to_string()
    };
    // It may have run in a time of which no record is left.
    publish(&|message| message.published_at = now - days(8));
    refused(&here, 0, "outdated");
    // A person may have wanted it much later.
    let later = publish(&|message| {
        message.published_at = now - days(90);
        message.not_before = Some(now - days(1));
    });
    succeeded(&here, &later);
    // A tick that beat caught up.
    let caught_up = publish(&|message| message.scheduled_for = now - days(30));
    succeeded(&here, &caught_up);
    // One that nobody wants any more ends as it is meant to.
    let expired = publish(&|message| {
        message.published_at = now - days(8);
        message.expires_at = Some(now - days(7));
    });
    wait_for("its end", || {
        (here.try_json(&["show", &expired])?["state"] == "expired").then_some(())
    });
    // One that began in time is retried for as long as that takes.
    let id = uuid::Uuid::now_v7();
    let old = (now - days(8)).to_rfc3339();
    let record = json!({
        "run_id": format!("note@{id}"), "queue": "default", "state": "retrying",
        "scheduled_for": old, "published_at": old, "started_at": old,
        "fence": 1, "attempts_used": 1, "crashes": 0, "next_attempt_at": old,
        "attempts": [{ "number": 1, "fence": 1, "worker": "w", "started_at": old, "finished_at": old,
            "delivery": { "sequence": 1, "count": 1 }, "end": "failed", "exit": { "code": 1 } }],
    });
    let put = hostile.publish(
        &format!("$KV.ORCH_RUNS.note.{id}"),
        None,
        record.to_string().as_bytes(),
    );
    assert!(put);
    let mut message = RunMessage::decode(&stolen.payload).unwrap();
    message.run_id = format!("note@{id}").parse().unwrap();
    message.published_at = now - days(8);
    let payload = message.encode().unwrap();
    let subject = format!("orch.jobs.default.note.{id}");
    // A claim reads the record from the second delivery on.
    assert!(hostile.publish(&subject, Some(&signer.sign(&subject, &payload)), &payload));
    succeeded(&here, &format!("note@{id}"));
    assert_eq!(letters(&here).len(), 1);
}

pub(crate) fn private(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.lines().last().unwrap().to_owned()
}

#[test]
fn keys_are_rotated_without_a_restart_and_a_broken_file_changes_nothing() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let ((old, old_public), (new, new_public)) =
        (new_key(&here, "old.key"), new_key(&here, "new.key"));
    let trust = |text: &str| fs::write(here.path("trusted"), text).unwrap();
    trust(&old_public);
    let _beat = here.start("beat", &["beat", "--signing-key", &old]);
    ready(&here);
    let worker = worker(&here, "default");
    // Who publishes knows both of them all the time.
    fs::write(here.path("known"), format!("{old_public}{new_public}")).unwrap();
    let known = here.path("known").display().to_string();
    let run = |key: &str| {
        let keys = ["--signing-key", key, "--trusted-keys", &known];
        here.run(&[["run", "note", "--wait"].as_slice(), &keys].concat())
            .code
    };
    let mut told = 1;
    let mut reload = |what: &str| {
        worker.signal(Signal::HUP);
        told += usize::from(what == "executed");
        let count = |text: &str| worker.log().matches(text).count();
        wait_for("the reload", || match what {
            "executed" => (count("signed by these keys are executed") == told).then_some(()),
            other => (count(other) == 1).then_some(()),
        });
    };
    assert_eq!((run(&old), run(&new)), (0, 6));
    trust(&format!("{old_public}# from July on\n{new_public}"));
    reload("executed");
    assert_eq!((run(&old), run(&new)), (0, 0));
    trust(&format!("{new_public}ed25519:cut-off\n"));
    reload("line 2");
    assert!(worker.log().contains("stays"), "{}", worker.log());
    assert_eq!((run(&old), run(&new)), (0, 0));
    trust(&new_public);
    reload("executed");
    assert_eq!((run(&old), run(&new)), (6, 0));
    assert!(worker.stop().success());
}

#[test]
fn a_letter_that_was_refused_is_run_only_if_a_person_who_signs_names_it() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", &format!("{JOBS}[job.fail]\ncommand = [\"false\"]\nretry = {{ attempts = 2, initial = \"10ms\" }}\n"));
    let (key, public) = new_key(&here, "beat.key");
    fs::write(here.path("trusted"), public).unwrap();
    let _beat = here.start("beat", &["beat", "--signing-key", &key]);
    ready(&here);
    let _worker = worker(&here, "default");
    let hostile = Hostile::new(&nats.url());
    let payload = json!({
        "version": 1, "run_id": "gone@01936b2e-7c1a-7d54-8a3f-0123456789ab", "queue": "default",
        "scheduled_for": "2026-11-23T02:30:00Z", "published_at": "2026-11-23T02:30:00Z",
        "spec": { "execute": { "shell": format!("echo hostile >> {}", here.path("hostile").display()) } },
    });
    let subject = "orch.jobs.default.gone.01936b2e-7c1a-7d54-8a3f-0123456789ab";
    assert!(hostile.publish(subject, None, payload.to_string().as_bytes()));
    let letter = refused(&here, 0, "unsigned");
    // A run of our own that failed, beside it.
    let failed = here.run(&["run", "fail", "--signing-key", &key, "--wait"]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    wait_for("its letter", || (letters(&here).len() == 2).then_some(()));

    let number = letter["sequence"].to_string();
    let unsigned = here.run(&["dead", "retry", &number]);
    assert_eq!(unsigned.code, 7, "{}", unsigned.stderr);
    assert!(
        unsigned.stderr.contains("--signing-key"),
        "{}",
        unsigned.stderr
    );
    let id = letter["run_id"].as_str().unwrap();
    for which in [["--queue", "default"].as_slice(), &["--all"], &[id]] {
        let swept = here.run(&[&["dead", "retry", "--signing-key", &key], which].concat());
        assert_eq!(swept.code, 7, "{which:?}: {}", swept.stderr);
        assert!(
            swept.stderr.contains(&format!("dead show {number}")),
            "{}",
            swept.stderr
        );
    }
    // Those of ours were run again all the same: they came signed.
    let again = wait_for("the letter of the new run", || {
        let found = here.json(&["dead", "list", "--job", "fail"]);
        let found = found.as_array()?.clone();
        let record = here.try_json(&["show", found.first()?["run_id"].as_str()?])?;
        record["retry_of"].is_string().then_some(found.len())
    });
    assert_eq!(again, 1);
    assert!(!here.path("hostile").exists());
    let named = here.run(&["dead", "retry", &number, "--signing-key", &key]);
    assert_eq!(named.code, 0, "{}", named.stderr);
    wait_for("what was asked for", || {
        here.path("hostile").exists().then_some(())
    });
}

#[test]
fn keys_are_made_once_and_for_their_owner_alone() {
    let here = Installation::new();
    let made = here.json(&["keys", "new", "a.key"]);
    let path = here.path("a.key");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let text = fs::read(&path).unwrap();
    let again = here.run(&["keys", "new", "a.key"]);
    assert_eq!(again.code, 7, "{}", again.stderr);
    assert_eq!(fs::read(&path).unwrap(), text);
    assert_eq!(here.run(&["keys", "new", "no-such/a.key"]).code, 4);
    let left: Vec<_> = fs::read_dir(here.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");

    let shown = here.json(&["keys", "show", "a.key"]);
    assert_eq!(shown[0]["public_key"], made["public_key"]);
    let line = here.run(&["keys", "show", "a.key"]).stdout;
    assert_eq!(
        line,
        format!(
            "{} {}\n",
            made["public_key"].as_str().unwrap(),
            made["key_id"].as_str().unwrap()
        )
    );
    assert!(!line.contains("private"));
    fs::create_dir(here.path("trusted")).unwrap();
    fs::write(here.path("trusted/a.pub"), &line).unwrap();
    fs::write(here.path("trusted/README"), "not a key").unwrap();
    assert_eq!(
        here.json(&["keys", "show", "trusted"])[0]["key_id"],
        made["key_id"]
    );

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let open = here.run(&["keys", "show", "a.key"]);
    assert_eq!(open.code, 2);
    assert!(open.stderr.contains("chmod 600"), "{}", open.stderr);
    fs::write(here.path("b.pub"), "ed25519:AAAA\n").unwrap();
    let cut = here.run(&["keys", "show", "b.pub"]);
    assert!(cut.stderr.contains("b.pub: line 1"), "{}", cut.stderr);
}

#[test]
fn a_worker_where_others_can_write_needs_keys_or_a_word() {
    let here = Installation::new();
    let (_, public) = new_key(&here, "a.key");
    fs::write(here.path("a.pub"), public).unwrap();
    // A port at which nobody listens, on another machine by its name.
    let elsewhere = [
        "worker",
        "--queue",
        "default",
        "--nats",
        "nats://orchestrator.invalid:1",
    ];
    let refused = here.run(&elsewhere);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    for part in ["not on loopback", "keys new", "--trust-broker"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    let here_only = [
        "worker",
        "--queue",
        "default",
        "--nats",
        "nats://127.0.0.1:1",
    ];
    let code = |start: &[&str], more: &[&str]| here.run(&[start, more].concat()).code;
    assert_eq!(code(&here_only, &[]), 5);
    assert_eq!(code(&here_only, &["--require-signed"]), 2);
    assert_eq!(code(&elsewhere, &["--trust-broker"]), 5);
    assert_eq!(code(&elsewhere, &["--trusted-keys", "a.pub"]), 5);
    assert_eq!(
        code(&elsewhere, &["--trusted-keys", "a.pub", "--trust-broker"]),
        2
    );
    assert_eq!(code(&elsewhere, &["--trusted-keys", "a.key"]), 2);
    assert_eq!(code(&elsewhere, &["--trusted-keys", "none"]), 2);
    assert!(Path::new(&here.path("a.key")).exists());
}
