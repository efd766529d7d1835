//! An important queue is never behind an unimportant one.

use crate::support::{Installation, nats::NatsServer, wait_for};

const JOBS: &str = r#"
[defaults]
working_dir = ".."
overlap = "allow"

[job.low]
queue = "low"
shell = "echo low >> order; sleep 0.05"

[job.high]
queue = "high"
shell = "echo high >> order"
"#;

const WAITING: usize = 100_000;

#[test]
fn a_high_run_starts_next_whatever_waits_below() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let _beat = here.start("beat", &["beat"]);
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(1).cloned());
    std::fs::write(here.path("batch"), "{}\n".repeat(WAITING)).unwrap();
    let batch = here.path("batch").to_string_lossy().into_owned();
    let accepted = here.run(&["run", "low", "--batch", &batch, "-q"]);
    assert_eq!(accepted.code, 0, "{}", accepted.stderr);
    for queues in [["high", "low"], ["high:5", "low:1"]] {
        let args = ["worker", "--concurrency", "1", "--drain-timeout", "5s"];
        let queues = ["--queue", queues[0], "--queue", queues[1]];
        let worker = here.start("worker", &[&args[..], &queues].concat());
        let started = here.lines("order").len();
        wait_for("some low runs", || {
            (here.lines("order").len() > started + 5).then_some(())
        });
        assert_eq!(here.run(&["run", "high"]).code, 0);
        let before = here.lines("order").len();
        let at = wait_for("the high run", || {
            let order = here.lines("order");
            order.iter().rposition(|line| line == "high")
        });
        // One may have been on its way to the slot that was free just then.
        assert!(at <= before + 1, "{at} after {before}");
        assert!(worker.stop().success());
        std::fs::remove_file(here.path("order")).unwrap();
    }
    let depths = here.json(&["queues"]);
    let low = depths
        .as_array()
        .unwrap()
        .iter()
        .find(|q| q["queue"] == "low");
    let left = low.unwrap()["waiting"].as_u64().unwrap();
    assert!(left > WAITING as u64 - 1_000, "{left}");
}
