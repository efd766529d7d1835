//! What an installation knows survives its broker: moved to another one, and taken up from a snapshot.

use std::fs::File;

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

#[test]
fn without_a_snapshot_it_begins_anew_and_says_so() {
    let here = Installation::new();
    here.schedule("a.toml", JOBS);
    let up = here.up(&[]);
    wait_for("a tick", || (here.lines("ticks").len() > 1).then_some(()));
    up.kill9();
    let database = File::options().write(true).open(here.path("data/db"));
    database.unwrap().set_len(0).unwrap();
    let up = here.up(&[]);
    assert!(up.log().contains("there is no snapshot"), "{}", up.log());
    let before = here.lines("ticks").len();
    wait_for("ticks", || {
        (here.lines("ticks").len() > before).then_some(())
    });
}
