//! Workers that die, on NATS.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::support::{Installation, is_alive, nats::NatsServer, wait_for, within};

const LEASE: Duration = Duration::from_secs(3);

#[test]
#[allow(clippy::disallowed_methods, reason = "measures a promise in real time")]
fn a_killed_worker_costs_one_lease_and_leaves_nothing_behind() {
    let nats = NatsServer::start();
    let mut here = Installation::on_nats(&nats.url());
    let temporary = here.path("tmp");
    std::fs::create_dir(&temporary).unwrap();
    here.set("TMPDIR", temporary.to_str().unwrap());
    here.schedule(
        "a.toml",
        "[job.long]\nworking_dir = \"..\"\nshell = '''\n\
         (env -i setsid sh -c 'echo $$ >> daemons; exec sleep 600' >/dev/null 2>&1 &)\n\
         until [ -s daemons ]; do :; done\n\
         echo $$ >> pids; exec sleep 600'''\n",
    );
    let _beat = here.start("beat", &["beat"]);
    let worker = |name: &str| here.start(name, &["worker", "--queue", "default", "--lease", "3s"]);
    let directories = || -> BTreeSet<_> {
        let entries = std::fs::read_dir(&temporary).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    let first = worker("first");
    wait_for("the definition", || {
        here.try_json(&["jobs"])?.get(0).cloned()
    });
    let id = here.run(&["run", "long"]).stdout.trim().to_owned();
    let child: u32 = wait_for("the job to run", || {
        here.lines("pids").first()?.parse().ok()
    });
    let of_the_first = directories();
    assert_eq!(of_the_first.len(), 1, "{of_the_first:?}");
    let second = worker("second");
    wait_for("the second worker", || {
        (here.json(&["workers"]).as_array()?.len() == 2).then_some(())
    });
    let killed = Instant::now();
    first.kill9();
    wait_for("the killed worker's child to end", || {
        (!is_alive(child)).then_some(())
    });
    let daemon: u32 = here.lines("daemons")[0].parse().unwrap();
    wait_for("the killed worker's daemon to end", || {
        (!is_alive(daemon)).then_some(())
    });
    within(
        LEASE + Duration::from_secs(1),
        "the run on the other worker",
        || here.lines("pids").get(1).cloned(),
    );
    println!("taken over {:?} after the kill", killed.elapsed());
    let record = wait_for("the record of the second attempt", || {
        let record = here.json(&["show", &id]);
        (record["attempts"].as_array()?.len() == 2).then_some(record)
    });
    assert_eq!(record["attempts"][0]["end"], "lost", "{record}");
    assert_ne!(
        record["attempts"][0]["worker"],
        record["attempts"][1]["worker"]
    );
    assert_eq!(record["state"], "running");
    let of_both = directories();
    let mut expected = &of_both - &of_the_first;
    assert_eq!((of_both.len(), expected.len()), (2, 1), "{of_both:?}");
    let third = worker("third");
    wait_for("the third worker", || {
        third.log().contains("worker starts").then_some(())
    });
    let now = directories();
    expected.extend(&now - &of_both);
    assert_eq!((&now, now.len()), (&expected, 2), "what the first one left");
    assert_eq!(here.run(&["cancel", &id, "--wait"]).code, 0);
    assert!(second.stop().success() && third.stop().success());
    assert_eq!(directories(), BTreeSet::new());
}

#[test]
fn a_run_longer_than_its_lease_is_not_delivered_twice() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule(
        "a.toml",
        "[job.long]\nshell = \"echo x >> starts; sleep 5\"\nworking_dir = \"..\"\n",
    );
    let _beat = here.start("beat", &["beat"]);
    let _a = here.start("a", &["worker", "--queue", "default", "--lease", "1s"]);
    let _b = here.start("b", &["worker", "--queue", "default", "--lease", "1s"]);
    wait_for("the definition", || {
        here.try_json(&["jobs"])?.get(0).cloned()
    });
    let ended = here.run(&["run", "long", "--wait"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(here.lines("starts").len(), 1);
}

#[test]
fn a_frozen_worker_that_wakes_up_records_nothing() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule(
        "a.toml",
        "[job.once]\nshell = \"echo x >> starts; until [ -e go ]; do sleep 0.1; done\"\nworking_dir = \"..\"\n",
    );
    let _beat = here.start("beat", &["beat"]);
    let frozen = here.start("frozen", &["worker", "--queue", "default", "--lease", "1s"]);
    wait_for("the definition", || {
        here.try_json(&["jobs"])?.get(0).cloned()
    });
    let id = here.run(&["run", "once"]).stdout.trim().to_owned();
    wait_for("the job to run", || {
        (here.lines("starts").len() == 1).then_some(())
    });
    frozen.signal(Signal::STOP);
    let _other = here.start("other", &["worker", "--queue", "default", "--lease", "1s"]);
    wait_for("the takeover", || {
        (here.lines("starts").len() == 2).then_some(())
    });
    frozen.signal(Signal::CONT);
    std::fs::write(here.path("go"), "").unwrap();
    let record = wait_for("the end", || {
        let record = here.json(&["show", &id]);
        (record["state"] == "succeeded").then_some(record)
    });
    assert_eq!(record["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(record["attempts"][0]["end"], "lost");
    assert_eq!(record["attempts"][1]["end"], "succeeded");
    wait_for("the queue to be empty", || {
        let queues = here.json(&["queues"]);
        let busy = queues
            .as_array()?
            .iter()
            .any(|q| q["waiting"] != 0 || q["running"] != 0);
        (!busy).then_some(())
    });
    assert_eq!(
        here.lines("starts").len(),
        2,
        "the stale worker gave the run away"
    );
}
