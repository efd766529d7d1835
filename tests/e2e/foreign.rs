//! What beat owns in the shared state is written over by somebody who may write to the broker.

use crate::support::{EVERY_SECOND, Installation, Service, checker, nats::NatsServer, wait_for};
/// What ends a beat that insists on understanding it.
const OWNED: [&str; 3] = ["leader", "watermark", "job.tick"];
/// What else beat reads there.
const READ: [&str; 5] = [
    "installation",
    "reload",
    "def.tick",
    "last.tick",
    "pause.tick",
];

/// With which the key of a definition is asked for, and the answer sent to the key that is written over: all of that a
/// user may do who may only read.
const ANSWER: &[u8] = b"an answer";

fn garbage() -> [(&'static str, Vec<u8>); 6] {
    [
        ("nothing", Vec::new()),
        ("no text", b"\xff\xfe\0 no text".to_vec()),
        (
            "another form",
            br#"{"name":"tick","enabled":true}"#.to_vec(),
        ),
        ("a list", b"[]".to_vec()),
        ("an answer of the server", ANSWER.to_vec()),
        ("much", vec![b'7'; 512 * 1024]),
    ]
}

fn overwrite(nats: &NatsServer, key: &str, value: &[u8]) {
    let key = format!("$KV.ORCH_STATE.{key}");
    match value == ANSWER {
        true => {
            let asked = "$JS.API.DIRECT.GET.KV_ORCH_STATE.$KV.ORCH_STATE.def.tick";
            nats.publish(&format!("{asked} {key}"), b"");
        }
        false => nats.publish(&key, value),
    }
}

fn start(here: &Installation) -> Service {
    here.start("beat", &["beat", "--leader-lease", "300ms"])
}

fn goes_on(here: &Installation, nats: &NatsServer, what: &str) {
    let before = here.lines("ticks").len();
    wait_for(&format!("runs after {what}"), || {
        (here.lines("ticks").len() > before + 1).then_some(())
    });
    wait_for(&format!("what was there before {what}"), || {
        let at = |key: &str, member: &str| !nats.state(key)[member].is_null();
        let is_there = at("leader", "renewed_at") && at("watermark", "at");
        (is_there && at("job.tick", "first_seen")).then_some(())
    });
}

fn is_told(log: &str, key: &str) -> bool {
    let mut lines = log.lines();
    lines.any(|line| {
        line.contains("a shared value is not understood")
            && line.contains(&format!("\"key\":\"{key}\""))
    })
}

#[test]
fn what_no_beat_wrote_stops_no_beat() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    let mut beat = start(&here);
    goes_on(&here, &nats, "the start");
    for (what, value) in garbage() {
        for key in OWNED.iter().chain(&READ) {
            overwrite(&nats, key, &value);
        }
        goes_on(&here, &nats, &format!("{what} while it works"));
        for key in ["leader", "watermark", "job.tick"] {
            assert!(is_told(&beat.log(), key), "{key}: {}", beat.log());
        }
        assert!(beat.stop().success());
        for key in OWNED.iter().chain(&READ) {
            overwrite(&nats, key, &value);
        }
        beat = start(&here);
        goes_on(&here, &nats, &format!("{what} before its start"));
    }
    drop(beat);
    checker::every_second_once(&here.lines("ticks"));
}

/// A pause that somebody wrote over who may only read holds all the same, and beat, who knows it, writes it anew.
#[test]
fn a_pause_that_is_written_over_holds() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    let beat = start(&here);
    let job = || Some(here.try_json(&["jobs"])?.get(0)?.clone());
    wait_for("the job", job);
    let reason = ["--reason", "the site is down"];
    let pause = |what: &[&str]| assert_eq!(here.run(&[&["pause"], what, &reason].concat()).code, 0);
    pause(&["--queue", "default"]);
    pause(&["tick"]);
    wait_for("ticks to be skipped", || {
        (job()?["skipped"].as_u64()? >= 2).then_some(())
    });
    assert!(beat.stop().success());

    const SPOILT: [&str; 2] = ["paused_queue.default", "pause.tick"];
    let spoil = || SPOILT.iter().for_each(|key| overwrite(&nats, key, ANSWER));
    spoil();
    let queues = here.run(&["queues"]).stdout;
    assert!(queues.contains("not understood"), "{queues}");
    let worker = here.start("worker", &["worker", "--queue", "default"]);
    wait_for("the worker to tell", || {
        let log = worker.log();
        (log.contains("a pause is not understood") && log.contains("paused queues")).then_some(())
    });

    // Known from its own copy, then from what it has seen.
    let beat = start(&here);
    for when in ["at its start", "later"] {
        wait_for(&format!("both pauses {when}"), || {
            let is_back = |key: &&str| nats.state(key)["reason"] == reason[1];
            SPOILT.iter().all(is_back).then_some(())
        });
        assert_eq!(here.json(&["jobs"])[0]["next"], serde_json::Value::Null);
        spoil();
    }
    wait_for("both pauses again", || {
        let is_back = |key: &&str| nats.state(key)["reason"] == reason[1];
        SPOILT.iter().all(is_back).then_some(())
    });
    for key in SPOILT {
        assert!(is_told(&beat.log(), key), "{key}: {}", beat.log());
    }
    // Another beat, which never saw it, knows a job's pause from the job's state.
    assert!(beat.stop().success());
    std::fs::remove_dir_all(here.path("data/beat")).unwrap();
    overwrite(&nats, "pause.tick", ANSWER);
    let _beat = start(&here);
    wait_for("the pause of the job", || {
        (nats.state("pause.tick")["reason"] == reason[1]).then_some(())
    });
    assert!(here.lines("ticks").is_empty(), "nothing ran");
    assert_eq!(here.run(&["resume", "tick"]).code, 0);
    assert_eq!(here.run(&["resume", "--queue", "default"]).code, 0);
    goes_on(&here, &nats, "the pauses");

    // What nobody knows is a pause as well, which ends like others.
    overwrite(&nats, "paused_queue.other", ANSWER);
    let is_shown = || here.run(&["queues"]).stdout.contains("not understood");
    wait_for("the pause to be shown", || is_shown().then_some(()));
    assert_eq!(here.run(&["resume", "--queue", "other"]).code, 0);
    assert!(!is_shown());
}
