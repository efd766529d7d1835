//! Beats on NATS whose own copy is damaged, and what workers and `jobs` say of a beat that died.

use serde_json::Value;

use crate::support::{EVERY_SECOND, Installation, checker, nats::NatsServer, wait_for};

#[test]
fn a_damaged_own_copy_is_set_aside_and_made_anew() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    for damage in ["nothing", "a cut", "zeros", "an empty file"] {
        let beat = here.start("beat", &["beat"]);
        let before = here.lines("ticks").len();
        wait_for("runs", || {
            (here.lines("ticks").len() > before + 1).then_some(())
        });
        let aside = beat
            .log()
            .matches("the store is damaged: it was set aside")
            .count();
        assert!(beat.stop().success());
        let database = here.path("data/beat/db");
        let file = std::fs::File::options()
            .write(true)
            .open(&database)
            .unwrap();
        let size = file.metadata().unwrap().len();
        match damage {
            "nothing" => {
                assert_eq!(aside, 0, "it is not damaged");
                file.set_len(size / 3).unwrap();
            }
            "a cut" => {
                assert_eq!(aside, 1, "the log grows");
                std::fs::write(&database, vec![0; size as usize]).unwrap();
            }
            "zeros" => {
                assert_eq!(aside, 2);
                file.set_len(0).unwrap();
            }
            _ => assert_eq!(aside, 3),
        }
    }
    let kept = std::fs::read_dir(here.path("data/beat")).unwrap();
    let is_aside = |name: std::ffi::OsString| name.to_string_lossy().starts_with("corrupt-");
    let kept = kept.filter(|entry| is_aside(entry.as_ref().unwrap().file_name()));
    assert_eq!(kept.count(), 3, "nothing is deleted");
    checker::every_second_once(&here.lines("ticks"));
}

#[test]
fn a_beat_that_died_is_told_by_workers_and_by_jobs() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    let worker = here.start("worker", &["worker", "--queue", "default"]);
    let beat = here.start("beat", &["beat"]);
    wait_for("the first run", || {
        (!here.lines("ticks").is_empty()).then_some(())
    });
    let warning = || here.run(&["jobs"]).stderr;
    assert_eq!(warning(), "");
    beat.kill9();
    wait_for("the worker to notice", || {
        worker.log().contains("beat is silent for").then_some(())
    });
    wait_for("`jobs` to say it", || {
        let warning = warning();
        (warning.contains("beat is silent for") && warning.contains("start `orchestrator beat`"))
            .then_some(())
    });
    wait_for("`workers` to count it", || {
        let workers = here.json(&["workers"]);
        (workers[0]["beat"]["stalls"] == 1).then_some(())
    });
    let _beat = here.start("beat", &["beat"]);
    wait_for("the worker to see the new one", || {
        worker.log().contains("beat is there again").then_some(())
    });
    assert_eq!(warning(), "");
    checker::every_second_once(&here.lines("ticks"));
}

/// No lease ends and no heartbeat is missed within this test: what a beat says when it stops is all there is.
#[test]
fn a_beat_that_is_stopped_says_so_at_once() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    let start = |name: &str, lease: &str| {
        let directory = here.path(name).display().to_string();
        let args = ["beat", "--data-dir", &directory, "--leader-lease", lease];
        let beat = here.start(name, &args);
        let is_up = |log: &str| {
            ["next tick", "standing by"]
                .iter()
                .any(|it| log.contains(it))
        };
        wait_for("a beat", || is_up(&beat.log()).then_some(()));
        beat
    };
    let leads = || nats.state("leader")["beat"].clone();
    let first = start("first", "45s");
    let led = leads();
    assert!(led.is_string(), "{led}");
    let second = start("second", "45s");
    assert!(first.stop().success());
    assert_ne!(leads(), led, "it has not given the lead away");
    wait_for("the other one to take over", || {
        let now = leads();
        (now.is_string() && now != led).then_some(())
    });
    assert!(second.stop().success());
    assert_eq!(leads(), Value::Null);

    let alone = start("alone", "off");
    wait_for("its heartbeat", || leads().as_str().map(drop));
    assert!(alone.stop().success());
    assert_eq!(leads(), Value::Null, "its heartbeat was left behind");
    let said = here.run(&["doctor"]).stdout;
    assert!(said.contains("it has just been stopped"), "{said}");
}

const SHARED: &str = r#"
[defaults]
working_dir = ".."

[job.edited]
every = "2s"
catch_up = "all"
overlap = "allow"
shell = "echo $ORCHESTRATOR_RUN_ID >> edited"
"#;
const NOT_EVERYWHERE: &str = r#"
[job.paused]
every = "1s"
shell = "echo no >> paused"

[job.cookie]
every = "20h"
first_run = "now"
shell = "echo $ORCHESTRATOR_RUN_ID >> cookie"

[job.steady]
every = "1s"
catch_up = "all"
overlap = "allow"
shell = "echo $ORCHESTRATOR_RUN_ID >> steady"
"#;

/// Two machines cannot be given new files at the same moment.
#[test]
fn a_moment_with_another_beats_files_harms_no_job() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", &format!("{SHARED}{NOT_EVERYWHERE}"));
    let others = here.path("others");
    std::fs::create_dir(&others).unwrap();
    let older = SHARED.replace("2s", "1s");
    std::fs::write(others.join("a.toml"), older).unwrap();
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    let start = |name: &str, more: &[&str]| {
        let directory = here.path(name).display().to_string();
        let args = [&["beat", "--data-dir", &directory][..], more].concat();
        here.start(name, &args)
    };
    let more = |file: &str| {
        let before = here.lines(file).len();
        wait_for(file, || (here.lines(file).len() > before + 1).then_some(()));
    };
    let newer = start("newer", &[]);
    more("edited");
    assert_eq!(here.run(&["pause", "paused", "--reason", "a test"]).code, 0);
    let pause = || {
        let jobs = here.try_json(&["jobs"])?;
        let paused = jobs
            .as_array()?
            .iter()
            .find(|job| job["name"] == "paused")?;
        paused["paused"]["reason"].as_str().map(str::to_owned)
    };
    wait_for("the pause", pause);
    checker::none_waits(&here, "edited");
    more("edited");
    let silent = here.lines("paused").len();

    let schedules = others.display().to_string();
    let older = start("older", &["--schedules", &schedules]);
    wait_for("a standby", || {
        older.log().contains("standing by").then_some(())
    });
    newer.kill9();
    wait_for("the older files to be in force", || {
        older.log().contains("\"leading\"").then_some(())
    });
    more("edited");
    let log = older.log();
    for told in [
        "takes over with other schedules",
        "cookie, edited, paused, steady",
        "a job that is paused is in the schedules no longer",
    ] {
        assert!(log.contains(told), "{told}: {log}");
    }
    let warned = here.run(&["jobs"]).stderr;
    assert!(warned.contains("with other schedules"), "{warned}");
    assert!(older.stop().success());
    let newer = start("newer", &[]);
    more("edited");
    more("steady");
    assert_eq!(pause().as_deref(), Some("a test"));
    assert!(newer.stop().success());
    checker::all_ended(&here);
    assert_eq!(
        here.lines("paused").len(),
        silent,
        "the pause was forgotten"
    );
    assert_eq!(here.lines("cookie").len(), 1, "it had its first run");
    checker::every_second_once(&here.lines("steady"));
    let ticks = checker::fired(&here, "edited");
    let (first, last) = (ticks[0].timestamp(), ticks[ticks.len() - 1].timestamp());
    for tick in (first..=last).filter(|tick| tick % 2 == 0) {
        let has_it = |ran: &chrono::DateTime<chrono::Utc>| ran.timestamp() == tick;
        assert!(ticks.iter().any(has_it), "{tick} was lost: {ticks:?}");
    }
}
