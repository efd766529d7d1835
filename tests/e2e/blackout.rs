//! Blackouts.

use chrono::{Duration, SecondsFormat, Utc};

use crate::support::{Installation, wait_for};

fn schedule(here: &Installation, from: chrono::DateTime<Utc>, to: chrono::DateTime<Utc>) {
    let text = |at: chrono::DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    here.schedule(
        "blackouts.toml",
        &format!(
            "[blackout.fair]\nfrom = \"{}\"\nto = \"{}\"\n",
            text(from),
            text(to)
        ),
    );
}

#[test]
fn nothing_runs_in_a_blackout_and_explain_names_it() {
    let here = Installation::new();
    let now = orchestrator::clock::now();
    schedule(&here, now - Duration::hours(1), now + Duration::hours(1));
    here.schedule(
        "a.toml",
        "[job.crawl]\nevery = \"1s\"\nblackout = \"fair\"\nshell = \"true\"\n",
    );
    let _up = here.up(&[]);
    let note = wait_for("some skipped ticks", || {
        let job = here.try_json(&["jobs"])?[0].clone();
        (job["skipped"].as_u64()? >= 3).then(|| job["notes"][0].clone())
    });
    assert_eq!(note["reason"], "blackout");
    let at = note["first"].as_str().unwrap();
    let explained = here.json(&["explain", "crawl", "--at", at]);
    assert_eq!(explained["account"]["verdict"], "skipped");
    assert_eq!(explained["account"]["blackout"], "fair");
    let obstacles = explained["in_the_way"].as_array().unwrap();
    let in_the_way = obstacles.iter().find(|one| one["obstacle"] == "blackout");
    assert_eq!(in_the_way.unwrap()["blackout"], "fair");
    let said = here.run(&["explain", "crawl", "--at", at]).stdout;
    assert!(said.contains("the blackout `fair`"), "{said}");
    let coming = here.json(&["next", "crawl", "--count", "1"]);
    assert_eq!(coming[0]["blackout"], "fair");
    assert!(here.runs("crawl").is_empty());
    // By hand it still runs, and once the blackout is over by itself.
    assert_eq!(here.run(&["run", "crawl", "--wait"]).code, 0);
    schedule(&here, now - Duration::hours(2), now - Duration::hours(1));
    wait_for("a run of a tick", || {
        let runs = here.runs("crawl");
        (runs.len() >= 2).then_some(())
    });
}
