//! A worker is cut off from the network while its jobs run. Nobody tells it: packets just do not arrive.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use crate::support::{Installation, checker, nats::NatsServer, network::Network, wait_for, within};

const LEASE: &str = "3s";

/// Both say under which fence they run until they may end.
const JOBS: &str = r#"
[defaults]
working_dir = ".."

[job.goes-on]
shell = '''
until [ -e go ]; do echo "$ORCHESTRATOR_RUN_ID $ORCHESTRATOR_FENCE" >> goes-on; sleep 0.05; done
echo $ORCHESTRATOR_FENCE >> goes-on-ended'''

[job.stops]
lease_loss = "stop"
shell = '''
until [ -e go ]; do echo "$ORCHESTRATOR_RUN_ID $ORCHESTRATOR_FENCE" >> stops; sleep 0.05; done
echo $ORCHESTRATOR_FENCE >> stops-ended'''
"#;

/// The fences that have spoken.
fn fences(here: &Installation, file: &str) -> BTreeSet<String> {
    let lines = here.lines(file);
    let fence = |line: &String| line.split(' ').nth(1).map(str::to_owned);
    lines.iter().filter_map(fence).collect()
}

fn ended(here: &Installation, id: &str) -> Value {
    wait_for("the end", || {
        let record = here.try_json(&["show", id])?;
        (record["state"] == "succeeded").then_some(record)
    })
}

#[test]
fn its_jobs_end_by_their_rule_and_are_reported_once() {
    let network = Network::new();
    let nats = NatsServer::start_at(network.outside(), "");
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let _beat = here.start("beat", &["beat"]);
    let args = [
        "worker",
        "--queue",
        "default",
        "--lease",
        LEASE,
        "--trust-broker",
    ];
    let far = here.start_in(&network, "far", &args, &[]);
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(1).cloned());
    let run = |job: &str| here.run(&["run", job]).stdout.trim().to_owned();
    let (goes_on, stops) = (run("goes-on"), run("stops"));
    wait_for("both to run", || {
        (fences(&here, "goes-on").len() == 1 && fences(&here, "stops").len() == 1).then_some(())
    });
    let near = here.start("near", &args);
    network.pull();
    // Both are started again elsewhere; the one that must not overlap has ended by then.
    for file in ["goes-on", "stops"] {
        within(std::time::Duration::from_secs(20), file, || {
            (fences(&here, file).len() == 2).then_some(())
        });
    }
    let lines = here.lines("stops");
    checker::no_fence_speaks_after_a_later_one(lines.iter().map(String::as_str));
    network.plug();
    wait_for(
        "the worker that was cut off to give up the other job",
        || {
            let log = far.log();
            let mut given_up = log
                .lines()
                .filter(|line| line.contains("somebody else has the run"));
            given_up.any(|line| line.contains(&goes_on)).then_some(())
        },
    );
    fs::write(here.path("go"), "").unwrap();
    for id in [&goes_on, &stops] {
        let record = ended(&here, id);
        let attempts = record["attempts"].as_array().unwrap();
        let ends: Vec<_> = attempts.iter().map(|attempt| &attempt["end"]).collect();
        assert_eq!(ends, ["lost", "succeeded"], "{record:#}");
        assert_ne!(attempts[0]["worker"], attempts[1]["worker"], "{record:#}");
    }
    checker::all_ended(&here);
    let last = |file: &str| here.lines(file);
    assert_eq!(last("stops-ended"), ["2"]);
    assert_eq!(
        last("goes-on-ended"),
        ["2"],
        "the job went on after it was lost"
    );
    let lines = here.lines("stops");
    checker::no_fence_speaks_after_a_later_one(lines.iter().map(String::as_str));
    assert!(far.stop().success() && near.stop().success());
}
