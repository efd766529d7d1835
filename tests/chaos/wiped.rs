//! A nats-server that loses all its data: beat notices it, fills it again, and fires nothing of the past.

use serde_json::Value;

use crate::support::{Installation, checker, nats::NatsServer, wait_for};

const EVERY_SECOND: &str = r#"
[job.tick]
every = "1s"
overlap = "allow"
catch_up = "all"
catch_up_window = "1h"
command = ["sh", "-c", "echo $ORCHESTRATOR_RUN_ID >> ticks"]
working_dir = ".."
"#;

/// A paused job, and one that counts from its last run: both are remembered by the broker.
const REMEMBERED: &str = r#"
[job.paused]
every = "1s"
shell = "echo no >> paused"
working_dir = ".."

[job.anchored]
every = "1h"
anchor = "last_start"
first_run = "now"
shell = "echo once >> anchored"
working_dir = ".."
"#;

/// Kills `which` of two beats together with a nats-server that loses all its data.
fn wiped(kill_the_leader: bool) {
    let mut nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    here.schedule("b.toml", REMEMBERED);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    let start = |name: &str| {
        let directory = here.path(name).display().to_string();
        here.start(name, &["beat", "--data-dir", &directory, "-v"])
    };
    let leader = start("leader");
    wait_for("the first runs", || {
        (here.lines("ticks").len() > 1 && here.lines("anchored").len() == 1).then_some(())
    });
    assert_eq!(here.run(&["pause", "paused", "--reason", "a test"]).code, 0);
    let standby = start("standby");
    wait_for("the standby's own copy of the pause", || {
        let is_paused = |job: &Value| job["paused"]["reason"] == "a test";
        here.json(&["jobs"])
            .as_array()?
            .iter()
            .find(|job| is_paused(job))?;
        standby
            .log()
            .contains("own copy brought up to date")
            .then_some(())
    });
    let silent = here.lines("paused").len();
    let copies = || standby.log().matches("own copy brought up to date").count();
    let before = copies();
    wait_for("another copy", || (copies() > before + 1).then_some(()));

    nats.kill9();
    let mut leader = Some(leader);
    if kill_the_leader {
        leader.take().unwrap().kill9();
    }
    nats.wipe();
    nats.restart();
    let before = here.lines("ticks").len();
    wait_for("runs on the empty server", || {
        (here.lines("ticks").len() > before + 3).then_some(())
    });
    let jobs = here.json(&["jobs"]);
    let job = |name: &str| {
        let mut jobs = jobs.as_array().unwrap().iter();
        jobs.find(|job| job["name"] == name).unwrap().clone()
    };
    assert_eq!(job("paused")["paused"]["reason"], "a test", "{jobs:#}");
    assert_eq!(
        here.lines("paused").len(),
        silent,
        "the pause was forgotten"
    );
    assert_eq!(
        here.lines("anchored").len(),
        1,
        "it counts from its last run"
    );
    checker::every_second_once(&here.lines("ticks"));
    drop(leader);
}

#[test]
fn a_wiped_broker_is_refilled_by_the_leader() {
    wiped(false);
}

#[test]
fn a_wiped_broker_is_refilled_by_a_standby() {
    wiped(true);
}
