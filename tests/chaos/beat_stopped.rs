//! Beat stopped at each of its points, one after the other, as its log says, and killed there: no tick fires twice, none
//! is lost. Jobs and workers are there that bring beat to each of them.
//!
//! `CHAOS_PASSES` goes through all points so many times.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    beat_killed::{AFTER, ALWAYS_LIVE, EVERY_SECOND, POINTS, fires_again},
    clock::now,
    support::{Installation, Service, checker, nats::NatsServer, random::number, wait_for},
};

/// Those of runs that are stored together.
pub const BATCH: [&str; 2] = ["nats-batch-sent", "nats-batch-stored"];
/// Those of a beat that finds its broker wiped.
pub const WIPED: [&str; 3] = [
    "beat-pause-restored",
    "beat-other-restored",
    "beat-own-restored",
];
/// Where a worker has recorded an outcome and has not said so.
pub const WORKER: &str = "worker-recorded";
/// Where a webhook's task knows what it has to tell; that it ends there is tried with webhooks.
pub const BRIEFED: &str = "webhook-briefed";

/// Jobs that meet what is rare: nobody executes `stuck`, so that it is always one that waits that is replaced; `short`
/// is too late after seconds already; the worker of `frail` and `doomed` dies before it acknowledges.
const RARE: &str = r#"
[job.stuck]
every = "1s"
overlap = "replace"
queue = "nobody"
shell = "true"

[job.short]
every = "1s"
overlap = "allow"
catch_up_window = "2s"
shell = "true"

[job.frail]
every = "1s"
queue = "frail"
shell = "echo $ORCHESTRATOR_RUN_ID >> frail"
working_dir = ".."

[job.doomed]
every = "1s"
queue = "doomed"
shell = "exit 1"
retry = { attempts = 2, initial = "1s" }
"#;

/// Points on the way of a step that is repeated, of which nothing was published before.
const OF_A_REPETITION: [&str; 9] = [
    "beat-repeating",
    "beat-begun-again",
    "beat-asked",
    "beat-too-late",
    "beat-before-agreement",
    "beat-record-written",
    "beat-disagreed",
    "beat-agreed",
    "beat-before-calling-off",
];

/// A job that is moved from one queue to another.
fn moved(queue: &str) -> String {
    format!(
        r#"
[job.moved]
every = "1s"
overlap = "replace"
queue = "{queue}"
shell = "true"
"#
    )
}

/// Waits until a service says, behind what it said before, that it stopped at `point`.
pub fn reached(point: &str, service: &Service, from: usize) {
    let is_here = |line: &str| {
        let event: Value = serde_json::from_str(line).ok()?;
        (event["point"] == point).then_some(())
    };
    wait_for(&format!("a stop at {point}"), || {
        service.log().get(from..)?.lines().find_map(is_here)
    });
}

/// Starts beat, which is to stop at `point`, and kills it there. `before` slows down others.
pub fn beat_killed_at(here: &Installation, point: &str, before: &str) {
    let failpoints = format!("{before};{point}=return");
    let from = here.read("beat.log").len();
    let beat = here.start_with("beat", &["beat"], &[("FAILPOINTS", failpoints.as_str())]);
    reached(point, &beat, from);
    beat.kill9();
}

/// Starts the worker of a queue, and kills it when it has recorded the outcome of an attempt, after so many others.
fn worker_killed(here: &Installation, queue: &str, after: u32) {
    let failpoints = format!("{WORKER}={after}*off->return");
    let from = here.read("frail-worker.log").len();
    let worker = here.start_with(
        "frail-worker",
        &["worker", "--queue", queue],
        &[("FAILPOINTS", failpoints.as_str())],
    );
    reached(WORKER, &worker, from);
    worker.kill9();
}

/// Has a run of `moved` wait in the queue that the job then leaves.
fn leave_one_behind(here: &Installation) {
    here.schedule("moved.toml", &moved("nobody"));
    let both_wait = || {
        let queues = here.try_json(&["queues"])?;
        let nobody = queues
            .as_array()?
            .iter()
            .find(|of| of["queue"] == "nobody")?;
        (nobody["waiting"] == 2).then_some(())
    };
    loop {
        let beat = here.start("beat", &["beat"]);
        wait_for("runs that wait for nobody", both_wait);
        beat.kill9();
        // One may just have been replaced.
        if both_wait().is_some() {
            break;
        }
    }
    here.schedule("moved.toml", &moved("default"));
}

/// What is in the way of a run ends before beat looks at it.
fn vanished_at(here: &Installation, point: &str) {
    beat_killed_at(here, "beat-committed", "");
    let failpoints = format!("publish-refused=return(5000);{point}=return");
    let from = here.read("beat.log").len();
    let beat = here.start_with("beat", &["beat"], &[("FAILPOINTS", failpoints.as_str())]);
    reached("publish-refused", &beat, from);
    let worker = here.start(
        "others",
        &["worker", "--queue", "frail", "--queue", "doomed"],
    );
    reached(point, &beat, from);
    beat.kill9();
    assert!(worker.stop().success());
}

/// Brings beat to a point, and kills it there.
fn visit(here: &Installation, point: &str) {
    let mut before = "";
    if OF_A_REPETITION.contains(&point) {
        beat_killed_at(here, "beat-committed", "");
        beat_killed_at(here, "beat-announced", "");
    }
    match point {
        // Another one has written the record meanwhile: the worker.
        "beat-disagreed" => before = "beat-before-agreement=sleep(2000)",
        "beat-too-late" => before = "beat-repeating=sleep(2500)",
        "publish-vanished" => return vanished_at(here, point),
        "publish-before-cancel-elsewhere" | "publish-cancelled-elsewhere" => leave_one_behind(here),
        "publish-ended" | "publish-freed" => {
            beat_killed_at(here, "beat-committed", "");
            worker_killed(here, "frail", 0);
            // With a tick to publish beat comes upon that run before it sweeps.
            let since = now().timestamp();
            wait_for("a tick to be due", || {
                (now().timestamp() > since).then_some(())
            });
        }
        "publish-dead" => {
            beat_killed_at(here, "beat-committed", "");
            worker_killed(here, "doomed", 1);
        }
        _ => {}
    }
    beat_killed_at(here, point, before);
}

/// Kills beat at each of `points`, then lets all end and looks at every tick.
fn killed_at_each(points: &[&str]) {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    here.schedule("b.toml", ALWAYS_LIVE);
    here.schedule("c.toml", RARE);
    here.schedule("moved.toml", &moved("default"));
    let worker = here.start("worker", &["worker", "--queue", "default"]);
    for _ in 0..number("CHAOS_PASSES", 1) {
        for point in points {
            visit(&here, point);
        }
    }
    let beat = fires_again(&here);
    let args = [
        "worker", "--queue", "nobody", "--queue", "frail", "--queue", "doomed",
    ];
    let others = here.start("others", &args);
    wait_for("runs of each job", || {
        let ran = |job: &str| here.runs(job).iter().any(|run| run["state"] == "succeeded");
        ["stuck", "frail", "moved", "short"]
            .into_iter()
            .all(ran)
            .then_some(())
    });
    assert!(beat.stop().success());
    checker::all_ended(&here);
    for job in [
        "tick", "live", "replaced", "stuck", "short", "frail", "doomed", "moved",
    ] {
        checker::one_verdict_each(&here, job);
    }
    checker::executed_once(&here, "tick", "ticks");
    checker::executed_once(&here, "frail", "frail");
    assert!(worker.stop().success() && others.stop().success());
}

/// One third of all points: each test takes its own.
fn third(which: usize) -> Vec<&'static str> {
    let all: Vec<_> = POINTS.into_iter().chain(AFTER).collect();
    let size = all.len().div_ceil(3);
    all.chunks(size).nth(which).unwrap().to_vec()
}

#[test]
fn while_it_begins_and_cancels() {
    killed_at_each(&third(0));
}

#[test]
fn while_it_publishes() {
    killed_at_each(&third(1));
}

#[test]
fn while_it_agrees_and_commits() {
    killed_at_each(&third(2));
}

const BURST: usize = 200;
/// Those that go by themselves seem to be slow: then the others are sent together.
const SLOW: &str = "nats-before-store=sleep(10)";

/// Many jobs that are due at the same time, and nobody who executes them yet.
fn burst(nats: &NatsServer) -> Installation {
    let here = Installation::on_nats(&nats.url());
    let job = |n: usize| {
        format!(
            "[job.j{n}]\nevery = \"2s\"\noverlap = \"allow\"\nqueue = \"later\"\nshell = \"true\"\n"
        )
    };
    here.schedule("jobs.toml", &(0..BURST).map(job).collect::<String>());
    here
}

/// How many runs of the burst wait.
fn waiting(here: &Installation) -> Option<usize> {
    let queues = here.try_json(&["queues"])?;
    let mut queues = queues.as_array()?.iter();
    let later = queues.find(|queue| queue["queue"] == "later")?;
    usize::try_from(later["waiting"].as_u64()?).ok()
}

/// Lets `beat`, before which there were so many runs, get on and all runs end: the ticks of one job are those of all.
fn all_have_the_same_ticks(here: &Installation, beat: Service, before: usize) {
    wait_for("runs of two more moments", || {
        (waiting(here)? >= before + 2 * BURST).then_some(())
    });
    assert!(beat.stop().success());
    let worker = here.start(
        "worker",
        &["worker", "--queue", "later", "--concurrency", "16"],
    );
    checker::all_ended(here);
    let mut ticks: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for run in here
        .json(&["runs", "--limit", "1000000"])
        .as_array()
        .unwrap()
    {
        let (job, tick) = run["run_id"].as_str().unwrap().split_once('@').unwrap();
        let is_new = ticks
            .entry(tick.to_owned())
            .or_default()
            .insert(job.to_owned());
        assert!(is_new, "a tick has two runs: {run}");
    }
    assert!(ticks.len() >= 2, "{ticks:?}");
    for (tick, jobs) in ticks {
        assert_eq!(jobs.len(), BURST, "{tick}: {jobs:?}");
    }
    assert!(worker.stop().success());
}

/// Of a batch of which only a part was sent the server keeps nothing; one that was stored is not stored again.
#[test]
fn in_the_middle_of_a_batch() {
    let nats = NatsServer::start();
    let here = burst(&nats);
    for _ in 0..number("CHAOS_PASSES", 1) {
        for point in BATCH {
            beat_killed_at(&here, point, SLOW);
        }
    }
    // Those that were killed have left one moment half done.
    let before = waiting(&here).unwrap();
    let beat = here.start("beat", &["beat"]);
    all_have_the_same_ticks(&here, beat, before);
}

/// The server dies while it is sent a batch: nobody takes that for stored.
#[test]
fn the_server_dies_in_the_middle_of_a_batch() {
    let mut nats = NatsServer::start();
    let here = burst(&nats);
    let failpoints = format!("{SLOW};{}=1*return(6000)", BATCH[0]);
    let beat = here.start_with("beat", &["beat"], &[("FAILPOINTS", failpoints.as_str())]);
    reached(BATCH[0], &beat, 0);
    // Those that go by themselves would tell of the server's death, too: they are to have been answered before.
    let (mut published, mut looks) = (0, 0);
    wait_for("nothing more to be published", || {
        let now = beat.log().matches("run published").count();
        looks = if now == published { looks + 1 } else { 0 };
        published = now;
        (looks >= 25).then_some(())
    });
    nats.kill9();
    nats.restart();
    all_have_the_same_ticks(&here, beat, 0);
}
