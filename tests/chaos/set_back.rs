//! What a beat that stands by has kept, and a nats-server that has something else: a backup of it that was put back, a
//! state that a beat began that knew nothing, a state that somebody imported.

use std::{path::Path, process::Command};

use rustix::process::Signal;

use crate::support::{Installation, Service, checker, nats::NatsServer, wait_for};

const JOBS: &str = r#"
[defaults]
working_dir = ".."

[job.tick]
every = "1s"
overlap = "allow"
catch_up = "all"
shell = "echo $ORCHESTRATOR_RUN_ID >> ticks"

[job.paused]
every = "1s"
shell = "echo no >> paused"
"#;

const COPIED: &str = "own copy brought up to date";
const ITS_OWN: &str = "going on from its own";

fn beat(here: &Installation, name: &str) -> Service {
    let directory = here.path(name).display().to_string();
    here.start(name, &["beat", "--data-dir", &directory, "-v"])
}

fn more_ticks(here: &Installation, more: usize) {
    let before = here.lines("ticks").len();
    wait_for("ticks", || {
        (here.lines("ticks").len() >= before + more).then_some(())
    });
}

/// The standby's copy has all that is so now: the first one may have been begun before.
fn copied(standby: &Service) {
    let copies = || standby.log().matches(COPIED).count();
    let before = copies();
    wait_for("two copies", || (copies() > before + 1).then_some(()));
}

fn pause(here: &Installation) {
    assert_eq!(here.run(&["pause", "paused", "--reason", "a test"]).code, 0);
}

fn is_paused(here: &Installation) -> Option<()> {
    let jobs = here.try_json(&["jobs"])?;
    let mut jobs = jobs.as_array()?.iter();
    jobs.find(|job| job["paused"]["reason"] == "a test")?;
    Some(())
}

fn copy_of(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

/// What a leader committed last may be unknown to a standby, and run twice.
fn is_without_gap(here: &Installation) -> Option<()> {
    let ran = here.lines("ticks");
    let ran: std::collections::BTreeSet<_> = ran.iter().cloned().collect();
    let ran: Vec<_> = ran.into_iter().collect();
    let tick = |id: &String| {
        let (_, tick) = id.split_once('@')?;
        let tick = chrono::NaiveDateTime::parse_from_str(tick, "%Y%m%dT%H%M%SZ").ok()?;
        Some(tick.and_utc().timestamp())
    };
    let whole = tick(ran.last()?)? - tick(ran.first()?)? + 1;
    (usize::try_from(whole) == Ok(ran.len())).then_some(())
}

/// The machine of NATS and of the beat that led dies, and a backup takes its place.
#[test]
fn a_standby_goes_on_from_its_own_copy_if_nats_is_set_back() {
    let mut nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    let first = beat(&here, "leader");
    more_ticks(&here, 2);
    // The backup says that it leads.
    first.kill9();
    checker::all_ended(&here);
    nats.kill9();
    let (store, backup) = (nats.directory().join("store"), here.path("backup"));
    copy_of(&store, &backup);
    nats.restart();

    let leader = beat(&here, "leader");
    wait_for("a leader", || {
        leader.log().contains("leading").then_some(())
    });
    let standby = beat(&here, "standby");
    pause(&here);
    wait_for("the pause", || is_paused(&here));
    more_ticks(&here, 3);
    let known = here.lines("ticks");
    copied(&standby);
    let silent = here.lines("paused").len();
    leader.kill9();
    nats.kill9();
    nats.wipe();
    copy_of(&backup, &store);
    nats.restart();

    wait_for("the standby at work", || {
        standby.log().contains(ITS_OWN).then_some(())
    });
    more_ticks(&here, 2);
    let ticks = here.lines("ticks");
    for tick in &known {
        let times = ticks.iter().filter(|other| *other == tick).count();
        assert_eq!(times, 1, "{tick}: {ticks:#?}");
    }
    wait_for("the pause, still", || is_paused(&here));
    assert_eq!(
        here.lines("paused").len(),
        silent,
        "the pause was forgotten"
    );
    let told = standby.log().matches("it was set back").count();
    assert_eq!(told, 1, "{}", standby.log());
}

/// A beat without a copy comes first to a server that lost its data, beside a standby that has all of it.
#[test]
fn what_a_standby_kept_is_not_lost_to_a_beat_that_knew_nothing() {
    let mut nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    let leader = beat(&here, "leader");
    more_ticks(&here, 1);
    let standby = beat(&here, "standby");
    pause(&here);
    wait_for("the pause", || is_paused(&here));
    copied(&standby);

    leader.kill9();
    standby.signal(Signal::STOP);
    // What waits is lost with the server.
    checker::all_ended(&here);
    nats.kill9();
    nats.wipe();
    nats.restart();
    let stranger = beat(&here, "stranger");
    more_ticks(&here, 1);
    standby.signal(Signal::CONT);
    wait_for("the copy that was put aside", || {
        standby
            .log()
            .contains("the copy is put aside")
            .then_some(())
    });
    wait_for("the pause, still", || is_paused(&here));
    wait_for("the ticks on which nobody had decided", || {
        is_without_gap(&here)
    });
    let files = std::fs::read_dir(here.path("standby/beat")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let aside: Vec<_> = names.filter(|name| name.starts_with("kept-")).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    copied(&standby);

    // As docs/recovery.md tells to: the server is emptied, and the copy that was put aside takes its place again.
    assert!(stranger.stop().success() && standby.stop().success());
    nats.kill9();
    nats.wipe();
    nats.restart();
    let old = here.path("standby/beat");
    std::fs::rename(&old, here.path("standby/beat.old")).unwrap();
    copy_of(&here.path("standby/beat.old").join(&aside[0]), &old);
    let again = beat(&here, "standby");
    wait_for("the copy at work", || {
        again.log().contains(ITS_OWN).then_some(())
    });
    wait_for("the pause, from the copy", || is_paused(&here));
}

/// The same, but the one that has a copy is awake: it leads first.
#[test]
fn a_beat_that_knows_nothing_lets_one_that_has_a_copy_lead_first() {
    let mut nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    let patient = |name: &str| {
        let directory = here.path(name).display().to_string();
        let args = [
            "beat",
            "--data-dir",
            &directory,
            "--leader-lease",
            "6s",
            "-v",
        ];
        here.start(name, &args)
    };
    let leader = patient("leader");
    more_ticks(&here, 1);
    let standby = patient("standby");
    pause(&here);
    wait_for("the pause", || is_paused(&here));
    more_ticks(&here, 2);
    copied(&standby);
    let silent = here.lines("paused").len();
    leader.kill9();
    checker::all_ended(&here);
    nats.kill9();
    nats.wipe();
    nats.restart();
    wait_for("the standby to say what it has", || {
        let said = standby.log().contains("telling that this beat has a copy");
        said.then_some(())
    });
    let stranger = patient("stranger");
    wait_for("the standby at work", || {
        standby.log().contains(ITS_OWN).then_some(())
    });
    more_ticks(&here, 2);
    wait_for("every tick", || is_without_gap(&here));
    let log = stranger.log();
    assert!(log.contains("is to lead first"), "{log}");
    assert!(!log.contains("\"leading\""), "{log}");
    wait_for("the pause, still", || is_paused(&here));
    assert_eq!(
        here.lines("paused").len(),
        silent,
        "the pause was forgotten"
    );
}

/// A beat that has only ever stood by knows whose copy it has.
#[test]
fn what_is_imported_stands_against_the_copy_of_a_standby() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    let leader = beat(&here, "leader");
    more_ticks(&here, 1);
    let standby = beat(&here, "standby");
    copied(&standby);
    let file = here.path("state").display().to_string();
    assert_eq!(here.run(&["state", "export", &file]).code, 0);
    more_ticks(&here, 2);
    copied(&standby);
    standby.kill9();
    assert!(leader.stop().success());
    let import = || {
        let imported = here.run(&["state", "import", &file, "--replace"]);
        assert_eq!(imported.code, 0, "{}", imported.stderr);
    };
    import();
    let standby = beat(&here, "standby");
    more_ticks(&here, 1);
    assert!(standby.stop().success());
    let log = here.read("standby.log");
    assert!(log.contains("another state was imported"), "{log}");
    assert!(!log.contains(ITS_OWN), "{log}");

    // Another beat leads when it sees that.
    import();
    let _leader = beat(&here, "leader");
    more_ticks(&here, 1);
    let standby = beat(&here, "standby");
    copied(&standby);
    let log = standby.log();
    assert!(log.contains("another state was imported"), "{log}");
    assert!(
        !log.contains("put aside") && !log.contains("set back"),
        "{log}"
    );
}
