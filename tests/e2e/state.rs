//! What an installation knows survives its broker: moved to another one, and taken up from a snapshot.

use std::{
    fs::File,
    io::Write,
    process::{Command, Stdio},
};

use orchestrator::{
    broker::{
        Broker, Bucket, Durability,
        embedded::{EmbeddedBroker, EmbeddedOptions},
    },
    ops::{Import, InstallationState, import_state},
};
use serde_json::Value;

use crate::support::{Installation, nats::NatsServer, wait_for};

const JOBS: &str = r#"
[defaults]
working_dir = ".."

[job.tick]
every = "1s"
overlap = "allow"
command = ["sh", "-c", "echo $ORCHESTRATOR_RUN_ID >> ticks"]

[job.paused]
every = "1s"
shell = "echo no >> paused"

[job.daily]
every = "20h"
anchor = "last_start"
first_run = "now"
shell = "echo once >> daily"

[job.waiting]
queue = "slow"
command = ["sh", "-c", "echo $ORCHESTRATOR_ARGS >> waited"]

[job.broken]
retry = { attempts = 2, backoff = "fixed", initial = "10ms" }
shell = "exit 3"
"#;

fn job(here: &Installation, name: &str) -> Value {
    let jobs = here.json(&["jobs"]);
    let mut jobs = jobs.as_array().unwrap().iter();
    jobs.find(|job| job["name"] == name).unwrap().clone()
}

/// Ticks ran, a job is paused, a run waits, and one is dead.
fn lived_in(here: &Installation) {
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(4).cloned());
    wait_for("the first runs", || {
        (here.lines("ticks").len() > 1 && here.lines("daily").len() == 1).then_some(())
    });
    assert_eq!(here.run(&["pause", "paused", "--reason", "a test"]).code, 0);
    let queue = here.run(&["pause", "--queue", "slow"]);
    assert_eq!(queue.code, 0, "{}", queue.stderr);
    assert_eq!(
        here.run(&["run", "waiting", "--args", "{\"a\": 1}"]).code,
        0
    );
    assert_eq!(here.run(&["run", "broken"]).code, 0);
    wait_for("the dead letter", || {
        (here.json(&["dead"]).as_array()?.len() == 1).then_some(())
    });
    wait_for("beat to hear of the pause", || {
        let before = here.lines("paused").len();
        let ticks = here.lines("ticks").len();
        wait_for("a tick", || {
            (here.lines("ticks").len() > ticks + 1).then_some(())
        });
        (here.lines("paused").len() == before).then_some(())
    });
}

fn is_remembered(here: &Installation) {
    assert_eq!(job(here, "paused")["paused"]["reason"], "a test");
    assert_eq!(here.json(&["dead"]).as_array().unwrap().len(), 1);
    assert_eq!(here.lines("waited").len(), 0, "its queue is paused");
    assert_eq!(here.run(&["resume", "--queue", "slow"]).code, 0);
    wait_for("what waited", || {
        (here.lines("waited").len() == 1).then_some(())
    });
    assert_eq!(here.lines("waited"), ["{\"a\":1}"]);
    let before = here.lines("ticks").len();
    wait_for("more ticks", || {
        (here.lines("ticks").len() > before + 1).then_some(())
    });
    assert_eq!(here.lines("daily").len(), 1, "the countdown began anew");
}

#[test]
fn an_installation_moves_to_nats() {
    let mut here = Installation::new();
    here.schedule("a.toml", JOBS);
    let up = here.up(&[]);
    lived_in(&here);
    let file = here.path("state").display().to_string();
    let exported = here.run(&["state", "export", &file]);
    assert_eq!(exported.code, 0, "{}", exported.stderr);
    assert!(
        exported.stderr.contains("1 dead letters"),
        "{}",
        exported.stderr
    );
    assert!(up.stop().success());

    let nats = NatsServer::start();
    here.set("NATS_URL", &nats.url());
    let imported = here.json(&["state", "import", &file]);
    assert_eq!(imported["dead"], 1, "{imported}");
    let again = here.run(&["state", "import", &file]);
    assert_eq!(again.code, 7, "{}", again.stderr);
    assert!(again.stderr.contains("--replace"), "{}", again.stderr);
    let again = here.json(&["state", "import", &file, "--replace"]);
    assert_eq!(again["dead"], 0, "it is there: {again}");
    assert_eq!(here.json(&["dead"]).as_array().unwrap().len(), 1);
    let _beat = here.start("beat", &["beat"]);
    let _worker = here.start(
        "worker",
        &["worker", "--queue", "default", "--queue", "slow"],
    );
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(4).cloned());
    is_remembered(&here);

    std::fs::write(&file, "orchestrator-state crc32c=00000000\n{}\n").unwrap();
    let damaged = here.run(&["state", "import", &file, "--replace"]);
    assert_eq!(damaged.code, 1);
    assert!(
        damaged.stderr.contains("it is damaged"),
        "{}",
        damaged.stderr
    );
}

/// Beat's own copy is newer than what is restored, and of no account: somebody wants the older state.
#[test]
fn what_is_restored_stands_against_the_own_copy_of_a_beat() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule(
        "a.toml",
        "[job.tick]\nevery = \"1s\"\noverlap = \"allow\"\nshell = \"true\"",
    );
    let runs = || {
        here.try_json(&["runs"])
            .map(|runs| runs.as_array().unwrap().len())
    };
    let at_work = |name: &str| {
        let beat = here.start(name, &["beat"]);
        let before = runs().unwrap_or(0);
        wait_for("ticks", || (runs()? > before + 1).then_some(()));
        assert!(beat.stop().success());
        here.read(&format!("{name}.log"))
    };
    at_work("first");
    let file = here.path("state").display().to_string();
    assert_eq!(here.run(&["state", "export", &file]).code, 0);
    assert_eq!(here.run(&["pause", "--queue", "held"]).code, 0);
    at_work("later");
    // The own copy does not hear of that.
    assert_eq!(here.run(&["resume", "--queue", "held"]).code, 0);
    let imported = here.run(&["state", "import", &file, "--replace"]);
    assert_eq!(imported.code, 0, "{}", imported.stderr);
    let log = at_work("again");
    assert!(log.contains("another state was imported"), "{log}");
    assert!(!log.contains("going on from its own"), "{log}");
    assert!(!log.contains("restored"), "{log}");
    let queues = here.run(&["queues"]).stdout;
    assert!(!queues.contains("held"), "the pause is back: {queues}");
}

#[test]
fn a_damaged_store_is_set_aside_and_a_snapshot_taken_up() {
    let here = Installation::new();
    here.schedule("a.toml", JOBS);
    let up = here.up(&["--snapshot-every", "100ms", "-v"]);
    lived_in(&here);
    let written = || up.log().matches("snapshot written").count();
    let before = written();
    wait_for("two snapshots", || (written() > before + 1).then_some(()));
    up.kill9();
    let kept = std::fs::read_dir(here.path("data/snapshots")).unwrap();
    assert!(kept.count() <= 4, "three, and perhaps a part of one");
    let database = File::options()
        .write(true)
        .open(here.path("data/db"))
        .unwrap();
    let size = database.metadata().unwrap().len();
    database.set_len(size / 2).unwrap();

    let up = here.up(&[]);
    let log = up.log();
    for told in ["the store is damaged", "going on from a snapshot"] {
        assert!(log.contains(told), "{told}: {log}");
    }
    is_remembered(&here);
    assert!(up.stop().success());
    // It was whole since then.
    let again = here.up(&[]);
    assert_eq!(again.log().matches("the store is damaged").count(), 1);
}

/// As docs/recovery.md tells to.
#[test]
fn a_copy_from_elsewhere_is_taken_up_as_a_snapshot() {
    let here = Installation::new();
    here.schedule("a.toml", JOBS);
    let up = here.up(&[]);
    lived_in(&here);
    let file = here.path("state").display().to_string();
    let exported = here.run(&["state", "export", &file]);
    assert_eq!(exported.code, 0, "{}", exported.stderr);
    up.kill9();
    std::fs::rename(here.path("data"), here.path("data.old")).unwrap();
    std::fs::create_dir_all(here.path("data/snapshots")).unwrap();
    std::fs::copy(&file, here.path("data/snapshots/state-0.snapshot")).unwrap();
    let up = here.up(&["--snapshot-every", "100ms", "-v"]);
    assert!(
        up.log().contains("going on from a snapshot"),
        "{}",
        up.log()
    );
    is_remembered(&here);
    wait_for("newer snapshots", || {
        let gone = !here.path("data/snapshots/state-0.snapshot").exists();
        gone.then_some(())
    });
}

#[test]
fn without_a_snapshot_it_begins_anew_and_says_so() {
    let here = Installation::new();
    here.schedule("a.toml", JOBS);
    let up = here.up(&[]);
    wait_for("a tick", || (here.lines("ticks").len() > 1).then_some(()));
    up.kill9();
    let database = File::options().write(true).open(here.path("data/db"));
    database.unwrap().set_len(0).unwrap();
    let snapshots = here.path("data/snapshots");
    std::fs::create_dir_all(&snapshots).unwrap();
    std::fs::write(snapshots.join("state-0.snapshot"), "not one").unwrap();
    let up = here.up(&[]);
    assert!(up.log().contains("there is no snapshot"), "{}", up.log());
    let mut told = here.lines("up.log").into_iter();
    let unusable = told.find(|line| line.contains("no snapshot is whole"));
    assert!(
        unusable.is_some_and(|line| line.contains("ERROR")),
        "{}",
        up.log()
    );
    let before = here.lines("ticks").len();
    wait_for("ticks", || {
        (here.lines("ticks").len() > before).then_some(())
    });
}

/// The exit code and standard error of a command that is fed `input`.
fn fed(mut command: Command, input: &[u8]) -> (i32, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), stderr)
}

fn with_checksum(body: &str) -> Vec<u8> {
    let sum = crc32c::crc32c(body.as_bytes());
    format!("orchestrator-state crc32c={sum:08x}\n{body}\n").into_bytes()
}

#[test]
fn a_copy_that_cannot_be_written_says_what_is_missing() {
    let here = Installation::new();
    here.schedule("a.toml", "[job.none]\ncommand = [\"true\"]\n");
    let mut up = here.up(&[]);
    let file = here.path("nowhere/copy").display().to_string();
    let refused = here.command(&["state", "export", &file]).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let directory = here.path("nowhere").display().to_string();
    assert!(
        said.contains(&format!("make the directory {directory}")),
        "{said}"
    );
    assert!(up.ended().is_none());
}

#[test]
fn files_are_looked_at_before_anything_is_written() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let beat = here.start("beat", &["beat"]);
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(4).cloned());
    assert!(beat.stop().success());

    // To a file, and through pipes; into a namespace of its own, which has nothing yet.
    let file = here.path("state").display().to_string();
    let told = here.json(&["state", "export", &file]);
    assert!(told["values"].as_u64().unwrap() > 5, "{told}");
    let piped = here.bytes(&["state", "export", "-"]);
    assert!(piped.starts_with(b"orchestrator-state crc32c="));
    let body = String::from_utf8(piped.clone()).unwrap();
    let (_, body) = body.trim_end().split_once('\n').unwrap();
    let newer = body.replacen("\"version\":1", "\"version\":2,\"other\":[]", 1);
    let newer = newer.replacen("\"values\":", "\"entries\":", 1);
    let mut flipped = piped.clone();
    flipped[piped.len() / 2] ^= 1;
    let wrong: [(&str, &[u8], &str); 6] = [
        ("cut off", &piped[..piped.len() / 2], "it is damaged"),
        (
            "cut off at the end",
            &piped[..piped.len() - 1],
            "it is damaged",
        ),
        ("altered", &flipped, "it is damaged"),
        ("empty", b"", "does not begin like a file"),
        ("something else", b"[job.a]\n", "does not begin like a file"),
        ("newer", &with_checksum(&newer), "it has version 2"),
    ];
    let import = |more: &[&str]| {
        here.command(&[&["--namespace", "other", "state", "import", "-"], more].concat())
    };
    for (what, bytes, reason) in wrong {
        let (code, stderr) = fed(import(&[]), bytes);
        assert_eq!(code, 1, "{what}: {stderr}");
        assert!(stderr.contains(reason), "{what}: {stderr}");
    }
    let missing = here.run(&["state", "import", "no-such-file"]);
    assert_eq!(missing.code, 1, "{}", missing.stderr);
    assert!(
        missing.stderr.contains("no-such-file"),
        "{}",
        missing.stderr
    );
    let nowhere = here.run(&["state", "export", "no/such/directory/file"]);
    assert_eq!(nowhere.code, 1, "{}", nowhere.stderr);

    // Nothing of all that was written: it counts as empty.
    let (code, stderr) = fed(import(&[]), &piped);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("imported"), "{stderr}");
    let jobs = here.json(&["--namespace", "other", "jobs"]);
    assert_eq!(jobs.as_array().unwrap().len(), 5, "{jobs}");
    let (code, stderr) = fed(import(&[]), &piped);
    assert_eq!(code, 7, "{stderr}");
    assert!(stderr.contains("--replace"), "{stderr}");
    let (code, stderr) = fed(import(&["--replace"]), &piped);
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn an_import_that_was_cut_off_is_repeated_whole() {
    let here = Installation::new();
    here.schedule("a.toml", "[job.long]\nshell = \"sleep 1000\"\n");
    let up = here.up(&[]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    assert_eq!(here.run(&["run", "long"]).code, 0);
    wait_for("the run", || {
        let runs = here.runs("long");
        (runs.first()?["state"] == "running").then_some(())
    });
    let state = here.bytes(&["state", "export"]);
    up.kill9();
    let state = InstallationState::decode(&state).unwrap();
    assert_eq!(state.amount().runs, 1);

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let open = |name: &str| {
            EmbeddedBroker::open(&here.path(name), EmbeddedOptions::default()).unwrap()
        };
        let whole = open("whole");
        let amount = import_state(&*whole, &state, Import::default())
            .await
            .unwrap();
        assert_eq!(amount.runs, 1);
        // The record was written; then the power failed.
        let cut_off = open("cut-off");
        let record = whole.latest(Bucket::Runs, "long").await.unwrap().unwrap();
        let value = record.value.clone();
        let set =
            cut_off.compare_and_set(Bucket::Runs, &record.key, None, value, Durability::Power);
        set.await.unwrap();
        let amount = import_state(&*cut_off, &state, Import::default())
            .await
            .unwrap();
        assert_eq!(amount.runs, 1, "its record is no reason to lose the run");
        assert_eq!(cut_off.pending(0, 10).await.unwrap().len(), 1);
    });
}
