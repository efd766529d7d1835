//! A nats-server that loses all its data: beat notices it, fills it again, and fires nothing of the past.

use serde_json::Value;

use crate::{
    beat_stopped::{WIPED, beat_killed_at, reached},
    support::{EVERY_SECOND, Installation, Service, checker, nats::NatsServer, wait_for},
};

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

    checker::none_waits(&here, "ticks");
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

/// A beat that was at work and was stopped, with a pause that it knows of.
struct Paused {
    here: Installation,
    _worker: Service,
    /// How often the paused job ran before.
    silent: usize,
}

fn is_paused(here: &Installation) -> Option<()> {
    let jobs = here.try_json(&["jobs"])?;
    let mut jobs = jobs.as_array()?.iter();
    jobs.find(|job| job["paused"]["reason"] == "a test")?;
    Some(())
}

impl Paused {
    fn on(nats: &NatsServer) -> Self {
        let here = Installation::on_nats(&nats.url());
        here.schedule("a.toml", EVERY_SECOND);
        here.schedule("b.toml", REMEMBERED);
        let worker = here.start("worker", &["worker", "--queue", "default"]);
        let beat = here.start("beat", &["beat"]);
        let some_ticks = |what: &str| {
            let before = here.lines("ticks").len();
            wait_for(what, || {
                (here.lines("ticks").len() > before + 1).then_some(())
            });
        };
        some_ticks("the first runs");
        assert_eq!(here.run(&["pause", "paused", "--reason", "a test"]).code, 0);
        wait_for("the pause", || is_paused(&here));
        some_ticks("a commit of the pause");
        assert!(beat.stop().success());
        checker::all_ended(&here);
        let silent = here.lines("paused").len();
        Self {
            here,
            _worker: worker,
            silent,
        }
    }

    /// Beat is started for good: the pause is still there.
    fn is_remembered(&self) {
        let here = &self.here;
        let beat = here.start("beat", &["beat"]);
        let before = here.lines("ticks").len();
        wait_for("runs on the empty server", || {
            (here.lines("ticks").len() > before + 3).then_some(())
        });
        wait_for("the pause, still", || is_paused(here));
        assert_eq!(
            here.lines("anchored").len(),
            1,
            "it counts from its last run"
        );
        assert_eq!(
            here.lines("paused").len(),
            self.silent,
            "the pause was forgotten"
        );
        assert!(beat.stop().success());
    }
}

/// Beat is killed while it gives a broker that was wiped its state again: all of it is there in the end, and nothing of
/// the past is fired again.
#[test]
fn a_beat_that_dies_while_it_refills_does_so_again() {
    let mut nats = NatsServer::start();
    let paused = Paused::on(&nats);
    for point in [
        WIPED[0],
        WIPED[1],
        WIPED[2],
        "beat-state-written",
        "beat-installation-named",
        "beat-watermark-moved",
    ] {
        nats.kill9();
        nats.wipe();
        nats.restart();
        beat_killed_at(&paused.here, point, "");
    }
    paused.is_remembered();
    checker::every_second_once(&paused.here.lines("ticks"));
}

/// A beat that knew nothing came first, and has written a watermark: that it is later does not make up for what is
/// missing.
#[test]
fn a_beat_that_knew_nothing_and_came_first_takes_nothing_away() {
    let mut nats = NatsServer::start();
    let paused = Paused::on(&nats);
    nats.kill9();
    nats.wipe();
    nats.restart();
    let here = &paused.here;
    let elsewhere = here.path("elsewhere").display().to_string();
    let from = here.read("beat.log").len();
    let stranger = here.start_with(
        "beat",
        &["beat", "--data-dir", &elsewhere],
        &[("FAILPOINTS", "beat-watermark-moved=return")],
    );
    reached("beat-watermark-moved", &stranger, from);
    stranger.kill9();
    paused.is_remembered();
}

/// Commands of a paused queue, and a job that asks when it last succeeded.
const BY_OTHERS: &str = r#"
[job.tick]
every = "1s"
overlap = "allow"
command = ["sh", "-c", "echo {last_success} >> since"]
working_dir = ".."

[job.held]
every = "1s"
queue = "held"
shell = "echo no >> held"
working_dir = ".."
"#;

/// What people and workers wrote is given back as well: the pause of a queue, and when each job last succeeded.
fn others_are_refilled(by_another: bool) {
    let mut nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", BY_OTHERS);
    let queues = ["worker", "--queue", "default", "--queue", "held"];
    let worker = here.start("worker", &queues);
    let beat = here.start("beat", &["beat"]);
    assert_eq!(here.run(&["pause", "--queue", "held"]).code, 0);
    let runs = |more: usize| {
        let before = here.lines("since").len();
        wait_for("runs", || {
            (here.lines("since").len() > before + more).then_some(())
        });
    };
    runs(3);
    let is_held = || {
        let queues = here.try_json(&["queues"])?;
        let mut queues = queues.as_array()?.iter();
        queues.find(|queue| queue["queue"] == "held" && !queue["pause"].is_null())?;
        Some(())
    };
    wait_for("the pause of the queue", is_held);
    assert!(worker.stop().success());
    let silent = here.lines("held").len();
    let mut beat = Some(beat);
    if by_another {
        assert!(beat.take().unwrap().stop().success());
    }
    nats.kill9();
    nats.wipe();
    nats.restart();
    if by_another {
        beat = Some(here.start("beat", &["beat"]));
    }
    wait_for("the pause of the queue, still", is_held);
    let _worker = here.start("worker", &queues);
    let before = here.lines("since").len();
    runs(2);
    assert_eq!(here.lines("held").len(), silent, "the pause was forgotten");
    let since = here.lines("since");
    assert!(!since[before].is_empty(), "{since:?}");
    assert!(beat.unwrap().stop().success());
}

#[test]
fn what_others_wrote_is_refilled_by_the_beat_that_goes_on() {
    others_are_refilled(false);
}

#[test]
fn what_others_wrote_is_refilled_by_a_beat_that_starts() {
    others_are_refilled(true);
}

/// One data directory for two installations on a server: what is kept of one says nothing of the other.
#[test]
fn a_beat_of_another_installation_erases_no_tick() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    let elsewhere = here.path("elsewhere").display().to_string();
    let beats = |namespace: &str, more: &[&str]| {
        let args = [&["beat", "--namespace", namespace][..], more].concat();
        let name = format!("beat-{namespace}");
        here.start(&name, &args)
    };
    let count = |namespace: &str| {
        let runs = here.try_json(&["runs", "--namespace", namespace, "--limit", "1000"])?;
        Some(runs.as_array()?.len())
    };
    let fired = |namespace: &str, more: usize| {
        let before = count(namespace).unwrap_or(0);
        wait_for("ticks", || {
            (count(namespace)? > before + more).then_some(())
        });
    };
    let first = beats("prod", &["--data-dir", &elsewhere]);
    fired("prod", 1);
    assert!(first.stop().success());
    let other = beats("staging", &[]);
    fired("staging", 3);
    assert!(other.stop().success());
    let again = beats("prod", &[]);
    let worker = ["worker", "--queue", "default", "--namespace", "prod"];
    let _worker = here.start("worker", &worker);
    fired("prod", 3);
    assert!(again.stop().success());
    wait_for("all runs", || {
        let queues = here.try_json(&["queues", "--namespace", "prod"])?;
        (queues[0]["waiting"] == 0 && queues[0]["running"] == 0).then_some(())
    });
    checker::every_second_once(&here.lines("ticks"));
}

/// Nothing is due for hours: a pause is in the copies of all beats nevertheless, within seconds.
#[test]
fn a_pause_of_an_idle_installation_is_kept() {
    let mut nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule(
        "a.toml",
        "[job.rare]\nevery = \"20h\"\nqueue = \"rare\"\nshell = \"true\"\n",
    );
    let start = |name: &str| {
        let directory = here.path(name).display().to_string();
        here.start(name, &["beat", "--data-dir", &directory, "-v"])
    };
    let leader = start("leader");
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    let standby = start("standby");
    let copies = || standby.log().matches("own copy brought up to date").count();
    wait_for("a first copy", || (copies() > 0).then_some(()));
    for what in [&["rare"][..], &["--queue", "rare"]] {
        let before = copies();
        assert_eq!(here.run(&[&["pause"], what].concat()).code, 0);
        wait_for("another copy", || (copies() > before).then_some(()));
    }
    leader.kill9();
    standby.kill9();
    nats.kill9();
    nats.wipe();
    nats.restart();
    let _beat = start("standby");
    wait_for("the pause of the queue", || {
        let queues = here.try_json(&["queues"])?;
        let mut queues = queues.as_array()?.iter();
        queues.find(|queue| queue["queue"] == "rare" && !queue["pause"].is_null())?;
        Some(())
    });
    wait_for("the pause of the job", || {
        let jobs = here.try_json(&["jobs"])?;
        (!jobs.get(0)?["paused"].is_null()).then_some(())
    });
}
