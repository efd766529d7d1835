//! The disk of nats-server fills up and is enlarged: what was accepted stays, the rest is refused with the reason, and beat
//! waits with its watermark.

use crate::support::{
    Installation, checker,
    mounts::{Mounts, fill},
    nats::NatsServer,
    probes::{ask, port},
    wait_for,
};

const EVERY_SECOND: &str = r#"
[job.tick]
every = "1s"
overlap = "allow"
catch_up = "all"
catch_up_window = "1h"
shell = "echo $ORCHESTRATOR_RUN_ID >> ticks"
working_dir = ".."
"#;

#[test]
fn beat_waits_until_there_is_room() {
    let Some(mut mounts) = Mounts::new("a full disk of nats-server") else {
        return;
    };
    let disk = tempfile::tempdir().unwrap();
    mounts.tmpfs(disk.path(), "24m");
    let store = disk.path().join("store");
    let jetstream = format!("jetstream {{ store_dir: \"{}\" }}", store.display());
    let mut nats = NatsServer::start_with(&jetstream);
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    let mut beat = here.start("beat", &["beat"]);
    let (port, serves) = (
        port(),
        ["worker", "--queue", "default", "--lease", "3s", "--listen"],
    );
    let address = format!("127.0.0.1:{port}");
    let mut worker = here.start("worker", &[&serves[..], &[&address]].concat());
    wait_for("a worker that is ready", || {
        (ask(port, "GET /readyz")?.0 == 200).then_some(())
    });
    wait_for("the first runs", || {
        (here.lines("ticks").len() > 2).then_some(())
    });

    fill(&disk.path().join("ballast"));
    wait_for("beat to say that it waits", || {
        beat.log()
            .contains("beat holds its watermark")
            .then_some(())
    });
    let refused = wait_for("a submitter to be refused", || {
        let ended = here.run(&["run", "tick"]);
        (ended.code != 0).then_some(ended)
    });
    assert!([1, 5].contains(&refused.code), "{refused:?}");
    assert!(refused.stderr.contains("NATS at"), "{refused:?}");
    assert!(refused.stderr.contains("room"), "{refused:?}");
    wait_for("the doctor to say that nothing can be stored", || {
        let ended = here.run(&["doctor", "--monitor", "off"]);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        // Or JetStream is switched off by now.
        let is_said =
            said.contains("nothing can be stored") || said.contains("JetStream is not enabled");
        (ended.code == 1 && is_said).then_some(())
    });
    wait_for("a worker that says why it is not ready", || {
        let (status, report) = ask(port, "GET /readyz")?;
        (status == 503 && report.contains("NATS at")).then_some(())
    });

    mounts.remount(disk.path(), "size=96m").unwrap();
    // A server that ran out of room switches JetStream off until it is started again.
    nats.restart();
    let before = here.lines("ticks").len();
    wait_for("runs after there is room", || {
        (here.lines("ticks").len() > before + 3).then_some(())
    });
    wait_for("a worker that is ready again", || {
        (ask(port, "GET /readyz")?.0 == 200).then_some(())
    });
    assert!(beat.ended().is_none() && worker.ended().is_none());
    assert!(beat.stop().success());
    checker::all_ended(&here);
    assert!(worker.stop().success());
    checker::one_verdict_each(&here, "tick");
    nats.kill9();
}
