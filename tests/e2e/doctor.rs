//! What is wrong is said: by `doctor`, and by `/livez` and `/readyz`.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use serde_json::{Value, json};

use crate::support::{
    Installation,
    nats::NatsServer,
    probes::{ask, port},
    wait_for,
};

/// Both statuses.
fn health(port: u16) -> Option<(u16, u16)> {
    Some((ask(port, "GET /livez")?.0, ask(port, "GET /readyz")?.0))
}

fn wait_for_health(what: &str, port: u16, expected: (u16, u16)) {
    wait_for(what, || (health(port)? == expected).then_some(()));
}

#[test]
fn probes_tell_who_works_who_waits_and_who_is_stuck() {
    let mut server = NatsServer::start();
    let here = Installation::on_nats(&server.url());
    here.schedule(
        "a.toml",
        "[job.a]\nshell = \"sleep 600\"\nkill = { grace = \"600s\" }\n",
    );
    let (leading, standing, working) = (port(), port(), port());
    let at = |port: u16| format!("127.0.0.1:{port}");
    let beat = here.start(
        "first",
        &["beat", "--data-dir", "1", "--listen", &at(leading)],
    );
    wait_for_health("the beat", leading, (200, 200));
    let _second = here.start(
        "second",
        &["beat", "--data-dir", "2", "--listen", &at(standing)],
    );
    wait_for_health("the standby", standing, (200, 200));
    let (_, body) = ask(standing, "GET /readyz").unwrap();
    let report: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(report["parts"][0]["detail"], "standing by", "{report}");
    let worker = here.start(
        "worker",
        &[
            "worker",
            "--queue",
            "default",
            "--concurrency",
            "1",
            "--listen",
            &at(working),
        ],
    );
    wait_for_health("the worker", working, (200, 200));
    assert_eq!(ask(working, "GET /").unwrap().0, 404);
    assert_eq!(ask(working, "POST /livez").unwrap().0, 405);

    server.kill9();
    for (name, port) in [
        ("beat", leading),
        ("standby", standing),
        ("worker", working),
    ] {
        wait_for_health(&format!("{name} without a broker"), port, (200, 503));
    }
    server.restart();
    for (name, port) in [
        ("beat", leading),
        ("standby", standing),
        ("worker", working),
    ] {
        wait_for_health(&format!("{name} with its broker"), port, (200, 200));
    }

    // A full worker is no less well; a draining one takes nothing.
    assert_eq!(here.run(&["run", "a"]).code, 0);
    wait_for("a running run", || {
        here.runs("a")
            .iter()
            .any(|run| run["state"] == "running")
            .then_some(())
    });
    assert_eq!(health(working), Some((200, 200)));
    worker.signal(rustix::process::Signal::TERM);
    wait_for_health("draining", working, (200, 503));
    worker.kill9();
    beat.kill9();
    let taken = here.run(&["worker", "--queue", "x", "--listen", &at(standing)]);
    assert_eq!(taken.code, 1);
    assert!(
        taken.stderr.contains("cannot listen at"),
        "{}",
        taken.stderr
    );
}

/// The findings: check and state.
fn findings(here: &Installation) -> (i32, Vec<(String, String)>) {
    let ended = here.run(&["doctor", "-o", "json"]);
    let found: Value = serde_json::from_str(&ended.stdout).unwrap_or_default();
    let wrong = found.as_array().into_iter().flatten();
    for finding in wrong.filter(|finding| finding["state"] != "ok") {
        let help = finding["help"].as_str().unwrap_or_default();
        assert!(!help.is_empty(), "how is it mended? {finding}");
    }
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let found = found.as_array().into_iter().flatten();
    let found = found.map(|finding| (text(finding, "check"), text(finding, "state")));
    (ended.code, found.collect())
}

fn has(found: &(i32, Vec<(String, String)>), check: &str, state: &str) -> bool {
    let is = |(name, how): &(String, String)| name == check && how == state;
    found.1.iter().any(is)
}

#[test]
fn the_doctor_finds_what_does_not_work() {
    let server = NatsServer::start();
    let here = Installation::on_nats(&server.url());
    let ended = here.run(&["doctor"]);
    assert_eq!(ended.code, 1);
    for expected in ["FAILED   beat", "start `orchestrator beat`", "nats-server"] {
        assert!(
            ended.stdout.contains(expected),
            "{expected}: {}",
            ended.stdout
        );
    }
    let job = "[job.a]\nevery = \"1s\"\nshell = \"exit 1\"\nqueue = \"lonely\"\n";
    here.schedule(
        "a.toml",
        &format!("{job}alert_if_no_success_for = \"2s\"\n"),
    );
    let beat = here.start("beat", &["beat"]);
    wait_for("runs without a worker", || {
        has(&findings(&here), "workers", "failed").then_some(())
    });
    let worker = here.start("worker", &["worker", "--queue", "lonely"]);
    wait_for("an overdue job, served", || {
        let found = findings(&here);
        let is_served = !has(&found, "workers", "failed");
        (found.0 == 1 && has(&found, "jobs", "failed") && is_served).then_some(())
    });
    here.schedule(
        "a.toml",
        "[job.a]\nevery = \"1s\"\nshell = \"true\"\nqueue = \"lonely\"\n",
    );
    wait_for("a healthy installation", || {
        let found = findings(&here);
        (found.0 == 0 && has(&found, "jobs", "ok") && has(&found, "beat", "ok")).then_some(())
    });
    here.schedule("b.toml", "[job.b]\nevery = 1\n");
    server.publish("orch.jobs.lonely.x.slot", b"nonsense");
    wait_for("a broken file, and a dead letter", || {
        let found = findings(&here);
        let both = has(&found, "schedules", "warning") && has(&found, "dead letters", "warning");
        (found.0 == 0 && both).then_some(())
    });
    assert!(worker.stop().success());
    beat.kill9();
    wait_for("a dead beat", || {
        has(&findings(&here), "beat", "failed").then_some(())
    });
}

/// Without the monitoring of a server.
const OFF: &[&str] = &["--monitor", "off"];

/// The finding of a check that says something.
fn finding(here: &Installation, args: &[&str], check: &str, says: &str) -> Option<Value> {
    let ended = here.run(&[&["doctor", "-o", "json"], args].concat());
    let found: Value = serde_json::from_str(&ended.stdout).ok()?;
    let is = |finding: &&Value| {
        let text = format!("{} {}", finding["message"], finding["help"]);
        finding["check"] == check && text.contains(says)
    };
    found.as_array()?.iter().find(is).cloned()
}

#[test]
fn the_doctor_reads_when_the_server_syncs() {
    let monitor = port();
    let lines = |sync: &str| format!("http: \"127.0.0.1:{monitor}\"\n{sync}");
    let server = NatsServer::start_with(&lines(""));
    let here = Installation::on_nats(&server.url());
    let url = format!("http://127.0.0.1:{monitor}");
    let late = finding(&here, &["--monitor", &url], "sync_interval", "every 2m").unwrap();
    assert_eq!(late["state"], "warning");
    assert!(
        late["help"]
            .as_str()
            .unwrap()
            .contains("sync_interval: always")
    );
    let nowhere = format!("http://127.0.0.1:{}", port());
    let unknown = finding(
        &here,
        &["--monitor", &nowhere],
        "sync_interval",
        "not known",
    )
    .unwrap();
    assert_eq!(unknown["state"], "warning");
    assert_eq!(finding(&here, OFF, "sync_interval", ""), None);
    // A stream tells the time of the server.
    assert_eq!(finding(&here, OFF, "clock", "agrees"), None);
    here.schedule("a.toml", "");
    let _beat = here.start("beat", &["beat"]);
    let clock = wait_for("a stream", || finding(&here, OFF, "clock", "agrees"));
    assert_eq!(clock["state"], "ok");
}

#[test]
fn the_doctor_sees_streams_that_were_changed() {
    let server = NatsServer::start();
    let here = Installation::on_nats(&server.url());
    // A bucket that somebody made with other settings: values in it are never forgotten.
    let other = json!({
        "name": "KV_ORCH_WORKERS", "subjects": ["$KV.ORCH_WORKERS.>"], "storage": "file", "retention": "limits",
        "discard": "new", "max_msgs_per_subject": 1, "deny_delete": true,
        "allow_direct": true, "num_replicas": 1,
    });
    let subject = "$JS.API.STREAM.CREATE.KV_ORCH_WORKERS";
    server.publish(subject, other.to_string().as_bytes());
    here.schedule("a.toml", "[job.a]\nevery = \"1s\"\nshell = \"true\"\n");
    let _beat = here.start("beat", &["beat"]);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    wait_for("the others", || {
        finding(
            &here,
            OFF,
            "streams",
            "streams and buckets are as they should be",
        )
    });
    // What its queue's consumer is compared with.
    assert_eq!(here.json(&["workers"])[0]["lease"], 15.0);
    let lease = finding(&here, OFF, "streams", "the lease of the queue");
    assert_eq!(lease, None);
    let changed = finding(&here, OFF, "streams", "max_age is 0").unwrap();
    assert_eq!(changed["state"], "failed");
    let help = changed["help"].as_str().unwrap();
    assert!(help.contains("nats stream edit KV_ORCH_WORKERS"), "{help}");
}

#[test]
fn the_doctor_goes_on_where_there_is_no_room_for_dead_letters() {
    let store = tempfile::tempdir().unwrap();
    let server = NatsServer::start_with(&format!(
        "jetstream {{ store_dir: \"{}\", max_file_store: 20MB }}",
        store.path().display()
    ));
    let here = Installation::on_nats(&server.url());
    here.schedule("a.toml", "[job.a]\nevery = \"1s\"\nshell = \"true\"\n");
    let _beat = here.start("beat", &["beat"]);
    wait_for("beat", || finding(&here, OFF, "beat", "is at work"));
    let full = finding(&here, OFF, "streams", "ORCH_DEAD").unwrap();
    assert_eq!(full["state"], "failed");
    assert!(full["help"].as_str().unwrap().contains("max_file_store"));
    // Nothing can be in it, so there is nothing to show.
    assert_eq!(here.json(&["dead"]), json!([]));
}

#[test]
fn who_wants_more_copies_than_there_are_says_so() {
    let server = NatsServer::start();
    let here = Installation::on_nats(&server.url());
    here.schedule("a.toml", "");
    let beat = here.start("beat", &["beat"]);
    wait_for("all streams", || {
        server.has_stream("KV_ORCH_UNIQUE_MONTH").then_some(())
    });
    assert!(beat.stop().success());
    assert!(!here.read("beat.log").contains("fewer copies"));
    let beat = here.start("patient", &["beat", "--replicas", "3"]);
    wait_for("what is missing", || {
        let log = beat.log();
        let help = "nats stream edit ORCH_JOBS --replicas 3";
        (log.contains("fewer copies") && log.contains(help)).then_some(())
    });
}

#[test]
fn the_doctor_says_what_it_may_not_see() {
    let server = NatsServer::start_with(
        "authorization { users: [
            { user: all, password: all }
            { user: some, password: some,
              permissions: { publish: { deny: [\"$JS.API.STREAM.INFO.KV_ORCH_LOCKS\"] } } }
        ] }",
    );
    let mut here = Installation::on_nats(&server.url());
    here.set("NATS_USER", "all");
    here.set("NATS_PASSWORD", "all");
    here.schedule("a.toml", "[job.a]\nevery = \"1s\"\nshell = \"true\"\n");
    let _beat = here.start("beat", &["beat"]);
    wait_for("beat", || finding(&here, OFF, "beat", "is at work"));
    assert_eq!(finding(&here, OFF, "permissions", "KV_ORCH_LOCKS"), None);
    here.set("NATS_USER", "some");
    here.set("NATS_PASSWORD", "some");
    let refused = finding(&here, OFF, "permissions", "KV_ORCH_LOCKS").unwrap();
    assert_eq!(refused["state"], "warning");
    assert!(finding(&here, OFF, "beat", "is at work").is_some());
}

#[test]
fn the_doctor_sees_what_others_can_read() {
    let here = Installation::new();
    here.schedule("a.toml", "");
    let _up = here.up(&[]);
    assert!(finding(&here, &[], "permissions", "alone").is_some());
    assert!(finding(&here, &[], "limits", "open at once").is_some());
    assert_eq!(finding(&here, &[], "sync_interval", ""), None);
    let open = Permissions::from_mode(0o755);
    fs::set_permissions(here.path("data"), open.clone()).unwrap();
    let finding_of = |says| finding(&here, &[], "permissions", says).unwrap();
    let found = finding_of("others can get into");
    assert_eq!(found["state"], "warning");
    assert!(found["help"].as_str().unwrap().starts_with("chmod 700 "));

    let secret = here.path("secret.creds");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(&secret, open).unwrap();
    let mut here = here;
    here.set("NATS_CREDS", secret.to_str().unwrap());
    let found = finding(&here, &[], "permissions", "which NATS_CREDS names").unwrap();
    assert_eq!(found["state"], "failed");
    let option = ["--nats-password-file", secret.to_str().unwrap()];
    let says = "which --nats-password-file names";
    assert!(finding(&here, &option, "permissions", says).is_some());
    fs::set_permissions(&secret, Permissions::from_mode(0o640)).unwrap();
    assert_eq!(finding(&here, &option, "permissions", "names"), None);
}

#[test]
fn the_doctor_sees_that_no_snapshot_can_be_written() {
    let here = Installation::new();
    here.schedule("a.toml", "");
    let up = here.up(&["--snapshot-every", "100ms", "-v"]);
    wait_for("a snapshot", || {
        up.log().contains("snapshot written").then_some(())
    });
    assert_eq!(finding(&here, &[], "snapshots", ""), None);
    let directory = here.path("data/snapshots");
    wait_for("something else in their place", || {
        // One that is written just now makes the directory again.
        let _ = fs::remove_dir_all(&directory);
        fs::write(&directory, "").ok()
    });
    let failing = wait_for("the doctor to say so", || {
        finding(&here, &[], "snapshots", "none could be written")
    });
    assert_eq!(failing["state"], "failed");
    let message = failing["message"].as_str().unwrap();
    assert!(message.contains("data/snapshots since 20"), "{message}");
    fs::remove_file(&directory).unwrap();
    wait_for("a snapshot again", || {
        let (_, found) = findings(&here);
        let is_told = found.iter().any(|(check, _)| check == "snapshots");
        (!found.is_empty() && !is_told).then_some(())
    });
}
