//! What happens to a run that meets a live one of its job, on the embedded broker and on NATS.

use serde_json::Value;

use crate::support::{Installation, Service, nats::NatsServer, wait_for};

/// An installation with its services, the broker last.
type World = (Installation, Vec<Service>, Option<NatsServer>);

fn embedded(job: &str) -> World {
    let here = Installation::new();
    here.schedule("a.toml", job);
    let up = here.up(&[]);
    ready((here, vec![up], None))
}

/// Two workers, so that the older run and the younger one are in different hands.
fn on_nats(job: &str) -> World {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", job);
    let worker = |name: &str| {
        here.start(
            name,
            &["worker", "--queue", "default", "--concurrency", "1"],
        )
    };
    let services = vec![here.start("beat", &["beat"]), worker("one"), worker("two")];
    ready((here, services, Some(nats)))
}

fn ready(world: World) -> World {
    wait_for("the job", || world.0.try_json(&["jobs"])?.get(0).cloned());
    world
}

fn run(here: &Installation) -> String {
    let ended = here.run(&["run", "slow"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    ended.stdout.trim().to_owned()
}

fn wait_for_state(here: &Installation, id: &str, state: &str) -> Value {
    wait_for(&format!("{id} to be {state}"), || {
        let run = here.json(&["show", id]);
        (run["state"] == state).then_some(run)
    })
}

/// Tells when it starts and ends; ends as soon as the file `go` is there.
fn job(overlap: &str) -> String {
    format!(
        "[job.slow]\noverlap = \"{overlap}\"\nworking_dir = \"..\"\n\
         shell = '''\necho \"start $ORCHESTRATOR_RUN_ID\" >> told\n\
         trap 'echo \"end $ORCHESTRATOR_RUN_ID\" >> told; exit 1' TERM\n\
         until [ -e go ]; do sleep 0.05; done\n\
         echo \"end $ORCHESTRATOR_RUN_ID\" >> told'''\n"
    )
}

fn one_waits((here, _services, _nats): World) {
    let first = run(&here);
    wait_for_state(&here, &first, "running");
    let second = run(&here);
    let third = here.run(&["run", "slow"]);
    assert_eq!(third.code, 7, "{}", third.stderr);
    assert!(third.stderr.contains(&second), "{}", third.stderr);
    assert_eq!(here.json(&["show", &second])["state"], "queued");
    std::fs::write(here.path("go"), "").unwrap();
    wait_for_state(&here, &second, "succeeded");
    let order = [
        ("start", &first),
        ("end", &first),
        ("start", &second),
        ("end", &second),
    ];
    let order = order.map(|(what, id)| format!("{what} {id}"));
    assert_eq!(here.lines("told"), order);
    // Both slots are free again.
    let more = [run(&here), run(&here)];
    for id in &more {
        wait_for_state(&here, id, "succeeded");
    }
}

#[test]
fn one_run_waits_for_the_live_one() {
    one_waits(embedded(&job("queue")));
}

#[test]
fn one_run_waits_for_the_live_one_on_nats() {
    one_waits(on_nats(&job("queue")));
}

fn the_old_one_goes((here, _services, _nats): World) {
    let first = run(&here);
    wait_for("the first run", || here.lines("told").first().cloned());
    let second = run(&here);
    let replaced = wait_for_state(&here, &first, "cancelled");
    let reason = replaced["reason"].as_str().unwrap();
    assert!(
        reason.contains(&format!("replaced by {second}")),
        "{reason}"
    );
    wait_for("the second run to start", || {
        here.lines("told").get(2).cloned()
    });
    let order = [("start", &first), ("end", &first), ("start", &second)];
    let order = order.map(|(what, id)| format!("{what} {id}"));
    assert_eq!(here.lines("told"), order);
    // Two in a row: the one between need not have started.
    let third = run(&here);
    let fourth = run(&here);
    wait_for_state(&here, &third, "cancelled");
    wait_for_state(&here, &fourth, "running");
    wait_for_state(&here, &second, "cancelled");
    std::fs::write(here.path("go"), "").unwrap();
    wait_for_state(&here, &fourth, "succeeded");
    let told = here.lines("told");
    let mut live = 0;
    for line in &told {
        live += if line.starts_with("start") { 1 } else { -1 };
        assert!((0..=1).contains(&live), "two at once: {told:?}");
    }
}

#[test]
fn a_new_run_takes_the_place_of_the_live_one() {
    the_old_one_goes(embedded(&job("replace")));
}

#[test]
fn a_new_run_takes_the_place_of_the_live_one_on_nats() {
    the_old_one_goes(on_nats(&job("replace")));
}

#[test]
fn ticks_replace_each_other() {
    let job = job("replace").replace("overlap", "every = \"1s\"\noverlap");
    let (here, _services, _nats) = embedded(&job);
    let runs = wait_for("three replaced runs", || {
        let runs = here.runs("slow");
        let gone = runs.iter().filter(|run| run["state"] == "cancelled");
        (gone.count() >= 3).then_some(runs)
    });
    assert!(runs.iter().all(|run| run["state"] != "failed"), "{runs:?}");
    assert_eq!(here.json(&["jobs"])[0]["skipped"], 0);
}

#[test]
fn a_waiting_run_expires_and_frees_its_slot() {
    let job = job("queue").replace("overlap", "expires = \"1s\"\noverlap");
    let (here, _services, _nats) = embedded(&job);
    let first = run(&here);
    wait_for_state(&here, &first, "running");
    let second = run(&here);
    wait_for_state(&here, &second, "expired");
    assert_eq!(here.json(&["show", &first])["state"], "running");
    let third = run(&here);
    assert_eq!(here.run(&["cancel", &third]).code, 0);
    std::fs::write(here.path("go"), "").unwrap();
    wait_for_state(&here, &first, "succeeded");
    assert_eq!(here.lines("told").len(), 2, "the others never started");
}
