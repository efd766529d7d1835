//! Locks, places behind a key, and rates.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Installation, is_alive, nats::NatsServer, wait_for};

const JOBS: &str = r#"
[defaults]
working_dir = ".."
overlap = "allow"

[job.login]
lock = "cookie-jar"
shell = "echo start $ORCHESTRATOR_LOCK_TOKEN >> logins; until [ -e go ]; do sleep 0.05; done; echo end >> logins"

[job.other]
shell = "echo x >> others"

[job.impatient]
lock = { name = "cookie-jar", wait = "300ms" }
command = ["true"]

# The first one does not end before there is a second one.
[job.page]
command = ["sh", "-c", "echo start >> pages; until [ $(grep -c start pages) -gt 1 ]; do sleep 0.05; done; sleep 0.3; echo end >> pages"]
concurrency = { key = "site:{arg.host}", limit = 2 }

[job.paced]
command = ["sh", "-c", "date +%s%N >> paced"]
rate = { key = "site:{arg.host}", limit = "5/s" }

[job.parent]
lock = { name = "account", inherit = true }
shell = "$ORCHESTRATOR_BIN run child --wait --wait-timeout 20s"

[job.child]
lock = "account"
command = ["true"]
"#;

fn ready(here: &Installation) {
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(6).cloned());
}

fn submit(here: &Installation, args: &[&str]) -> String {
    let run = here.run(args);
    assert_eq!(run.code, 0, "{}", run.stderr);
    run.stdout.trim().to_owned()
}

fn ended(here: &Installation, id: &str) -> Value {
    wait_for("the end of a run", || {
        let record = here.try_json(&["show", id])?;
        let state = record["state"].as_str()?;
        (!["queued", "running", "retrying"].contains(&state)).then_some(record)
    })
}

/// The most that were under way at once, by a file of starts and ends.
fn most_at_once(lines: &[String]) -> i32 {
    let (mut now, mut most) = (0, 0);
    for line in lines {
        now += if line.starts_with("start") { 1 } else { -1 };
        most = most.max(now);
    }
    most
}

/// One slot is enough: whoever waits for a lock holds none.
fn a_lock_has_one_holder(here: &Installation) {
    ready(here);
    let runs: Vec<_> = (0..3).map(|_| submit(here, &["run", "login"])).collect();
    wait_for("the first login", || here.lines("logins").first().cloned());
    let waiting = wait_for("a run that waits", || {
        let locks = here.try_json(&["locks"])?;
        let lock = locks.as_array()?.first()?.clone();
        (lock["waiters"].as_array()?.len() == 2).then_some(lock)
    });
    assert_eq!(waiting["name"], "cookie-jar");
    assert_eq!(waiting["holders"].as_array().unwrap().len(), 1);
    let waiter = waiting["waiters"][0]["run_id"].as_str().unwrap();
    let record = here.json(&["show", waiter]);
    assert_eq!(record["state"], "queued", "{record}");
    assert_eq!(record["waiting"]["what"], "lock", "{record}");
    assert_eq!(record["attempts_used"], 0, "{record}");

    let late = submit(here, &["run", "impatient"]);
    let record = ended(here, &late);
    assert_eq!(record["state"], "expired", "{record}");
    let reason = record["reason"].as_str().unwrap();
    assert!(reason.contains("`cookie-jar` was not free"), "{reason}");

    std::fs::write(here.path("go"), "").unwrap();
    for run in &runs {
        assert_eq!(ended(here, run)["state"], "succeeded");
    }
    let lines = here.lines("logins");
    assert_eq!((lines.len(), most_at_once(&lines)), (6, 1), "{lines:?}");
    let tokens = lines.iter().filter_map(|line| line.strip_prefix("start "));
    let tokens: Vec<u64> = tokens.map(|token| token.parse().unwrap()).collect();
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    wait_for("the lock to be free", || {
        here.try_json(&["locks"])?
            .as_array()?
            .is_empty()
            .then_some(())
    });
}

/// Without ever having been started, and without a trace among those that wait.
fn who_waits_can_be_cancelled(here: &Installation) {
    let before = here.lines("logins").len();
    let holder = submit(here, &["run", "login"]);
    wait_for("the holder", || {
        (here.lines("logins").len() > before).then_some(())
    });
    let waits = submit(here, &["run", "login"]);
    wait_for("the wait", || {
        let record = here.try_json(&["show", &waits])?;
        (record["waiting"]["name"] == "cookie-jar").then_some(())
    });
    let cancelled = here.run(&["cancel", &waits]);
    assert_eq!(cancelled.code, 0, "{}", cancelled.stderr);
    let record = ended(here, &waits);
    assert_eq!(record["state"], "cancelled", "{record}");
    assert_eq!(record["attempts"].as_array().map_or(0, Vec::len), 0);
    std::fs::write(here.path("go"), "").unwrap();
    assert_eq!(ended(here, &holder)["state"], "succeeded");
    wait_for("an empty lock", || {
        let locks = here.try_json(&["locks"])?;
        locks.as_array()?.is_empty().then_some(())
    });
    assert_eq!(
        here.lines("logins").len(),
        before + 2,
        "one run of two lines"
    );
}

fn places_are_limited_by_key(here: &Installation) {
    let page = |host: &str| submit(here, &["run", "page", "--arg", &format!("host={host}")]);
    let runs: Vec<_> = (0..6).map(|_| page("a.example")).collect();
    for run in &runs {
        assert_eq!(ended(here, run)["state"], "succeeded");
    }
    let lines = here.lines("pages");
    assert_eq!((lines.len(), most_at_once(&lines)), (12, 2), "{lines:?}");
}

fn starts_are_paced(here: &Installation) {
    let before = orchestrator::clock::now();
    let runs: Vec<_> = (0..8)
        .map(|_| submit(here, &["run", "paced", "--arg", "host=a.example"]))
        .collect();
    for run in &runs {
        assert_eq!(ended(here, run)["state"], "succeeded");
    }
    let mut starts: Vec<i64> = here
        .lines("paced")
        .iter()
        .map(|line| line.parse().unwrap())
        .collect();
    starts.sort_unstable();
    let before = before.timestamp_nanos_opt().unwrap();
    for (nth, start) in (0..).zip(starts) {
        // Each may begin late, on a slow machine, and none early.
        let after = Duration::from_nanos(u64::try_from(start - before).unwrap());
        assert!(
            after >= Duration::from_millis(200) * nth,
            "{nth}: {after:?}"
        );
    }
}

fn a_lock_is_lent(here: &Installation) {
    let parent = here.json(&["run", "parent", "--wait"]);
    assert_eq!(parent["state"], "succeeded", "{parent}");
}

#[test]
fn limits_hold_on_the_embedded_broker() {
    let here = Installation::new();
    here.schedule("a.toml", JOBS);
    let _up = here.up(&["--concurrency", "4"]);
    a_lock_has_one_holder(&here);
    std::fs::remove_file(here.path("go")).unwrap();
    who_waits_can_be_cancelled(&here);
    places_are_limited_by_key(&here);
    starts_are_paced(&here);
    a_lock_is_lent(&here);
}

#[test]
fn limits_hold_on_nats_over_workers() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let _beat = here.start("beat", &["beat"]);
    let worker = |name: &str| {
        here.start(
            name,
            &["worker", "--queue", "default", "--concurrency", "2"],
        )
    };
    let _workers = [worker("a"), worker("b")];
    a_lock_has_one_holder(&here);
    std::fs::remove_file(here.path("go")).unwrap();
    who_waits_can_be_cancelled(&here);
    places_are_limited_by_key(&here);
    starts_are_paced(&here);
    a_lock_is_lent(&here);
}

#[test]
fn who_waits_for_a_lock_holds_no_slot() {
    let here = Installation::new();
    here.schedule("a.toml", JOBS);
    let _up = here.up(&["--concurrency", "2"]);
    ready(&here);
    for _ in 0..5 {
        submit(&here, &["run", "login"]);
    }
    wait_for("the first login", || here.lines("logins").first().cloned());
    let other = submit(&here, &["run", "other"]);
    assert_eq!(ended(&here, &other)["state"], "succeeded");
    assert_eq!(here.lines("logins").len(), 1);
}

#[test]
fn a_killed_holder_holds_the_lock_for_its_next_attempt_only() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let _beat = here.start("beat", &["beat"]);
    let worker = |name: &str| here.start(name, &["worker", "--queue", "default", "--lease", "2s"]);
    let first = worker("first");
    ready(&here);
    let holder = submit(&here, &["run", "login"]);
    wait_for("the first login", || here.lines("logins").first().cloned());
    let waiter = submit(&here, &["run", "login"]);
    let _second = worker("second");
    first.kill9();
    std::fs::write(here.path("go"), "").unwrap();
    let record = ended(&here, &holder);
    assert_eq!(record["state"], "succeeded", "{record}");
    assert_eq!(record["crashes"], 1, "{record}");
    assert_eq!(ended(&here, &waiter)["state"], "succeeded");
    let lines = here.lines("logins");
    // The killed attempt wrote no end.
    assert_eq!(
        (lines.len(), most_at_once(&lines[1..])),
        (5, 1),
        "{lines:?}"
    );
    let tokens = lines.iter().filter_map(|line| line.strip_prefix("start "));
    let tokens: Vec<u64> = tokens.map(|token| token.parse().unwrap()).collect();
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

#[test]
fn a_command_outside_of_jobs_holds_the_same_lock() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let _beat = here.start("beat", &["beat"]);
    let _worker = here.start("worker", &["worker", "--queue", "default", "--lease", "2s"]);
    ready(&here);

    let done = here.run(&[
        "lock",
        "x",
        "--",
        "sh",
        "-c",
        "echo $ORCHESTRATOR_LOCK; exit 3",
    ]);
    assert_eq!((done.code, done.stdout.trim()), (3, "x"), "{}", done.stderr);

    let pids = here.path("pids");
    let script = format!(
        "(setsid sh -c 'echo $$ >> {0}; exec sleep 600' &) ; echo $$ >> {0}; exec sleep 600",
        pids.display()
    );
    let session = [
        "lock",
        "cookie-jar",
        "--lease",
        "1s",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let holder = here.start("holder", &session);
    let processes = wait_for("the command", || {
        let lines = here.lines("pids");
        let pids: Vec<u32> = lines.iter().filter_map(|line| line.parse().ok()).collect();
        (pids.len() == 2).then_some(pids)
    });
    // Longer than its lease: it is renewed.
    let refused = here.run(&["lock", "cookie-jar", "--wait", "1500ms", "--", "true"]);
    assert_eq!(refused.code, 8, "{}", refused.stderr);
    let run = submit(&here, &["run", "login"]);
    wait_for("the run to wait", || {
        (here.try_json(&["show", &run])?["waiting"]["name"] == "cookie-jar").then_some(())
    });
    assert!(here.lines("logins").is_empty());
    holder.kill9();
    wait_for("the end of the command", || {
        (!processes.iter().any(|pid| is_alive(*pid))).then_some(())
    });
    std::fs::write(here.path("go"), "").unwrap();
    assert_eq!(ended(&here, &run)["state"], "succeeded");
}

#[test]
fn a_person_releases_a_lock() {
    let here = Installation::new();
    here.schedule("a.toml", JOBS);
    let _up = here.up(&[]);
    ready(&here);
    submit(&here, &["run", "login"]);
    wait_for("the first login", || here.lines("logins").first().cloned());
    submit(&here, &["run", "login"]);
    let released = here.run(&["locks", "release", "cookie-jar"]);
    assert_eq!(released.code, 0, "{}", released.stderr);
    wait_for("the second login", || here.lines("logins").get(1).cloned());
    assert_eq!(here.run(&["locks", "release", "nothing"]).code, 4);
    std::fs::write(here.path("go"), "").unwrap();
}
