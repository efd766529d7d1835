//! Dead letters that are not what they claim to be: who has one run again signs it.

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};
use orchestrator::run::Signer;
use serde_json::{Value, json};

use crate::{
    signed::{Hostile, JOBS, letters, new_key, private, ready, succeeded, worker},
    support::{Installation, nats::NatsServer, wait_for},
};

/// A letter that a worker could have written, with the message of another run.
fn letter(run: &str, payload: &str, signed: Option<(&str, &str)>) -> String {
    json!({
        "run_id": run, "queue": "default", "at": "2026-11-27T22:00:00Z", "reason": "2 of 2 attempts failed: exit 1",
        "payload": STANDARD.encode(payload),
        "subject": signed.map(|(subject, _)| subject), "signature": signed.map(|(_, signature)| signature),
    })
    .to_string()
}

fn message(run: &str, published_at: &str) -> String {
    json!({
        "version": 1, "run_id": run, "queue": "default", "scheduled_for": published_at, "published_at": published_at,
        "spec": { "execute": { "shell": "echo hostile >> hostile" } },
    })
    .to_string()
}

#[test]
fn a_letter_is_run_again_only_as_what_was_signed_for_its_run() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    let fail = "[job.fail]\ncommand = [\"false\"]\nretry = { attempts = 2, initial = \"10ms\" }\n";
    here.schedule("a.toml", &format!("{JOBS}{fail}"));
    let (key, public) = new_key(&here, "beat.key");
    fs::write(here.path("trusted"), public).unwrap();
    let _beat = here.start("beat", &["beat", "--signing-key", &key]);
    ready(&here);
    let hostile = Hostile::new(&nats.url());
    let sent = here.run(&["run", "note", "--signing-key", &key]);
    let run = sent.stdout.trim();
    let stolen = hostile.steal("note");
    let _worker = worker(&here, "default");
    succeeded(&here, run);
    let failed = here.run(&["run", "fail", "--signing-key", &key, "--wait"]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    let own = wait_for("its letter", || letters(&here).first().cloned());
    let failed = own["run_id"].as_str().unwrap();

    let signer: Signer = private(&key).parse().unwrap();
    let old = "note@01936b2e-7c1a-7d54-8a3f-0123456789ab";
    let old_subject = "orch.jobs.default.note.01936b2e-7c1a-7d54-8a3f-0123456789ab";
    let old_message = message(old, "2026-10-01T00:00:00Z");
    let old_signature = signer.sign(old_subject, old_message.as_bytes());
    let genuine = String::from_utf8(stolen.payload.clone()).unwrap();
    let signed = Some((stolen.subject.as_str(), stolen.signature.as_str()));
    for (letter, why) in [
        // What was executed, under the name of a run that failed, and under its own.
        (letter(failed, &genuine, signed), "that of another run"),
        (letter(run, &genuine, signed), "is a copy"),
        (
            letter(old, &old_message, Some((old_subject, &old_signature))),
            "signed so long ago",
        ),
        (
            letter(failed, &message(failed, "2026-11-27T00:00:00Z"), None),
            "no signature",
        ),
    ] {
        hostile.write("orch.dead.default", &letter);
        let newest = letters(&here)[0]["sequence"].to_string();
        let swept = here.run(&[
            "dead",
            "retry",
            "--reason",
            "attempts failed",
            "--signing-key",
            &key,
        ]);
        assert_eq!(swept.code, 7, "{why}: {}", swept.stderr);
        assert!(swept.stderr.contains(why), "{why}: {}", swept.stderr);
        let gone = here.run(&["dead", "discard", &newest]);
        assert_eq!(gone.code, 0, "{}", gone.stderr);
    }
    assert_eq!(here.lines("notes"), [run], "run again");
    assert!(!here.path("hostile").exists());

    // A person sees all of what he would sign, and for whom it is.
    let hidden = message(old, "2026-11-27T00:00:00Z")
        .replace("\"spec\"", &format!("{}\"spec\"", " ".repeat(5_000)));
    hostile.write("orch.dead.default", &letter(failed, &hidden, None));
    let newest = letters(&here)[0]["sequence"].to_string();
    let shown = here.run(&["dead", "show", &newest]).stdout;
    for part in [
        "echo hostile",
        &format!("another run: {old}"),
        "signed           no",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let shown = here.json(&["dead", "show", &newest]);
    assert_eq!(shown[0]["message"], hidden, "{shown}");
    assert_eq!(shown[0]["message_of"], old, "{shown}");
    let listed = here.json(&["dead", "list"]);
    assert_eq!(listed[0]["message_is_cut"], true, "{listed}");

    // Nor is the record of another run taken for that of the run that is named.
    let record = format!("$KV.ORCH_RUNS.{}", failed.replace('@', "."));
    let mut other: Value = serde_json::from_str(&hostile.value("KV_ORCH_RUNS", &record)).unwrap();
    other["run_id"] = run.into();
    hostile.write(&record, &other.to_string());
    let again = here.run(&["retry", failed, "--signing-key", &key]);
    assert_eq!(again.code, 1, "{}{}", again.stdout, again.stderr);
    assert!(
        again.stderr.contains("that of another run"),
        "{}",
        again.stderr
    );
    assert_eq!(here.lines("notes"), [run], "run again");
}

/// Whoever can write to the file of an export can make its checksum, too.
#[test]
fn an_import_signs_nothing_that_nobody_signed() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let (key, _) = new_key(&here, "beat.key");
    let beat = here.start("beat", &["beat", "--signing-key", &key]);
    ready(&here);
    let sent = here.run(&["run", "note", "--signing-key", &key]);
    let signed = sent.stdout.trim();
    assert!(beat.stop().success());

    let exported = String::from_utf8(here.bytes(&["state", "export"])).unwrap();
    let (_, body) = exported.split_once('\n').unwrap();
    let mut state: Value = serde_json::from_str(body).unwrap();
    let run = "note@01936b2e-7c1a-7d54-8a3f-0123456789ab";
    let forged: Value = serde_json::from_str(&message(run, "2026-11-27T00:00:00Z")).unwrap();
    let runs = state["runs"].as_array_mut().unwrap();
    runs.push(json!({ "queue": "default", "message": forged }));
    let values = state["values"].as_array_mut().unwrap();
    let of_note = values.iter_mut().find(|value| value["key"] == "def.note");
    let of_note = of_note.unwrap()["value"].as_object_mut().unwrap();
    assert!(of_note.remove("signature").is_some());
    // Of a beat that is at work for good: it would hold up the next one.
    let leader = json!({ "beat": "x", "until": "2999-01-01T00:00:00Z" });
    values.push(json!({ "key": "leader", "value": leader }));
    let body = state.to_string();
    let sum = crc32c::crc32c(body.as_bytes());
    let file = format!("orchestrator-state crc32c={sum:08x}\n{body}\n");
    fs::write(here.path("state"), file).unwrap();

    let stored = |namespace: &str| {
        let runs = here.json(&["--namespace", namespace, "runs"]);
        let ids = runs.as_array().unwrap().iter();
        let ids = ids.map(|run| run["run_id"].as_str().unwrap().to_owned());
        ids.filter(|run| run.starts_with("note@"))
            .collect::<Vec<_>>()
    };
    let import = |namespace: &str, more: &[&str]| {
        let file = here.path("state").display().to_string();
        let import = ["--namespace", namespace, "state", "import", &file];
        let keys = ["--signing-key", &key];
        let imported = here.run(&[&import, keys.as_slice(), more].concat());
        assert_eq!(imported.code, 0, "{}", imported.stderr);
        imported.stderr
    };
    let said = import("orch", &["--replace"]);
    assert!(said.contains("1 runs that nobody signed"), "{said}");
    assert!(said.contains("--sign-unsigned"), "{said}");
    assert_eq!(stored("orch"), [signed]);
    let letter = letters(&here)[0].clone();
    assert_eq!(letter["run_id"], run, "{letter}");
    assert_eq!(letter["refused"]["rule"], "unsigned", "{letter}");
    let refused = here.run(&["run", "note", "--signing-key", &key]);
    let why = "it bears no signature";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    let leader = ["KV_ORCH_STATE", "$KV.ORCH_STATE.leader"];
    let leader = Hostile::new(&nats.url()).value(leader[0], leader[1]);
    assert!(!leader.contains("2999"), "{leader}");

    // Who knows that nobody else could write to the file takes it for what it says.
    let said = import("moved", &["--sign-unsigned"]);
    assert!(!said.contains("nobody signed"), "{said}");
    assert!(stored("moved").contains(&run.to_owned()));
}
