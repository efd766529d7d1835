//! nats-server is killed and restarted in a loop under beat and workers: nothing that was accepted is lost.

use std::time::Duration;

use crate::{
    seed,
    support::{Installation, checker, nats::NatsServer, random::number, wait_for},
};

const EVERY_SECOND: &str = r#"
[job.tick]
every = "1s"
overlap = "allow"
catch_up = "all"
shell = "echo $ORCHESTRATOR_RUN_ID >> ticks"
working_dir = ".."

[job.by-hand]
overlap = "allow"
shell = "echo $ORCHESTRATOR_RUN_ID >> by-hand"
working_dir = ".."
"#;

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "faults have their time, nothing is waited for"
)]
fn nothing_that_was_accepted_is_lost() {
    let mut random = seed();
    let mut nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    let mut beat = here.start("beat", &["beat"]);
    let mut worker = here.start("worker", &["worker", "--queue", "default", "--lease", "3s"]);
    let mut accepted = Vec::new();
    for _ in 0..number("CHAOS_ROUNDS", 5) {
        let before = here.lines("ticks").len();
        wait_for("ticks", || {
            (here.lines("ticks").len() > before).then_some(())
        });
        for _ in 0..3 {
            let run = here.run(&["run", "by-hand"]);
            if run.code == 0 {
                accepted.push(run.stdout.trim().to_owned());
            }
        }
        // Beat says so once: it must have got over the time before, which workers may have done sooner.
        let said = |text: &str| beat.log().matches(text).count();
        let held = || said("beat holds its watermark");
        let before = held();
        wait_for("beat to go on", || {
            (said("\"beat goes on\"") >= before).then_some(())
        });
        nats.kill9();
        wait_for("beat to notice", || (held() > before).then_some(()));
        std::thread::sleep(Duration::from_millis(random.below(1_500)));
        nats.restart();
    }
    let before = here.lines("ticks").len();
    wait_for("ticks after the last restart", || {
        (here.lines("ticks").len() >= before + 2).then_some(())
    });
    assert!(beat.ended().is_none() && worker.ended().is_none());
    assert!(beat.stop().success());
    checker::all_ended(&here);
    checker::one_verdict_each(&here, "tick");
    checker::executed_as_recorded(&here, "tick", "ticks");
    checker::executed_as_recorded(&here, "by-hand", "by-hand");
    assert!(!accepted.is_empty());
    let runs = here.runs("by-hand");
    for id in &accepted {
        let mut runs = runs.iter();
        let run = runs.find(|run| run["run_id"] == **id);
        assert_eq!(run.unwrap()["state"], "succeeded", "{id}");
    }
    assert!(worker.stop().success());
}
