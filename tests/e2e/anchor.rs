//! Intervals that count from the job's runs.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::support::{Installation, Service, wait_for};

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

fn started(job: &str) -> (Installation, Service) {
    let here = Installation::new();
    here.schedule("a.toml", job);
    let up = here.up(&[]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    (here, up)
}

fn next(here: &Installation) -> i64 {
    time(&here.json(&["jobs"])[0]["next"]).timestamp()
}

fn wait_for_next(here: &Installation, at: i64) {
    wait_for("the next tick to count from the run", || {
        (next(here) == at).then_some(())
    });
}

#[test]
fn a_success_by_hand_counts_and_a_restart_changes_nothing() {
    let (here, up) = started(
        "[job.cookie]\nevery = \"20h\"\nanchor = \"last_success\"\nshell = \"[ ! -e fail ]\"\nworking_dir = \"..\"\n",
    );
    let of_epoch = next(&here);
    assert_eq!(of_epoch % (20 * 3600), 0, "the grid of the epoch at first");
    let run = || {
        let ended = here.run(&["run", "cookie", "--wait"]);
        let id = ended.stdout.split_whitespace().next().unwrap();
        here.json(&["show", id])
    };
    let due = time(&run()["finished_at"]).timestamp() + 20 * 3600;
    wait_for_next(&here, due);
    up.kill9();
    let _up = here.up(&[]);
    wait_for_next(&here, due);
    std::fs::write(here.path("fail"), "").unwrap();
    assert_eq!(run()["state"], "failed");
    // A command that beat answers after it has heard of that run.
    std::fs::remove_file(here.path("fail")).unwrap();
    assert_eq!(next(&here), due, "a failure moves nothing");
    let later = time(&run()["finished_at"]).timestamp() + 20 * 3600;
    wait_for_next(&here, later);
    // An edit elsewhere would not change that; another interval counts from the same success.
    let (same, other) = ("20h", "10h");
    let edited = here.path("edited");
    std::fs::create_dir(&edited).unwrap();
    let after = |every: &str| {
        let job = here.read("schedules/a.toml").replace("20h", every);
        std::fs::write(edited.join("a.toml"), format!("{job}description = \"x\"\n")).unwrap();
        let diff = here.json(&["diff", edited.to_str().unwrap()]);
        time(&diff[0]["next_after"]).timestamp()
    };
    assert_eq!((after(same), after(other)), (later, later - 10 * 3600));
    let explained = here.json(&["explain", "cookie"]);
    assert_eq!(time(&explained["next"]).timestamp(), later);
    let runs = here.json(&["runs", "--job", "cookie"]);
    assert_eq!(runs.as_array().unwrap().len(), 3, "nothing else has run");
}

#[test]
fn ticks_follow_the_end_of_the_last_success() {
    let (here, _up) = started(
        "[job.often]\nevery = \"2s\"\nanchor = \"last_success\"\nfirst_run = \"now\"\nshell = \"sleep 1.1\"\n",
    );
    let runs = wait_for("some runs", || {
        let mut runs = here.runs("often");
        runs.retain(|run| run["state"] == "succeeded");
        (runs.len() >= 4).then_some(runs)
    });
    let mut oldest_first = runs.iter().rev();
    let mut before = oldest_first.next().unwrap();
    for run in oldest_first {
        let since =
            time(&run["scheduled_for"]).timestamp() - time(&before["finished_at"]).timestamp();
        assert!(since > 0 && since % 2 == 0, "{since}: {before} {run}");
        before = run;
    }
}

#[test]
fn the_start_of_a_run_counts_while_it_runs() {
    let (here, _up) = started(
        "[job.long]\nevery = \"3h\"\nanchor = \"last_start\"\nshell = \"exec sleep 600\"\n",
    );
    assert_eq!(here.run(&["run", "long"]).code, 0);
    let run = wait_for("the run", || {
        let run = here.runs("long").first()?.clone();
        (run["state"] == "running").then_some(run)
    });
    let started = time(&run["attempts"][0]["started_at"]).timestamp();
    wait_for_next(&here, started + 3 * 3600);
}
