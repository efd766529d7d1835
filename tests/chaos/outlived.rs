//! A nats-server that loses all its data while runs are executed: what holds a lock ends before anybody else gets it,
//! the rest goes on, is recorded, and is not executed a second time beside itself.

use serde_json::{Value, json};

use crate::support::{Installation, Service, listener::Listener, nats::NatsServer, wait_for};

/// Each writes a line when it starts, and one when it ends; the first also as long as it lives.
const JOBS: &str = r#"
[job.locked]
every = "1s"
lock = "jar"
overlap = "allow"
working_dir = ".."
kill = { grace = "1m" }
shell = "trap '' TERM; echo $$ $(date +%s%N) >> locked; while :; do date +%s%N > alive.$$; sleep 0.05; done"

[job.long]
working_dir = ".."
shell = "echo start >> long; while [ ! -e end ]; do sleep 0.05; done; echo end >> long"

[job.fails]
retry = { attempts = 3, initial = "1s" }
working_dir = ".."
shell = "echo start >> fails; while [ ! -e end ]; do sleep 0.05; done; exit 3"

[job.often]
every = "3s"
overlap = "allow"
catch_up = "all"
queue = "often"
working_dir = ".."
shell = "echo start $ORCHESTRATOR_RUN_ID >> often; while [ ! -e end ]; do sleep 0.05; done"
"#;

const DEFAULT: [&str; 6] = ["--queue", "default", "--lease", "6s", "--concurrency", "8"];

fn wipe(nats: &mut NatsServer) {
    nats.kill9();
    nats.wipe();
    nats.restart();
}

fn worker(here: &Installation, name: &str, more: &[&str]) -> Service {
    let data = here.path(name).display().to_string();
    let args = ["worker", "-v", "--data-dir", &data];
    here.start(name, &[&args[..], more].concat())
}

fn started(here: &Installation, file: &str, count: usize) {
    wait_for(&format!("{count} starts in {file}"), || {
        (here.lines(file).len() >= count).then_some(())
    });
}

fn only_run(here: &Installation, job: &str) -> Option<Value> {
    let runs = here.try_json(&["runs", "--job", job])?;
    runs.as_array()?.first().cloned()
}

#[test]
fn a_lock_is_free_when_who_held_it_has_ended_and_other_jobs_go_on() {
    let mut nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let beat = here.start("beat", &["beat"]);
    let _holder = worker(&here, "holder", &DEFAULT);
    started(&here, "locked", 1);
    for job in ["long", "fails"] {
        assert_eq!(here.run(&["run", job]).code, 0);
        started(&here, job, 1);
    }
    let other = worker(&here, "other", &DEFAULT);
    // It takes a run, and waits for the lock.
    wait_for("a worker that has seen the server", || {
        other.log().contains("waits").then_some(())
    });
    wipe(&mut nats);
    // There is one more each second who wants the lock.
    started(&here, "locked", 2);
    let (first, second) = (holder(&here, 0), holder(&here, 1));
    let seen = |pid: &str| {
        wait_for("a sign of life", || {
            here.read(&format!("alive.{pid}"))
                .trim()
                .parse::<u128>()
                .ok()
        })
    };
    let a_while = 200_000_000;
    wait_for("the second for a while", || {
        (seen(&second.0) > second.1 + a_while).then_some(())
    });
    assert!(
        seen(&first.0) < second.1,
        "both hold it: {first:?} {second:?}"
    );

    wait_for("the record of what goes on", || {
        (only_run(&here, "long")?["state"] == "running").then_some(())
    });
    std::fs::write(here.path("end"), "").unwrap();
    let ended = |job: &str, state: &str| {
        wait_for(&format!("{job}, {state}"), || {
            only_run(&here, job).filter(|run| run["state"] == *state)
        })
    };
    ended("long", "succeeded");
    assert_eq!(here.lines("long"), ["start", "end"]);
    // No message could bring it back for its next attempt.
    let dead = ended("fails", "dead");
    let reason = dead["reason"].as_str().unwrap();
    assert!(
        reason.contains("lost its data") && reason.contains("3"),
        "{reason}"
    );
    assert_eq!(here.lines("fails"), ["start"]);
    assert!(beat.stop().success());
}

/// The process that held the lock as the `n`th, and when it began, in nanoseconds.
fn holder(here: &Installation, n: usize) -> (String, u128) {
    let line = here.lines("locked")[n].clone();
    let (pid, began) = line.split_once(' ').unwrap();
    (pid.to_owned(), began.parse().unwrap())
}

/// The machine of NATS and of the beat that leads is lost: the one that goes on fires a tick again that its copy does not
/// know of. Whoever gets that run lets the one have it who executes it already.
#[test]
fn a_tick_that_is_fired_again_is_not_executed_beside_itself() {
    let mut nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let (copy, later) = (here.path("copy"), here.path("later"));
    let beat = |directory: &std::path::Path| {
        let directory = directory.display().to_string();
        here.start("beat", &["beat", "--data-dir", &directory])
    };
    let first = beat(&copy);
    let often = ["--queue", "often", "--lease", "1m", "--concurrency"];
    // It has no room for more than it executes.
    let _one = worker(&here, "one", &[&often[..], &["3"]].concat());
    started(&here, "often", 1);
    first.kill9();
    // From here on the copy is old.
    let copied = std::process::Command::new("cp")
        .args(["-r".as_ref(), copy.as_os_str(), later.as_os_str()])
        .status();
    assert!(copied.unwrap().success());
    let second = beat(&later);
    started(&here, "often", 3);
    second.kill9();
    let _two = worker(&here, "two", &[&often[..], &["8"]].concat());
    wipe(&mut nats);
    let before = here.lines("often").len();
    let third = beat(&copy);
    started(&here, "often", before + 1);
    let starts = here.lines("often");
    let mut once = starts.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(
        once.len(),
        starts.len(),
        "executed beside itself: {starts:#?}"
    );
    std::fs::write(here.path("end"), "").unwrap();
    assert!(third.stop().success());
}

/// Webhooks are told of what happens on the empty server, also if only the stream of dead letters is lost; and beat makes
/// what is missing there.
#[test]
fn webhooks_are_told_on() {
    let mut nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    let listener = Listener::start(|_, _| "200 OK");
    let webhook = format!(
        "[notify.ops]\nurl = \"{}\"\non = \"failed\"\nrepeat = \"1s\"\n",
        listener.url
    );
    here.schedule(
        "a.toml",
        &format!("[job.fails]\nevery = \"1s\"\nshell = \"exit 3\"\n{webhook}"),
    );
    let beat = here.start("beat", &["beat"]);
    let _worker = worker(&here, "worker", &DEFAULT);
    let told = |when: &str| {
        let before = listener.heard().len();
        wait_for(&format!("messages {when}"), || {
            (listener.heard().len() > before + 1).then_some(())
        });
    };
    told("at first");
    nats.api("STREAM.DELETE.ORCH_DEAD", &json!({}).to_string());
    told("without the dead letters");
    wipe(&mut nats);
    told("on the empty server");
    for stream in ["ORCH_DEAD", "ORCH_LOGS", "KV_ORCH_LOCKS"] {
        wait_for(stream, || nats.has_stream(stream).then_some(()));
    }
    assert!(beat.stop().success());
}
