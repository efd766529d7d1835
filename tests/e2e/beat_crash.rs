//! Beat killed with SIGKILL between any two of its steps: no tick fires twice, none is lost.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::support::{Installation, nats::NatsServer, wait_for};

const ROUNDS: usize = 20;

const EVERY_SECOND: &str = r#"
[job.tick]
every = "1s"
overlap = "allow"
shell = "echo $ORCHESTRATOR_RUN_ID >> ticks"
working_dir = ".."
"#;

fn instant(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

/// Every tick from the first run to the last has exactly one verdict: a run, or a note.
fn check(here: &Installation) {
    let runs = here.runs("tick");
    let fired: BTreeSet<_> = runs
        .iter()
        .map(|run| instant(&run["scheduled_for"]))
        .collect();
    assert_eq!(fired.len(), runs.len(), "a tick has two runs");
    let executed = here.lines("ticks");
    let distinct: BTreeSet<_> = executed.iter().collect();
    assert_eq!(distinct.len(), executed.len(), "a run was executed twice");
    assert_eq!(distinct.len(), fired.len(), "a fired tick was not executed");

    let (first, last) = (*fired.first().unwrap(), *fired.last().unwrap());
    let mut accounted = fired;
    let jobs = here.json(&["jobs"]);
    for note in jobs[0]["notes"].as_array().unwrap() {
        let (from, to) = (instant(&note["first"]), instant(&note["last"]));
        assert_eq!(
            (to - from).num_seconds() + 1,
            note["count"].as_i64().unwrap()
        );
        let mut tick = from;
        while tick <= to {
            assert!(accounted.insert(tick), "{tick} has two verdicts");
            tick += chrono::Duration::seconds(1);
        }
    }
    let expected = (last - first).num_seconds() + 1;
    let within = accounted.range(first..=last).count();
    assert_eq!(within as i64, expected, "ticks without a verdict");
}

fn killed_at(point: &str) {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    let failpoint = format!("{point}=pause");
    for round in 0..ROUNDS {
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
        assert!(round < ROUNDS);
        beat.kill9();
    }
    let beat = here.start("beat", &["beat"]);
    let before = here.lines("ticks").len();
    wait_for("ticks after the last restart", || {
        (here.lines("ticks").len() >= before + 3).then_some(())
    });
    beat.stop();
    wait_for("every run to have ended", || {
        let open = here.json(&["runs", "--state", "queued", "--state", "running"]);
        open.as_array().unwrap().is_empty().then_some(())
    });
    check(&here);
}

#[test]
fn between_publish_and_commit() {
    killed_at("beat-before-commit");
}

#[test]
fn between_announcement_and_publish() {
    killed_at("beat-announced");
}
