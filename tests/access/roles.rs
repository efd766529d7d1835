//! The roles of the shipped configuration: everything that each of them must do works, and nothing is refused.

use std::process::Output;

use serde_json::Value;

use super::{
    installation::{Accounts, ROLES, Shipped},
    support::{Installation, PATIENCE, Service, wait_for},
};

const SCHEDULES: &str = r#"
[job.tick]
every = "1s"
command = ["true"]

[job.high]
queue = "high"
command = ["sh", "-c", "echo {arg.word}"]

[job.flaky]
shell = "test -e done || { touch done; exit 1; }"
retry = { attempts = 3, initial = "100ms" }

[job.turns]
overlap = "queue"
command = ["sleep", "0.2"]

[job.locked]
lock = "jar"
concurrency = { key = "site", limit = 2 }
rate = { key = "site", limit = "100/s" }
command = ["true"]

[job.once]
unique = { key = "{arg.n}", for = "1h" }
command = ["true"]

[job.long]
command = ["sleep", "600"]

[job.bad]
command = ["false"]
retry = { attempts = 2, initial = "50ms" }
"#;

/// The services first: they are to be dropped before the directory of their logs.
struct Running {
    services: Vec<(&'static str, Service)>,
    installation: Installation,
}

fn start(shipped: &Shipped) -> Running {
    let mut installation = Installation::new();
    installation.schedule("jobs.toml", SCHEDULES);
    let mut services = Vec::new();
    let mut start = |role: &'static str, args: &[&str]| {
        let env = shipped.env(role);
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, &**value)).collect();
        services.push((role, installation.start_with(role, args, &env)));
    };
    start("beat", &["beat"]);
    // A worker that comes before all streams are made tries to make them.
    wait_for("beat's streams", || {
        // The last one that it makes.
        let last = shipped.server.has_stream("KV_ORCH_UNIQUE_MONTH");
        last.then_some(())
    });
    start(
        "worker_default",
        &["worker", "--queue", "default", "--concurrency", "4"],
    );
    start("worker_high", &["worker", "--queue", "high"]);
    for (name, value) in shipped.env("operator") {
        installation.set(name, &value);
    }
    Running {
        installation,
        services,
    }
}

impl Running {
    fn as_role(&self, shipped: &Shipped, role: &str, args: &[&str]) -> Output {
        let mut command = self.installation.command(args);
        command.envs(shipped.env(role)).output().unwrap()
    }

    /// The operator runs a job and waits; its record.
    fn run(&self, args: &[&str], state: &str) -> Value {
        let ended = self
            .installation
            .run(&[&["run", "--wait", "-o", "json"], args].concat());
        let record: Value = serde_json::from_str(&ended.stdout)
            .unwrap_or_else(|_| panic!("{args:?}: {}{}", ended.stdout, ended.stderr));
        assert_eq!(record["state"], state, "{args:?}: {record}");
        record
    }
}

#[test]
fn everything_works_under_the_roles_and_nothing_is_refused() {
    let shipped = Shipped::start();
    let running = start(&shipped);
    let operator = &running.installation;
    wait_for("a tick that ran", || {
        let runs = operator.runs("tick");
        runs.iter()
            .any(|run| run["state"] == "succeeded")
            .then_some(())
    });
    // The operator's day.
    let high = running.run(&["high", "--arg", "word=hello"], "succeeded");
    let id = high["run_id"].as_str().unwrap();
    let logs = operator.run(&["logs", id]);
    assert_eq!(logs.stdout.trim(), "hello", "{}", logs.stderr);
    running.run(&["flaky"], "succeeded");
    running.run(&["locked"], "succeeded");
    running.run(&["once", "--arg", "n=1"], "succeeded");
    operator.json(&["run", "turns"]);
    running.run(&["turns"], "succeeded");
    let long = operator.json(&["run", "long"]);
    let id = long["run_id"].as_str().unwrap().to_owned();
    wait_for("the long one", || {
        let run = operator.try_json(&["show", &id])?;
        (run["state"] == "running").then_some(())
    });
    operator.json(&["cancel", &id]);
    wait_for("its end", || {
        let run = operator.try_json(&["show", &id])?;
        (run["state"] == "cancelled").then_some(())
    });
    let bad = running.run(&["bad"], "dead");
    let dead = operator.json(&["dead"]);
    assert_eq!(dead[0]["run_id"], bad["run_id"], "{dead}");
    operator.json(&["dead", "retry", bad["run_id"].as_str().unwrap()]);
    wait_for("another letter", || {
        let dead = operator.try_json(&["dead"])?;
        let first = dead.as_array()?.first()?.clone();
        (first["run_id"] != bad["run_id"]).then_some(())
    });
    operator.json(&["dead", "discard", "--all"]);
    operator.json(&["pause", "tick"]);
    operator.json(&["resume", "tick"]);
    operator.json(&["pause", "--queue", "high"]);
    operator.json(&["resume", "--queue", "high"]);
    // And what a viewer may look at.
    for args in [
        &["jobs"][..],
        &["runs"],
        &["queues"],
        &["workers"],
        &["locks"],
        &["dead"],
        &["show", &id],
        &["logs", high["run_id"].as_str().unwrap()],
        &["explain", "tick"],
        &["doctor"],
        &["state", "export", "backup.json"],
    ] {
        let output = running.as_role(&shipped, "viewer", args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{args:?}: {said}{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    for (role, service) in running.services {
        let log = service.log();
        assert!(!log.contains("does not permit"), "{role}: {log}");
        assert!(service.stop().success(), "{role}");
    }
    let log = shipped.server.log();
    assert!(!log.contains("Violation"), "{log}");
}

/// With all roles in one account, permissions do not reach what the server sends to the reply subject that a request
/// names. So whoever can write what he likes somewhere, and have it read, can have the server store it anywhere: it
/// bears the marks of an answer, and is no run.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_goes_where_its_user_may_not_publish() {
    let shipped = Shipped::start_in(Accounts::One);
    let running = start(&shipped);
    let seed = std::fs::read_to_string(&shipped.seeds["worker_high"]).unwrap();
    let options = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned());
    let options = options.custom_inbox_prefix("_INBOX_worker_high");
    let client = options.connect(shipped.server.url()).await.unwrap();
    let key = "$KV.ORCH_RUNS.evil.1";
    let marker = running.installation.path("hostile");
    let run = serde_json::json!({
        "version": 1, "run_id": "evil@01936b2e-7c1a-7d54-8a3f-0123456789ab", "queue": "default",
        "scheduled_for": "2026-11-23T02:30:00Z", "published_at": "2026-11-23T02:30:00Z",
        "spec": { "execute": { "shell": format!("echo hostile >> {}", marker.display()) } },
    });
    let run = run.to_string();
    client.request(key, run.into()).await.unwrap();
    let ask = format!("$JS.API.DIRECT.GET.KV_ORCH_RUNS.{key}");
    client
        .publish_with_reply(ask, "orch.jobs.default.evil.slot", "".into())
        .await
        .unwrap();
    client.flush().await.unwrap();
    // The worker of the other queue got it, and executed nothing.
    let letter = wait_for("the letter", || {
        let dead = running.installation.try_json(&["dead"])?;
        dead.as_array()?.first().cloned()
    });
    assert_eq!(letter["queue"], "default", "{letter}");
    assert!(!marker.exists(), "{letter}");
}

/// What a header asks for is not in the subject, so permissions do not reach it.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_write_one_value_cannot_remove_all() {
    let shipped = Shipped::start();
    let running = start(&shipped);
    let worker = connected(&shipped, "worker_high").await;
    let kept = "$KV.ORCH_RUNS.evil.1";
    worker.request(kept, "kept".into()).await.unwrap();
    for subject in ["$KV.ORCH_RUNS.evil.2", "$KV.ORCH_STATE.last.tick"] {
        for rollup in ["all", "sub"] {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Rollup", rollup);
            let answer = worker.request_with_headers(subject, headers, "x".into());
            let answer = answer.await.unwrap().payload;
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert!(answer.get("error").is_some(), "{subject}: {answer}");
        }
    }
    let viewer = connected(&shipped, "viewer").await;
    assert!(is_stored(&viewer, "KV_ORCH_RUNS", kept).await);
    let jobs = running.as_role(&shipped, "viewer", &["jobs"]);
    assert!(String::from_utf8_lossy(&jobs.stdout).contains("tick"));
}

/// The same for every role, by an answer. What beat owns is written over by one who may only read, and beat goes on.
#[tokio::test(flavor = "multi_thread")]
async fn every_role_has_the_server_write_where_it_may_not() {
    let shipped = Shipped::start_in(Accounts::One);
    let running = start(&shipped);
    let reader = connected(&shipped, "viewer").await;
    for role in ROLES {
        let client = connected(&shipped, role).await;
        let answered = format!("$KV.ORCH_STATE.answer.{role}");
        let ask = "$JS.API.STREAM.INFO.ORCH_JOBS";
        let asked = client.publish_with_reply(ask, answered.clone(), "".into());
        asked.await.unwrap();
        until_stored(&reader, "KV_ORCH_STATE", &answered, role).await;
    }
    let beat = &running.services[0].1;
    for key in ["leader", "watermark"] {
        let ask = "$JS.API.DIRECT.GET.KV_ORCH_STATE.$KV.ORCH_STATE.def.tick";
        let target = format!("$KV.ORCH_STATE.{key}");
        let asked = reader.publish_with_reply(ask, target, "".into());
        asked.await.unwrap();
        reader.flush().await.unwrap();
        let told = format!("\"key\":\"{key}\"");
        wait_for("beat to notice it", || {
            beat.log().contains(&told).then_some(())
        });
    }
    let ticks = || running.installation.runs("tick").len();
    let before = ticks();
    wait_for("beat to go on", || (ticks() > before + 2).then_some(()));
    // A definition that a worker made up, and had stored as an answer, is none: nobody signs it.
    let worker = connected(&shipped, "worker_high").await;
    let made_up = "$KV.ORCH_RUNS.evil.1";
    let operator = connected(&shipped, "operator").await;
    let ask = "$JS.API.DIRECT.GET.KV_ORCH_STATE.$KV.ORCH_STATE.def.high";
    let definition = operator.request(ask, "".into()).await.unwrap().payload;
    assert!(serde_json::from_slice::<Value>(&definition).is_ok());
    worker.request(made_up, definition).await.unwrap();
    let ask = format!("$JS.API.DIRECT.GET.KV_ORCH_RUNS.{made_up}");
    let asked = worker.publish_with_reply(ask, "$KV.ORCH_STATE.def.high", "".into());
    asked.await.unwrap();
    worker.flush().await.unwrap();
    wait_for("beat to write the definition anew", || {
        beat.log().contains("\"key\":\"def.high\"").then_some(())
    });
    running.run(&["high", "--arg", "word=hello"], "succeeded");
}

/// The marker of a removed key, wherever it lies, may be handed out and stored elsewhere, too, with all roles in one account:
/// it removes nothing there.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_removes_what_he_may_not_write() {
    let shipped = Shipped::start_in(Accounts::One);
    let running = start(&shipped);
    let operator = &running.installation;
    wait_for("a tick", || {
        (!operator.runs("tick").is_empty()).then_some(())
    });
    operator.json(&["pause", "tick"]);
    operator.json(&["pause", "--queue", "high"]);
    let worker = connected(&shipped, "worker_high").await;
    let marker = "$KV.ORCH_RUNS.evil.1";
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("KV-Operation", "DEL");
    let stored = worker.request_with_headers(marker, headers, "".into());
    stored.await.unwrap();
    let beat = &running.services[0].1;
    wait_for("beat to hear of the pause", || {
        let paused = operator.json(&["jobs"]);
        let tick = paused.as_array()?.iter().find(|job| job["name"] == "tick");
        (!tick?["paused"].is_null()).then_some(())
    });
    let keys = [
        "def.high",
        "pause.tick",
        "paused_queue.high",
        "watermark",
        "job.tick",
    ];
    for key in keys {
        let ask = format!("$JS.API.DIRECT.GET.KV_ORCH_RUNS.{marker}");
        let asked = worker.publish_with_reply(ask, format!("$KV.ORCH_STATE.{key}"), "".into());
        asked.await.unwrap();
        worker.flush().await.unwrap();
        wait_for(&format!("beat to write {key} anew"), || {
            let told = format!("\"key\":\"{key}\"");
            beat.log().contains(&told).then_some(())
        });
    }
    let found = wait_for("all to be as it was", || {
        let doctor = operator.run(&["doctor"]).stdout;
        let queues = operator.try_json(&["queues"])?;
        let queues = queues.as_array()?;
        let high = queues.iter().find(|queue| queue["queue"] == "high")?;
        let is_known = !high["pause"]["since"].is_null();
        (is_known && !doctor.contains("not understood")).then_some(doctor)
    });
    assert!(!found.contains("definition of"), "{found}");
    let paused = operator.json(&["jobs"]);
    let mut jobs = paused.as_array().unwrap().iter();
    let tick = jobs.find(|job| job["name"] == "tick").unwrap();
    assert!(!tick["paused"].is_null(), "{tick}");
    operator.json(&["resume", "--queue", "high"]);
    running.run(&["high", "--arg", "word=hello"], "succeeded");
    // A record is spoilt, not forgotten: who has it forgotten could have its run executed again.
    let run = operator.json(&["run", "long"])["run_id"].clone();
    let run = run.as_str().unwrap();
    wait_for("the long one", || {
        (operator.try_json(&["show", run])?["state"] == "running").then_some(())
    });
    let ask = format!("$JS.API.DIRECT.GET.KV_ORCH_RUNS.{marker}");
    let record = format!("$KV.ORCH_RUNS.{}", run.replace('@', "."));
    let asked = worker.publish_with_reply(ask, record, "".into());
    asked.await.unwrap();
    worker.flush().await.unwrap();
    wait_for("the record to be spoilt", || {
        let shown = operator.run(&["show", run]);
        shown.stderr.contains("not understood").then_some(())
    });
}

async fn connected(shipped: &Shipped, role: &str) -> async_nats::Client {
    let seed = std::fs::read_to_string(&shipped.seeds[role]).unwrap();
    let options = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned());
    let options = options.custom_inbox_prefix(format!("_INBOX_{role}"));
    options.connect(shipped.server.url()).await.unwrap()
}

async fn is_stored(reader: &async_nats::Client, stream: &str, subject: &str) -> bool {
    let ask = format!("$JS.API.STREAM.MSG.GET.{stream}");
    let which = serde_json::json!({ "last_by_subj": subject }).to_string();
    let answer = reader.request(ask, which.into()).await.unwrap().payload;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    answer.get("message").is_some()
}

async fn until_stored(reader: &async_nats::Client, stream: &str, subject: &str, role: &str) {
    let looking = async {
        while !is_stored(reader, stream, subject).await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, looking).await;
    found.unwrap_or_else(|_| panic!("{role} could not have {subject} stored in {stream}"));
}

/// Whoever signs takes what is forged out of the way, and keeps it for a person.
#[tokio::test(flavor = "multi_thread")]
async fn who_signs_may_keep_what_is_forged() {
    let shipped = Shipped::start();
    let mut installation = Installation::new();
    installation.schedule("jobs.toml", SCHEDULES);
    assert_eq!(installation.run(&["keys", "new", "signing.key"]).code, 0);
    for (name, value) in shipped.env("operator") {
        installation.set(name, &value);
    }
    let env = shipped.env("beat");
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, &**value)).collect();
    let args = ["beat", "--signing-key", "signing.key"];
    let _beat = installation.start_with("beat", &args, &env);
    wait_for("beat's streams", || {
        let last = shipped.server.has_stream("KV_ORCH_UNIQUE_MONTH");
        last.then_some(())
    });
    wait_for("the jobs", || {
        let jobs = installation.try_json(&["jobs"])?;
        (!jobs.as_array()?.is_empty()).then_some(())
    });
    let seed = std::fs::read_to_string(&shipped.seeds["operator"]).unwrap();
    let options = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned());
    let options = options.custom_inbox_prefix("_INBOX_operator");
    let client = options.connect(shipped.server.url()).await.unwrap();
    let slot = "orch.jobs.high.high.slot";
    client.request(slot, "forged".into()).await.unwrap();
    let sign = [
        "run",
        "high",
        "--arg",
        "word=x",
        "--signing-key",
        "signing.key",
    ];
    let sent = installation.run(&sign);
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    let dead = installation.json(&["dead"]);
    assert_eq!(dead[0]["refused"]["rule"], "unsigned", "{dead}");
    assert!(!shipped.server.log().contains("Violation"));
}

#[test]
fn without_its_keys_the_server_does_not_start() {
    let config = super::installation::config("");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nats.conf");
    std::fs::write(&file, config).unwrap();
    let binary = super::support::nats::binary();
    let output = std::process::Command::new(&binary)
        .arg("-t")
        .arg("-c")
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("BEAT"), "{said}");
    let output = std::process::Command::new(binary)
        .args(["-t", "-c", "deploy/nats-server.conf"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("nats-keys.conf"),
        "{said}"
    );
}

#[test]
fn a_viewer_that_comes_first_finds_nothing_and_is_told_why() {
    let shipped = Shipped::start();
    let mut here = Installation::new();
    for (name, value) in shipped.env("viewer") {
        here.set(name, &value);
    }
    for list in ["jobs", "runs", "queues", "workers", "locks", "dead"] {
        assert_eq!(here.json(&[list]), serde_json::json!([]), "{list}");
    }
    let told = here.run(&["doctor"]);
    assert_eq!(told.code, 1, "no beat: {}{}", told.stdout, told.stderr);
    for part in [
        "no beat has set this server up yet",
        "start `orchestrator beat`",
    ] {
        assert!(told.stdout.contains(part), "{part}: {}", told.stdout);
    }
    assert!(!shipped.server.log().contains("Violation"));
}

#[test]
fn a_worker_that_comes_first_says_what_is_missing() {
    let shipped = Shipped::start();
    let installation = Installation::new();
    let env = shipped.env("worker_high");
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, &**value)).collect();
    let worker = installation.start_with("worker", &["worker", "--queue", "high"], &env);
    let said = wait_for("what is missing", || {
        let log = worker.log();
        log.contains("KV_ORCH_STATE: it is missing").then_some(log)
    });
    assert!(said.contains("start `orchestrator beat`"), "{said}");
    // It goes on as soon as beat was there.
    installation.schedule("jobs.toml", SCHEDULES);
    let env = shipped.env("beat");
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, &**value)).collect();
    let _beat = installation.start_with("beat", &["beat"], &env);
    wait_for("work", || {
        worker.log().contains("paused queues").then_some(())
    });
    // One of another queue is told who has to do something about it.
    let env = shipped.env("worker_high");
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, &**value)).collect();
    let other = installation.start_with("other", &["worker", "--queue", "default"], &env);
    wait_for("what the role may not do", || {
        let said = "docs/nats.md says what each role may do";
        other.log().contains(said).then_some(())
    });
}
