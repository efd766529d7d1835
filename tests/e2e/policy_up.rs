//! The policy of `up`.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::{
    policy::NO_POLICY,
    policy_users::{refused, reloaded},
    support::{Installation, wait_for},
};

#[test]
fn up_has_a_policy_too_and_reads_it_again() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        "[job.script]\nshell = \"echo ran >> ran\"\nworking_dir = \"..\"\n",
    );
    let policy = |text: &str| fs::write(here.path("worker.toml"), text).unwrap();
    policy("jobs = [\"*\"]\n");
    let up = here.up(&["--policy", "worker.toml"]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    let (letter, reason) = refused(&here, "script");
    let rule = json!({ "by": "policy", "rule": "shell" });
    assert_eq!(letter["refused"], rule, "{reason}");
    // A file with a mistake changes nothing; the schedules are read again whatever the policy says.
    policy("shel = true\n");
    here.schedule("b.toml", "[job.more]\ncommand = [\"true\"]\n");
    up.signal(Signal::HUP);
    wait_for("the complaint", || {
        up.log().contains("did you mean `shell`?").then_some(())
    });
    wait_for("the new job", || here.try_json(&["jobs"])?.get(1).cloned());
    assert_eq!(refused(&here, "script").0["refused"], rule);
    policy("shell = true\n");
    reloaded(&up, 2);
    assert_eq!(here.run_to_its_end("script")["state"], "succeeded");
    assert_eq!(here.lines("ran"), ["ran"]);
    assert!(!up.log().contains("keys"), "it has none to trust");
    assert!(!up.log().contains(NO_POLICY), "{}", up.log());
    assert!(up.stop().success());
    let without = here.up(&[]);
    wait_for("the word on its policy", || {
        without.log().contains(NO_POLICY).then_some(())
    });
    assert!(without.stop().success());

    policy("shel = true\n");
    let broken = here.run(&["up", "--policy", "worker.toml"]);
    assert_eq!(broken.code, 2, "{}", broken.stderr);
    assert!(broken.stderr.contains("worker.toml:1"), "{}", broken.stderr);
}
