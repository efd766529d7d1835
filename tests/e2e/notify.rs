//! Webhooks are told what happens to jobs.

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;

use crate::support::{
    Installation,
    listener::{Heard, Listener},
    nats::NatsServer,
    wait_for,
};

/// Not taken the first time, refused for ever on `/gone`.
fn reluctant(request: &Heard, before: &[Heard]) -> &'static str {
    match request.path.as_str() {
        "/gone" => "410 Gone",
        _ if before.is_empty() => "503 Service Unavailable",
        _ => "200 OK",
    }
}

const JOBS: &str = r#"
[job.fragile]
every = "1s"
shell = "test ! -e broken"
working_dir = "."
catch_up = "skip"
catch_up_window = "1s"
alert_if_no_success_for = "2s"
tags = ["watched"]
[job.stubborn]
shell = "exit 3"
retry = { attempts = 2, backoff = "fixed", initial = "10ms" }
[job.other]
every = "1s"
shell = "exit 1"
"#;

fn webhooks(url: &str) -> String {
    format!(
        r#"
[notify.ops]
url = "{{credential.hook-url}}/ops?key=canary-of-the-url"
secret = "hook-key"
on = ["failed", "dead", "missed", "paused", "overdue", "recovered"]
jobs = ["fragile", "stubborn"]
repeat = "1h"
[notify.only-missed]
url = "{url}/missed"
on = "missed"
tags = ["watched"]
[notify.gone]
url = "{url}/gone"
tags = ["watched"]
on = "paused"
"#
    )
}

/// What one path was told: events, jobs and whole messages, without those that were sent again.
fn told(listener: &Listener, path: &str) -> Vec<(String, String, Value)> {
    let mut ids = Vec::new();
    let mut told = Vec::new();
    let heard = listener.heard();
    let taken = heard.iter().filter(|heard| heard.accepted);
    for heard in taken.filter(|heard| heard.path.starts_with(path)) {
        let message: Value = serde_json::from_str(&heard.body).unwrap();
        assert_eq!(message["id"], heard.headers["webhook-id"].as_str());
        if !ids.contains(&message["id"]) {
            ids.push(message["id"].clone());
            let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
            told.push((text("event"), text("job"), message.clone()));
        }
    }
    told
}

fn is_signed(heard: &Heard, secret: &[u8]) -> bool {
    let (id, at) = (
        &heard.headers["webhook-id"],
        &heard.headers["webhook-timestamp"],
    );
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(format!("{id}.{at}.{}", heard.body).as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    heard.headers["webhook-signature"] == format!("v1,{signature}")
}

fn credentials(here: &Installation, listener: &Listener) -> String {
    let secrets = here.path("secrets");
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("hook-key"), "canary-of-the-key\n").unwrap();
    fs::write(secrets.join("hook-url"), &listener.url).unwrap();
    secrets.to_str().unwrap().to_owned()
}

#[test]
fn webhooks_hear_of_failures_recovery_misses_pauses_and_dead_letters() {
    let listener = Listener::start(reluctant);
    let here = Installation::new();
    let secrets = credentials(&here, &listener);
    here.schedule("jobs.toml", JOBS);
    here.schedule("notify.toml", &webhooks(&listener.url));
    let broken = here.path("schedules/broken");
    let ops = |event: &str| {
        wait_for(event, || {
            let told = told(&listener, "/ops");
            told.into_iter()
                .find(|(of, ..)| of == event)
                .map(|(.., message)| message)
        })
    };

    let up = here.up(&["--credentials-dir", &secrets]);
    wait_for("a success", || {
        let runs = here.runs("fragile");
        runs.iter()
            .any(|run| run["state"] == "succeeded")
            .then_some(())
    });
    fs::write(&broken, "").unwrap();
    let failed = ops("failed");
    assert_eq!(failed["job"], "fragile");
    assert_eq!(failed["exit"], "exit 1");
    assert!(
        failed["text"]
            .as_str()
            .unwrap()
            .starts_with("fragile failed: fragile@"),
        "{failed}"
    );
    let overdue = ops("overdue");
    assert!(overdue["last_success"].is_string(), "{overdue}");
    let ended = here.run(&["jobs"]);
    assert!(
        ended.stderr.contains("`fragile` should have succeeded by"),
        "{}",
        ended.stderr
    );
    assert_eq!(here.run(&["run", "stubborn", "--wait"]).code, 1);
    let dead = ops("dead");
    assert_eq!(
        (&dead["job"], &dead["count"]),
        (&"stubborn".into(), &1.into())
    );
    assert!(up.stop().success());
    let before = told(&listener, "/ops");
    let failures = before.iter().filter(|(event, ..)| event == "failed");
    assert_eq!(
        failures.count(),
        1,
        "told again within `repeat`: {before:?}"
    );

    // What was told is remembered; what was missed meanwhile is not run, but told.
    wait_for("ticks to miss", || {
        let late = orchestrator::clock::now().signed_duration_since(
            before.last()?.2["at"]
                .as_str()?
                .parse::<chrono::DateTime<chrono::Utc>>()
                .ok()?,
        );
        (late.num_seconds() >= 5).then_some(())
    });
    fs::remove_file(&broken).unwrap();
    let up = here.up(&["--credentials-dir", &secrets]);
    let missed = ops("missed");
    assert!(missed["count"].as_u64().unwrap() >= 1, "{missed}");
    assert_eq!(ops("recovered")["job"], "fragile");
    wait_for("the other webhook", || {
        told(&listener, "/missed")
            .first()
            .map(|(event, ..)| assert_eq!(event, "missed"))
    });
    assert_eq!(
        here.run(&["pause", "fragile", "--reason", "repairs"]).code,
        0
    );
    assert_eq!(ops("paused")["reason"], "repairs");
    assert!(up.stop().success());

    let heard = listener.heard();
    let ops: Vec<_> = heard
        .iter()
        .filter(|heard| heard.path.starts_with("/ops"))
        .collect();
    assert!(
        ops.iter()
            .all(|heard| is_signed(heard, b"canary-of-the-key"))
    );
    assert!(!ops[0].accepted && ops[1].accepted, "tried again");
    let all = told(&listener, "/");
    assert!(all.iter().all(|(_, job, _)| job != "other"), "{all:?}");
    let counts = |event: &str| {
        let of = |told: &&(String, String, Value)| told.0 == event;
        told(&listener, "/ops").iter().filter(of).count()
    };
    assert_eq!(
        (counts("failed"), counts("dead"), counts("recovered")),
        (1, 1, 1),
        "{all:?}"
    );
    for log in fs::read_dir(here.path("")).unwrap().flatten() {
        if log
            .path()
            .extension()
            .is_some_and(|extension| extension == "log")
        {
            let text = fs::read_to_string(log.path()).unwrap();
            assert!(
                !text.contains("canary-of-the"),
                "{} names a secret",
                log.path().display()
            );
        }
    }
}

#[test]
fn another_beat_goes_on_telling_and_repeats_nothing() {
    let server = NatsServer::start();
    let listener = Listener::start(|_, _| "200 OK");
    let here = Installation::on_nats(&server.url());
    let url = &listener.url;
    here.schedule(
        "a.toml",
        &format!(
            "[notify.ops]\nurl = \"{url}/ops\"\n[job.bad]\nevery = \"1s\"\nshell = \"exit 1\"\n"
        ),
    );
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    let first = here.start("first", &["beat", "--data-dir", "first"]);
    let events = || {
        let told = told(&listener, "/ops");
        told.into_iter()
            .map(|(event, ..)| event)
            .collect::<Vec<_>>()
    };
    wait_for("the failure", || (events() == ["failed"]).then_some(()));
    let _second = here.start("second", &["beat", "--data-dir", "second"]);
    first.kill9();
    let before = here.runs("bad").len();
    wait_for("more failures under the other beat", || {
        (here.runs("bad").len() > before + 3).then_some(())
    });
    here.schedule(
        "a.toml",
        &format!(
            "[notify.ops]\nurl = \"{url}/ops\"\n[job.bad]\nevery = \"1s\"\nshell = \"true\"\n"
        ),
    );
    wait_for("the recovery", || {
        (events() == ["failed", "recovered"]).then_some(())
    });
}

#[test]
fn mistakes_in_webhooks_are_named() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        r#"
[notify.ops]
url = "example.org"
on = ["faild"]
jobs = ["crwal"]
[notify.empty]
[notify.args]
url = "https://example.org/{arg.x}"
evry = 1
[job.crawl]
shell = "true"
alert_if_no_success_for = "1h"
"#,
    );
    let checked = here.run(&["check"]);
    assert_eq!(checked.code, 3);
    for expected in [
        "write https://",
        "did you mean `failed`?",
        "this webhook has no `url`",
        "no other placeholders",
        "unknown key `evry` in [notify.args]",
        "is for jobs with a trigger",
    ] {
        assert!(
            checked.stderr.contains(expected),
            "{expected}: {}",
            checked.stderr
        );
    }
    here.schedule(
        "a.toml",
        "[notify.ops]\nurl = \"http://x\"\njobs = \"crwal\"\n[job.crawl]\nshell = \"true\"\n",
    );
    let checked = here.run(&["check"]);
    assert_eq!(checked.code, 3);
    assert!(
        checked.stderr.contains("did you mean `crawl`?"),
        "{}",
        checked.stderr
    );
}

#[test]
fn a_defect_in_what_tells_a_webhook_is_an_error_in_the_log() {
    let listener = Listener::start(|_, _| "200 OK");
    let here = Installation::new();
    let webhook = format!(
        "[notify.ops]\nurl = \"{}\"\non = \"failed\"\n",
        listener.url
    );
    here.schedule("a.toml", &format!("[job.a]\nshell = \"true\"\n{webhook}"));
    let defect = [("FAILPOINTS", "webhook-briefed=panic")];
    let up = here.start_with("up", &["up"], &defect);
    let told = wait_for("an error", || {
        let mut lines = here.lines("up.log").into_iter();
        lines.find(|line| line.contains("ended what tells a webhook"))
    });
    assert!(told.contains("ERROR"), "{told}");
    assert!(up.stop().success(), "all else goes on");
}
