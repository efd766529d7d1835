//! Beat killed with SIGKILL between any two of its steps: no tick fires twice, none is lost.

use std::time::Duration;

use crate::{
    seed,
    support::{Installation, checker, nats::NatsServer, random::number, wait_for},
};

/// The steps of beat between "due" and "committed".
pub const POINTS: [&str; 19] = [
    "beat-due",
    "beat-announced",
    "beat-before-publish",
    "beat-asked",
    "publish-before-cancel",
    "publish-cancelled",
    "publish-before-slot",
    "publish-freed",
    "beat-before-agreement",
    "beat-agreed",
    "beat-before-calling-off",
    "beat-occupied",
    "beat-looked-up",
    "beat-published",
    "beat-before-states",
    "beat-state-written",
    "beat-before-commit",
    "beat-committed",
    "beat-own-kept",
];

const EVERY_SECOND: &str = r#"
[job.tick]
every = "1s"
overlap = "allow"
shell = "echo $ORCHESTRATOR_RUN_ID >> ticks"
working_dir = ".."
"#;

fn killed_at(point: &str) {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    let failpoint = format!("{point}=pause");
    for _ in 0..number("CHAOS_ROUNDS", 12) {
        let before = here.lines("beat.log").len();
        let beat = here.start_with(
            "beat",
            &["beat", "-v"],
            &[("FAILPOINTS", failpoint.as_str())],
        );
        wait_for("beat to reach the failpoint", || {
            let log = here.lines("beat.log");
            let new = log.get(before..).unwrap_or_default();
            let reached = match point {
                "beat-before-commit" => "run published",
                _ => "step announced",
            };
            new.iter().any(|line| line.contains(reached)).then_some(())
        });
        beat.kill9();
    }
    let beat = here.start("beat", &["beat"]);
    let before = here.lines("ticks").len();
    wait_for("ticks after the last restart", || {
        (here.lines("ticks").len() >= before + 3).then_some(())
    });
    beat.stop();
    check(&here);
}

fn check(here: &Installation) {
    checker::all_ended(here);
    checker::one_verdict_each(here, "tick");
    checker::executed_once(here, "tick", "ticks");
}

/// Two more jobs meet their own live run at most ticks, so that beat has to look at what is in their way, and to write
/// a state, or to cancel it.
pub const ALWAYS_LIVE: &str = r#"
[job.live]
every = "1s"
shell = "sleep 3"

[job.replaced]
every = "1s"
overlap = "replace"
shell = "sleep 3"
"#;

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "faults have their time, nothing is waited for"
)]
fn at_any_step() {
    let mut random = seed();
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    here.schedule("b.toml", ALWAYS_LIVE);
    let worker = here.start("worker", &["worker", "--queue", "default"]);
    // Each step takes its time now and then, so that kills fall between any two.
    let slow = POINTS.map(|point| format!("{point}=30%sleep(120)"));
    let slow = [("FAILPOINTS", &*slow.join(";"))];
    for _ in 0..number("CHAOS_ROUNDS", 12) {
        let led = || here.read("beat.log").matches("\"leading\"").count();
        let before = led();
        let beat = here.start_with("beat", &["beat"], &slow);
        wait_for("beat to lead", || (led() > before).then_some(()));
        std::thread::sleep(Duration::from_millis(random.below(1_500)));
        beat.kill9();
    }
    let beat = here.start("beat", &["beat"]);
    let before = here.lines("ticks").len();
    wait_for("ticks after the last restart", || {
        (here.lines("ticks").len() >= before + 3).then_some(())
    });
    assert!(beat.stop().success());
    check(&here);
    checker::one_verdict_each(&here, "live");
    checker::one_verdict_each(&here, "replaced");
    assert!(worker.stop().success());
}

#[test]
fn between_publish_and_commit() {
    killed_at("beat-before-commit");
}

#[test]
fn between_announcement_and_publish() {
    killed_at("beat-announced");
}
