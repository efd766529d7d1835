//! Exit codes, forms of output and cancelling.

use crate::support::{Installation, wait_for};

#[test]
fn usage_errors_end_with_two_and_help_with_zero() {
    let here = Installation::new();
    assert_eq!(here.run(&["--help"]).code, 0);
    assert_eq!(here.run(&["runs", "--help"]).code, 0);
    assert_eq!(here.run(&["frobnicate"]).code, 2);
    assert_eq!(here.run(&["runs", "--state", "lost"]).code, 2);
    assert_eq!(here.run(&["worker"]).code, 2);
    assert_eq!(here.run(&["show", "not-an-id"]).code, 2);
    assert_eq!(here.run(&["jobs", "--namespace", "a.b"]).code, 2);
    let url = here.run(&["jobs", "--nats", "ftp://u:canary@host"]);
    assert_eq!(url.code, 2, "{}", url.stderr);
    assert!(!url.stderr.contains("canary"), "{}", url.stderr);
}

#[test]
fn listings_have_three_forms() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        "[job.a]\nevery = \"1h\"\nqueue = \"high\"\ntags = [\"x\"]\nshell = \"true\"\n",
    );
    let up = here.up(&[]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    let job = here.json(&["jobs"])[0].clone();
    assert_eq!(
        (job["name"].as_str(), job["queue"].as_str()),
        (Some("a"), Some("high"))
    );
    assert!(job["next"].as_str().unwrap().contains('T'));
    assert_eq!(here.run(&["jobs", "-o", "name"]).stdout, "a\n");
    assert!(here.run(&["jobs"]).stdout.starts_with("JOB"));
    assert_eq!(here.json(&["jobs", "--tag", "y"]), serde_json::json!([]));
    wait_for("the worker", || here.json(&["workers"]).get(0).cloned());
    let queues = here.json(&["queues"]);
    assert_eq!(queues[0]["queue"], "high");
    assert_eq!(queues[0]["workers"].as_array().unwrap().len(), 1);
    up.stop();
}

#[test]
fn cancel_ends_what_waits_at_once_and_frees_its_slot() {
    let here = Installation::new();
    here.schedule("a.toml", "[job.a]\nqueue = \"nobody\"\nshell = \"true\"\n");
    let _up = here.up(&["--queue", "default"]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    let id = here.run(&["run", "a"]).stdout.trim().to_owned();
    let refused = here.run(&["run", "a"]);
    assert_eq!(refused.code, 7);
    assert!(refused.stderr.contains(&id), "{}", refused.stderr);
    assert_eq!(here.json(&["show", &id])["state"], "queued");
    assert_eq!(
        here.json(&["runs", "--state", "queued"])[0]["run_id"],
        id.as_str()
    );
    let waited = here.run(&["run", "a", "--wait", "--wait-timeout", "1s"]);
    assert_eq!(waited.code, 7, "the slot is still held");
    assert_eq!(here.run(&["cancel", &id]).code, 0);
    assert_eq!(here.json(&["show", &id])["state"], "cancelled");
    assert_eq!(here.run(&["cancel", &id]).code, 7);
    let next = here.run(&["run", "a", "--wait", "--wait-timeout", "1s"]);
    assert_eq!(next.code, 8, "{}", next.stderr);
}

#[test]
fn a_run_may_be_put_off() {
    let here = Installation::new();
    here.schedule("a.toml", "[job.a]\nshell = \"true\"\n");
    let _up = here.up(&[]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    let ended = here.run(&["run", "a", "--in", "2s", "--wait", "-o", "json"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let run: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let time = |key: &str| -> chrono::DateTime<chrono::Utc> {
        run[key].as_str().unwrap().parse().unwrap()
    };
    let delay = time("started_at") - time("published_at");
    assert!(delay.num_milliseconds() >= 1990, "{delay}");
    assert_eq!(run["attempts"].as_array().unwrap().len(), 1);
}

#[test]
fn output_survives_a_reader_that_goes_away() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        "[job.a]\ncron = \"* * * * *\"\nshell = \"true\"\n",
    );
    let mut child = here
        .command(&["next", "--count", "10000"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn a_misspelt_job_is_told_and_not_an_empty_list() {
    let here = Installation::new();
    here.schedule("a.toml", "[job.crawl-full]\nshell = \"true\"\n");
    let _up = here.up(&[]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    assert_eq!(here.run(&["runs", "--job", "crawl-full"]).code, 0);
    let misspelt = here.run(&["runs", "--job", "crawl-ful"]);
    assert_eq!(misspelt.code, 4);
    assert!(
        misspelt.stderr.contains("crawl-full"),
        "{}",
        misspelt.stderr
    );
}
