//! Very many jobs are due at the same instant, and the broker is slow, mute and cut off while they are published:
//! each has one run, and what is on its way is bounded. `CHAOS_BURST` says how many.

use std::{collections::BTreeSet, fmt::Write, fs, time::Duration};

use crate::{
    proxy::{Line, Proxy},
    support::{Installation, checker, nats::NatsServer, random::number, wait_for, within},
};

/// What beat may have in memory at most, whatever is due, beside a kilobyte for each job.
const MEGABYTES: u64 = 120;

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "faults have their time, nothing is waited for"
)]
fn each_of_very_many_has_one_run_on_a_slow_broker() {
    let jobs = number("CHAOS_BURST", 1_500);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let nats = NatsServer::start();
    let proxy = runtime.block_on(Proxy::to(nats.port()));
    proxy.set(Line::Slow);
    let here = Installation::on_nats(&nats.url());
    // Later than it takes to read them all.
    let at = orchestrator::clock::now() + chrono::Duration::seconds(5 + jobs as i64 / 2_000);
    let at = at.format("%Y-%m-%dT%H:%M:%SZ");
    let mut text = format!(
        "[defaults]\nat = \"{at}\"\nshell = \"echo $ORCHESTRATOR_RUN_ID >> ran\"\nworking_dir = \"..\"\n"
    );
    for job in 0..jobs {
        writeln!(text, "[job.j{job}]").unwrap();
    }
    here.schedule("a.toml", &text);
    let beat = here.start_with("beat", &["beat"], &[("NATS_URL", &proxy.url())]);
    let limit = Duration::from_secs(60 + jobs / 100);
    let published = || beat.log().matches("\"run published\"").count() as u64;
    within(limit, "the first of them", || {
        (published() > 0).then_some(())
    });
    // In the middle of it answers are lost, then the connection.
    proxy.set(Line::Mute);
    std::thread::sleep(Duration::from_millis(200));
    proxy.set(Line::Cut);
    std::thread::sleep(Duration::from_millis(200));
    proxy.set(Line::Slow);
    let worker = here.start("worker", &["worker", "--queue", "default"]);
    let ids = within(limit, "one run each", || {
        let runs = here.try_json(&["runs", "--state", "succeeded", "--limit", "1000000"])?;
        let id = |run: &serde_json::Value| run["run_id"].as_str().unwrap().to_owned();
        let ids: Vec<_> = runs.as_array()?.iter().map(id).collect();
        (ids.len() as u64 >= jobs).then_some(ids)
    });
    checker::all_ended(&here);
    let distinct: BTreeSet<_> = ids.iter().collect();
    assert_eq!((distinct.len() as u64, ids.len() as u64), (jobs, jobs));
    let ran = here.lines("ran");
    let executed: BTreeSet<_> = ran.iter().collect();
    assert_eq!(executed, distinct, "executed and recorded");
    assert_eq!(ran.len() as u64, jobs, "executed twice");
    let status = fs::read_to_string(format!("/proc/{}/status", beat.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes: u64 = peak
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    assert!(kilobytes < MEGABYTES * 1024 + jobs, "{kilobytes} kB");
    wait_for("beat to have committed", || {
        let jobs = here.try_json(&["jobs"])?;
        let is_over = |job: &serde_json::Value| job["next"].is_null();
        jobs.as_array()?.iter().all(is_over).then_some(())
    });
    assert!(beat.stop().success() && worker.stop().success());
}
