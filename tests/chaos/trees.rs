//! Jobs that leave daemons behind which ignore polite signals, however they end: nothing survives them.

use std::fs;

use crate::support::{Installation, is_alive, nats::NatsServer, wait_for};

/// Starts a daemon in a session of its own and without environment, which starts another one, then does what it is
/// told. Ids of all go to a file.
const LEAVES: &str = r#"
trap '' TERM INT HUP
pids=$1
(env -i setsid sh "$0.daemon" "$pids" >/dev/null 2>&1 &)
until [ "$(wc -l 2>/dev/null < "$pids")" -ge 2 ]; do :; done
echo $$ >> "$pids"
case $2 in end) exit 0;; fail) exit 3;; esac
while :; do sleep 0.1; done
"#;
const DAEMON: &str = r#"
trap '' TERM INT HUP
echo $$ >> "$1"
if [ -z "$2" ]; then (setsid sh "$0" "$1" second &); fi
exec sleep 600
"#;

const JOBS: &str = r#"
[defaults]
working_dir = ".."
kill = { signal = "SIGTERM", grace = "200ms" }

[job.ends]
command = ["sh", "leaves.sh", "ends", "end"]
[job.fails]
command = ["sh", "leaves.sh", "fails", "fail"]
[job.takes-too-long]
command = ["sh", "leaves.sh", "takes-too-long", "stay"]
timeout = "1s"
[job.is-cancelled]
command = ["sh", "leaves.sh", "is-cancelled", "stay"]
[job.loses-its-worker]
command = ["sh", "leaves.sh", "loses-its-worker", "stay"]
"#;

#[test]
fn nothing_survives_its_run() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    fs::write(here.path("leaves.sh"), LEAVES).unwrap();
    fs::write(here.path("leaves.sh.daemon"), DAEMON).unwrap();
    here.schedule("a.toml", JOBS);
    let _beat = here.start("beat", &["beat"]);
    let worker = here.start("worker", &["worker", "--queue", "default", "--lease", "3s"]);
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(4).cloned());
    let processes = |job: &str| {
        wait_for(job, || {
            let lines = here.lines(job);
            let pids = lines.iter().map(|line| line.parse::<u32>().unwrap());
            (lines.len() == 3).then(|| pids.collect::<Vec<_>>())
        })
    };
    let gone = |job: &str| {
        let pids = processes(job);
        wait_for(&format!("the end of all that came of `{job}`"), || {
            (!pids.iter().any(|pid| is_alive(*pid))).then_some(())
        });
    };
    for (job, end) in [
        ("ends", "succeeded"),
        ("fails", "failed"),
        ("takes-too-long", "timed_out"),
    ] {
        here.run(&["run", job, "--wait"]);
        // Its record is final: nothing may be left by now.
        let pids = processes(job);
        assert!(!pids.iter().any(|pid| is_alive(*pid)), "{job}");
        let run = &here.runs(job)[0];
        assert_eq!(run["attempts"][0]["end"], end, "{run:#}");
    }
    let run = |job: &str| here.run(&["run", job]).stdout.trim().to_owned();
    let id = run("is-cancelled");
    processes("is-cancelled");
    assert_eq!(here.run(&["cancel", &id, "--wait"]).code, 0);
    gone("is-cancelled");
    let id = run("loses-its-worker");
    processes("loses-its-worker");
    worker.kill9();
    gone("loses-its-worker");
    assert_eq!(here.json(&["show", &id])["state"], "running");
}
