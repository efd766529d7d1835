//! Runs from anywhere: many at once, the same only once, families of runs, queues.

use std::{collections::BTreeSet, fmt::Write};

use serde_json::Value;

use crate::support::{Installation, nats::NatsServer, wait_for};

const JOBS: &str = r#"
[defaults]
working_dir = ".."
overlap = "allow"

[job.page]
command = ["sh", "-c", "echo $1 >> pages", "page", "{arg.url}"]

[job.once]
command = ["sh", "-c", "echo $1 >> onces", "once", "{arg.url}"]
unique = { key = "{arg.url}", for = "24h" }

[job.still]
shell = "until [ -e go ]; do sleep 0.05; done"
unique = { key = "all", while = "running" }

[job.parent]
shell = '''
echo '{"n": 1}
{"n": 2}' | $ORCHESTRATOR_BIN run child --batch -
until [ -e go ]; do sleep 0.05; done'''

[job.child]
shell = '''
[ "$DEPTH" ] || $ORCHESTRATOR_BIN run grandchild
until [ -e go ]; do sleep 0.05; done'''

[job.grandchild]
shell = "until [ -e go ]; do sleep 0.05; done"

[job.single]
overlap = "skip"
command = ["true"]

[job.low]
queue = "low"
command = ["sh", "-c", "echo low >> order"]

[job.high]
queue = "high"
command = ["sh", "-c", "echo high >> order"]
"#;

fn ready(here: &Installation) {
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(8).cloned());
}

fn state(here: &Installation, id: &str) -> Option<String> {
    let record = here.try_json(&["show", id])?;
    Some(record["state"].as_str()?.to_owned())
}

fn lines_of(count: usize) -> String {
    let mut lines = String::new();
    for n in 0..count {
        writeln!(lines, "{{\"url\": \"http://x/{n}\"}}").unwrap();
    }
    lines
}

fn batches(here: &Installation) {
    ready(here);
    let file = here.path("urls");
    std::fs::write(&file, lines_of(300)).unwrap();
    let file = file.display().to_string();
    let batch = here.run(&["run", "page", "--batch", &file]);
    assert_eq!(batch.code, 0, "{}", batch.stderr);
    assert!(batch.stderr.contains("accepted 300"), "{}", batch.stderr);
    let ids: BTreeSet<_> = batch.stdout.lines().collect();
    assert_eq!(ids.len(), 300);
    wait_for("all pages", || {
        // Whatever begins and ends while it is read.
        let runs = here.runs("page");
        let listed: BTreeSet<_> = runs
            .iter()
            .filter_map(|run| run["run_id"].as_str())
            .collect();
        let unlisted: Vec<_> = ids.difference(&listed).collect();
        assert!(unlisted.is_empty(), "not listed: {unlisted:?}");
        (here.lines("pages").len() == 300).then_some(())
    });
    let pages: BTreeSet<_> = here.lines("pages").into_iter().collect();
    assert_eq!(pages.len(), 300, "one was executed twice");

    std::fs::write(
        &file,
        b"{\"url\": \"a\"}\n\nnonsense\n{}\n[1]\n{\"url\": \"caf\xe9\"}\n{\"url\": \"b\"}\n",
    )
    .unwrap();
    let bad = here.run(&["run", "page", "--batch", &file]);
    assert_eq!(bad.code, 1, "{}", bad.stderr);
    for part in [
        "line 3: not a JSON object",
        "line 4:",
        "`url`",
        "line 5:",
        "line 6: is not UTF-8",
        "accepted 2",
    ] {
        assert!(bad.stderr.contains(part), "no {part}: {}", bad.stderr);
    }
    let single = here.run(&["run", "single", "--batch", &file]);
    assert_eq!(single.code, 7, "{}", single.stderr);
    assert_eq!(here.run(&["run", "page", "--batch", "/nowhere"]).code, 2);
}

fn the_same_only_once(here: &Installation) {
    let first = here.json(&["run", "once", "--arg", "url=a"]);
    assert_eq!(first["existing"], false);
    let second = here.json(&["run", "once", "--arg", "url=a"]);
    assert_eq!(second["existing"], true);
    assert_eq!(second["run_id"], first["run_id"]);
    let other = here.json(&["run", "once", "--arg", "url=b"]);
    assert_ne!(other["run_id"], first["run_id"]);
    for run in [&first, &other] {
        let id = run["run_id"].as_str().unwrap();
        wait_for("the end", || {
            (state(here, id)? == "succeeded").then_some(())
        });
    }
    let again = here.json(&["run", "once", "--arg", "url=a"]);
    assert_eq!(again["run_id"], first["run_id"], "even after its end");

    // By hand, whatever the job says.
    let keyed = [
        "run",
        "page",
        "--arg",
        "url=c",
        "--unique-key",
        "k",
        "--unique-for",
        "1h",
    ];
    let (first, second) = (here.json(&keyed), here.json(&keyed));
    assert_eq!(second["run_id"], first["run_id"]);

    // Only while it runs.
    let first = here.json(&["run", "still"]);
    let id = first["run_id"].as_str().unwrap();
    wait_for("its start", || {
        (state(here, id)? == "running").then_some(())
    });
    assert_eq!(here.json(&["run", "still"])["run_id"], first["run_id"]);
    std::fs::write(here.path("go"), "").unwrap();
    wait_for("its end", || {
        (state(here, id)? == "succeeded").then_some(())
    });
    assert_ne!(here.json(&["run", "still"])["run_id"], first["run_id"]);
    std::fs::remove_file(here.path("go")).unwrap();

    let file = here.path("urls");
    std::fs::write(&file, lines_of(50).repeat(3)).unwrap();
    let batch = here.run(&["run", "once", "--batch", &file.display().to_string()]);
    assert!(
        batch.stderr.contains("accepted 50, there already 100"),
        "{}",
        batch.stderr
    );
}

fn families(here: &Installation) {
    let parent = here.run(&["run", "parent"]).stdout.trim().to_owned();
    let grandchildren = || {
        let runs = here.try_json(&["runs", "--job", "grandchild", "--state", "running"])?;
        (runs.as_array()?.len() == 2).then_some(runs)
    };
    wait_for("the grandchildren", grandchildren);
    let children = here.json(&["runs", "--parent", &parent]);
    let children = children.as_array().unwrap();
    assert_eq!(children.len(), 2, "{children:?}");
    assert!(children.iter().all(|run| run["parent"] == parent.as_str()));
    let cancelled = here.json(&["cancel", "--tree", &parent]);
    let ids: Vec<_> = cancelled.as_array().unwrap().iter().collect();
    assert_eq!(ids.len(), 5, "{cancelled}");
    for record in ids {
        let id = record["run_id"].as_str().unwrap();
        wait_for("its end", || {
            (state(here, id)? == "cancelled").then_some(())
        });
    }
}

#[test]
fn runs_are_submitted_on_the_embedded_broker() {
    let here = Installation::new();
    here.schedule("a.toml", JOBS);
    let _up = here.up(&[]);
    batches(&here);
    the_same_only_once(&here);
    families(&here);
}

#[test]
fn runs_are_submitted_on_nats() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let _beat = here.start("beat", &["beat"]);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    batches(&here);
    the_same_only_once(&here);
    families(&here);
}

#[test]
fn a_paused_queue_gives_nothing_away_and_a_late_high_job_comes_first() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let _beat = here.start("beat", &["beat"]);
    ready(&here);
    let paused = here.json(&["pause", "--queue", "low", "--reason", "the site is down"]);
    assert_eq!(paused["queue"], "low");
    let queues = ["--queue", "high", "--queue", "low:1", "--concurrency", "1"];
    let args: Vec<_> = ["worker"].into_iter().chain(queues).collect();
    let _worker = here.start("worker", &args);

    std::fs::write(here.path("lines"), "{}\n".repeat(500)).unwrap();
    let file = here.path("lines").display().to_string();
    assert_eq!(here.run(&["run", "low", "--batch", &file]).code, 0);
    let high = here.run(&["run", "high", "--wait"]);
    assert_eq!(high.code, 0, "{}", high.stderr);
    assert_eq!(here.lines("order"), ["high"]);
    let low = || -> Option<Value> {
        let queues = here.try_json(&["queues"])?;
        queues
            .as_array()?
            .iter()
            .find(|q| q["queue"] == "low")
            .cloned()
    };
    assert_eq!(low().unwrap()["pause"]["reason"], "the site is down");

    assert_eq!(here.run(&["resume", "--queue", "low"]).code, 0);
    wait_for("some low runs", || {
        (here.lines("order").len() > 20).then_some(())
    });
    let high = here.run(&["run", "high", "--wait"]);
    assert_eq!(high.code, 0, "{}", high.stderr);
    let order = here.lines("order");
    assert!(
        order.len() < 500,
        "the high job waited for all the low ones"
    );
    assert_eq!(here.run(&["pause", "--queue", "low"]).code, 0);
    assert_eq!(here.run(&["pause"]).code, 2);
    assert_eq!(here.run(&["resume", "--queue", "high"]).code, 7);
}
