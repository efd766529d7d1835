//! Edits of the schedules while `up` runs.

use rustix::process::Signal;

use crate::support::{Installation, Service, wait_for};

fn names(here: &Installation) -> Vec<String> {
    let jobs = here.json(&["jobs"]);
    let jobs = jobs.as_array().unwrap().iter();
    jobs.map(|job| job["name"].as_str().unwrap().to_owned())
        .collect()
}

fn started(text: &str) -> (Installation, Service) {
    let here = Installation::new();
    here.schedule("a.toml", text);
    let up = here.up(&[]);
    wait_for("the first job", || (!names(&here).is_empty()).then_some(()));
    (here, up)
}

#[test]
fn an_edit_is_taken_over_and_a_removed_job_goes() {
    let (here, _up) = started("[job.one]\nevery = \"1h\"\nshell = \"true\"\n");
    here.schedule(
        "b.toml",
        "[job.two]\nevery = \"1s\"\nqueue = \"brand-new\"\nshell = \"touch two\"\nworking_dir = \"..\"\n",
    );
    wait_for("a job on a queue that nobody served before", || {
        here.path("two").exists().then_some(())
    });
    std::fs::remove_file(here.path("schedules/a.toml")).unwrap();
    wait_for("the removed job to go", || {
        (names(&here) == ["two"]).then_some(())
    });
}

#[test]
fn a_broken_edit_keeps_the_old_set_and_is_shown() {
    let (here, up) =
        started("[job.one]\nevery = \"1s\"\nshell = \"echo x >> one\"\nworking_dir = \"..\"\n");
    here.schedule("a.toml", "[job.one]\nevry = \"1s\"\nshell = \"true\"\n");
    let shown = wait_for("the error in `jobs`", || {
        let ended = here.run(&["jobs"]);
        ended.stderr.contains("evry").then_some(ended)
    });
    assert_eq!(shown.code, 0);
    assert!(shown.stderr.contains("a.toml:2"), "{}", shown.stderr);
    assert!(up.log().contains("evry"), "the log does not show it");
    let before = here.lines("one").len();
    wait_for("the old set to go on", || {
        (here.lines("one").len() > before + 1).then_some(())
    });
    here.schedule("a.toml", "[job.other]\nevery = \"1h\"\nshell = \"true\"\n");
    wait_for("the mended set", || {
        (names(&here) == ["other"]).then_some(())
    });
    assert!(!here.run(&["jobs"]).stderr.contains("evry"));
}

#[test]
fn sighup_reloads() {
    let (here, up) = started("[job.one]\nevery = \"1h\"\nshell = \"true\"\n");
    up.signal(Signal::HUP);
    wait_for("the reload", || {
        up.log().contains("schedules reloaded").then_some(())
    });
    assert_eq!(names(&here), ["one"]);
}

#[test]
fn a_job_that_moves_to_another_queue_does_not_overlap_with_itself() {
    let job = |queue: &str| {
        format!(
            "[job.slow]\nqueue = \"{queue}\"\nshell = \"echo x >> starts; exec sleep 60\"\nworking_dir = \"..\"\n"
        )
    };
    let (here, _up) = started(&job("old"));
    assert_eq!(here.run(&["run", "slow"]).code, 0);
    wait_for("the run", || {
        (here.lines("starts").len() == 1).then_some(())
    });
    here.schedule("a.toml", &job("new"));
    wait_for("the move", || {
        (here.json(&["jobs"])[0]["queue"] == "new").then_some(())
    });
    let refused = here.run(&["run", "slow"]);
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    let live = here.runs("slow");
    assert_eq!(live.len(), 1);
    let id = live[0]["run_id"].as_str().unwrap();
    assert!(refused.stderr.contains(id), "{}", refused.stderr);
    assert_eq!(here.run(&["cancel", id, "--wait"]).code, 0);
    assert_eq!(here.run(&["run", "slow"]).code, 0);
    wait_for("the next run", || {
        (here.lines("starts").len() == 2).then_some(())
    });
}

#[test]
fn a_waiting_run_is_found_after_its_job_moved_or_went() {
    let (here, _up) = {
        let here = Installation::new();
        here.schedule("a.toml", "[job.later]\nqueue = \"old\"\nshell = \"true\"\n");
        // Serves another queue, so that the run waits.
        let up = here.up(&["--queue", "other"]);
        wait_for("the job", || (!names(&here).is_empty()).then_some(()));
        (here, up)
    };
    let run = here.run(&["run", "later"]).stdout;
    let id = run.trim();
    here.schedule("a.toml", "[job.later]\nqueue = \"new\"\nshell = \"true\"\n");
    wait_for("the move", || {
        (here.json(&["jobs"])[0]["queue"] == "new").then_some(())
    });
    assert_eq!(here.json(&["show", id])["queue"], "old");
    here.schedule("a.toml", "[job.other]\nshell = \"true\"\n");
    wait_for("the job to go", || {
        (names(&here) == ["other"]).then_some(())
    });
    assert_eq!(here.json(&["show", id])["state"], "queued");
    assert_eq!(here.run(&["cancel", id]).code, 0);
    assert_eq!(here.json(&["show", id])["state"], "cancelled");
}

#[test]
fn diff_shows_what_a_reload_would_change() {
    let here = Installation::new();
    let (a, b) = (
        "[job.a]\nevery = \"2h\"\nshell = \"true\"\ntimeout = \"1m\"\n",
        "[job.b]\nevery = \"2h\"\nshell = \"true\"\n",
    );
    here.schedule("a.toml", &format!("{a}{b}"));
    let _up = here.up(&[]);
    wait_for("the jobs", || (names(&here).len() == 2).then_some(()));
    let next = here.path("next");
    std::fs::create_dir(&next).unwrap();
    let write = |text: &str| std::fs::write(next.join("a.toml"), text).unwrap();
    let dir = next.to_str().unwrap();
    write(&format!("{a}{b}"));
    assert_eq!(
        here.run(&["diff", dir, "--exit-code"]).stdout,
        "no difference\n"
    );
    let a = a.replace("1m", "2m").replace("2h", "3h");
    write(&format!("{a}[job.c]\nshell = \"true\"\n"));
    let found = here.json(&["diff", dir]);
    let jobs: Vec<_> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|job| &job["job"])
        .collect();
    assert_eq!(jobs, ["a", "b", "c"]);
    let changed = &found[0]["change"]["changed"];
    assert_eq!(changed["counts_from_now"], true);
    let paths = changed["values"].as_array().unwrap().iter();
    let paths: Vec<_> = paths.map(|value| value["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["spec.timeout", "trigger.every.every"]);
    assert_eq!(found[1]["change"], "removed");
    assert_eq!(found[2]["change"], "added");
    let shown = here.run(&["diff", dir, "--exit-code"]);
    assert_eq!(shown.code, 1);
    assert!(shown.stdout.contains("~ a\n"), "{}", shown.stdout);
    write("[job.a]\nevry = \"2h\"\n");
    assert_eq!(here.run(&["diff", dir]).code, 3);
}

#[test]
fn a_thousand_edits_in_a_row_end_in_the_last_good_one_and_cost_no_tick() {
    let steady =
        "[job.steady]\nevery = \"1s\"\ncatch_up = \"all\"\noverlap = \"allow\"\nshell = \"true\"\n";
    let (here, up) = started(steady);
    wait_for("a run", || here.runs("steady").first().cloned());
    for n in 1..=1_000 {
        let other = match n % 2 {
            0 => format!("[job.other-{n}]\nevery = \"1h\"\nshell = \"true\"\n"),
            _ => "[job.half\n".to_owned(),
        };
        here.schedule("a.toml", &format!("{steady}{other}"));
    }
    wait_for("the last edit", || {
        (names(&here) == ["other-1000", "steady"]).then_some(())
    });
    let ran = here.runs("steady").len();
    wait_for("some more runs", || {
        (here.runs("steady").len() > ran + 1).then_some(())
    });
    let runs = here.runs("steady");
    let mut ticks: Vec<i64> = runs
        .iter()
        .map(|run| {
            let tick = run["scheduled_for"].as_str().unwrap();
            let tick: chrono::DateTime<chrono::Utc> = tick.parse().unwrap();
            tick.timestamp()
        })
        .collect();
    ticks.sort_unstable();
    let every_second: Vec<i64> = (ticks[0]..=*ticks.last().unwrap()).collect();
    assert_eq!(ticks, every_second);
    drop(up);
}
