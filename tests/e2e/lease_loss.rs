//! Jobs that must not go on without their lease.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Installation, is_alive, nats::NatsServer, wait_for, within};

const LEASE: Duration = Duration::from_secs(3);

/// Tells which processes of earlier executions it meets, then its own id, ignores polite signals, and leaves a daemon that
/// does, too.
const STOPS: &str = "[job.alone]\n\
    lease_loss = \"stop\"\n\
    working_dir = \"..\"\n\
    shell = '''\n\
    trap '' TERM\n\
    for p in $(cat pids daemons 2>/dev/null); do\n\
    grep -qs '^State:[[:space:]]*[^ZX[:space:]]' /proc/$p/status && echo $p >> met; done\n\
    (setsid sh -c 'echo $$ >> daemons; exec sleep 600' >/dev/null 2>&1 &)\n\
    until [ -s daemons ]; do :; done\n\
    echo $$ >> pids\n\
    until [ -e go ]; do sleep 0.1; done'''\n";

struct Cluster {
    here: Installation,
    nats: NatsServer,
}

impl Cluster {
    fn start() -> Self {
        let nats = NatsServer::start();
        let here = Installation::on_nats(&nats.url());
        here.schedule("a.toml", STOPS);
        Self { here, nats }
    }

    fn worker(&self, name: &str) -> crate::support::Service {
        let args = ["worker", "--queue", "default", "--lease", "3s"];
        self.here.start(name, &args)
    }

    fn run(&self) -> String {
        wait_for("the definition", || {
            self.here.try_json(&["jobs"])?.get(0).cloned()
        });
        let run = self.here.run(&["run", "alone"]);
        run.stdout.trim().to_owned()
    }

    /// The processes of the `nth` execution.
    fn processes(&self, nth: usize) -> Vec<u32> {
        wait_for("the job to run", || {
            let pid = self.here.lines("pids").get(nth)?.parse().ok()?;
            let daemon = self.here.lines("daemons").get(nth)?.parse().ok()?;
            Some(vec![pid, daemon])
        })
    }

    fn ended(&self, id: &str) -> Value {
        std::fs::write(self.here.path("go"), "").unwrap();
        wait_for("the end", || {
            let record = self.here.try_json(&["show", id])?;
            (record["state"] == "succeeded").then_some(record)
        })
    }
}

fn none_alive(processes: &[u32]) -> Option<()> {
    (!processes.iter().any(|pid| is_alive(*pid))).then_some(())
}

#[test]
fn a_job_ends_before_its_lease_does_while_its_worker_is_frozen() {
    let cluster = Cluster::start();
    let _beat = cluster.here.start("beat", &["beat"]);
    let frozen = cluster.worker("frozen");
    let id = cluster.run();
    let first = cluster.processes(0);
    let _other = cluster.worker("other");
    frozen.signal(Signal::STOP);
    wait_for("the end of the frozen worker's job", || none_alive(&first));
    cluster.processes(1);
    // However long this test takes to see the end: nobody else began before it.
    let met = cluster.here.lines("met");
    assert!(met.is_empty(), "alive when the next one began: {met:?}");
    frozen.signal(Signal::CONT);
    let record = cluster.ended(&id);
    let ends: Vec<_> = record["attempts"].as_array().unwrap().iter().collect();
    assert_eq!(ends.len(), 2, "{record}");
    assert_eq!(ends[0]["end"], "lost");
    assert_eq!(ends[1]["end"], "succeeded");
}

#[test]
fn a_job_ends_before_its_lease_does_while_nats_is_away_and_uses_up_no_attempt() {
    let mut cluster = Cluster::start();
    let _beat = cluster.here.start("beat", &["beat"]);
    let _worker = cluster.worker("worker");
    let id = cluster.run();
    let first = cluster.processes(0);
    cluster.nats.kill9();
    within(LEASE, "the end of the job", || none_alive(&first));
    cluster.nats.restart();
    cluster.processes(1);
    let record = cluster.ended(&id);
    assert_eq!(record["crashes"], 0, "{record}");
    assert_eq!(record["attempts"][0]["end"], "handed_back", "{record}");
    assert_eq!(record["attempts"][1]["number"], 1, "{record}");
}
