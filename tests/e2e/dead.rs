//! Dead letters and retries by hand.

use serde_json::Value;

use crate::support::{Installation, nats::NatsServer, wait_for};

const FLAKY: &str = "[job.flaky]\n\
    shell = \"echo trying; [ -e fixed ] && exit 0; exit 7\"\n\
    working_dir = \"..\"\n\
    overlap = \"allow\"\n\
    retry = { attempts = 2, backoff = \"fixed\", initial = \"50ms\" }\n\
    [job.picky]\n\
    command = [\"test\", \"{arg.word}\", \"=\", \"good\"]\n\
    overlap = \"allow\"\n\
    retry = { attempts = 2, backoff = \"fixed\", initial = \"50ms\" }\n";

fn ready(here: &Installation) {
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(1).cloned());
}

/// Runs `flaky` `count` times, and waits until all of them are dead letters.
fn fail(here: &Installation, count: usize) {
    for _ in 0..count {
        assert_eq!(here.run(&["run", "flaky"]).code, 0);
    }
    wait_for("the dead letters", || {
        let letters = here.json(&["dead", "list", "--job", "flaky"]);
        (letters.as_array()?.len() == count).then_some(())
    });
}

fn letters(here: &Installation) -> Vec<Value> {
    here.json(&["dead", "list"]).as_array().unwrap().clone()
}

fn decide(here: &Installation) {
    ready(here);
    fail(here, 3);
    let bad = here.run(&["run", "picky", "--arg", "word=bad", "--wait"]);
    assert_eq!(bad.code, 1);
    wait_for("its letter", || (letters(here).len() == 4).then_some(()));

    let groups = here.json(&["dead", "list", "--group"]);
    assert_eq!(
        (&groups[0]["job"], &groups[0]["count"]),
        (&"flaky".into(), &3.into())
    );
    assert_eq!(groups[0]["reason"], "exit 7");

    let of_flaky = here.json(&["dead", "list", "--job", "flaky"]);
    let id = of_flaky[0]["run_id"].as_str().unwrap();
    let shown = here.run(&["dead", "show", id]);
    for part in ["exit 7", "the end of its output", "  trying", "\"run_id\""] {
        assert!(shown.stdout.contains(part), "no {part}:\n{}", shown.stdout);
    }

    // One: it succeeds now, with the arguments of then, and says where it comes from.
    std::fs::write(here.path("fixed"), "").unwrap();
    let retried = here.run(&["retry", id]);
    assert_eq!(retried.code, 0, "{}", retried.stderr);
    let new = retried.stdout.trim();
    let record = wait_for("the new run", || {
        let record = here.try_json(&["show", new])?;
        (record["state"] == "succeeded").then_some(record)
    });
    assert_eq!(record["retry_of"], id);
    assert_eq!(letters(here).len(), 3);

    // Those of a job.
    let retried = here.run(&["dead", "retry", "--job", "flaky"]);
    assert_eq!(retried.code, 0, "{}", retried.stderr);
    for new in retried.stdout.lines() {
        wait_for("the new run", || {
            (here.try_json(&["show", new])?["state"] == "succeeded").then_some(())
        });
    }
    let left = letters(here);
    assert_eq!(left.len(), 1, "{left:?}");

    // By number; what still fails is a dead letter of its own.
    let number = left[0]["sequence"].to_string();
    assert_eq!(here.run(&["dead", "retry", &number]).code, 0);
    let again = wait_for("the new letter", || {
        let again = letters(here).first()?.clone();
        (again["sequence"] != left[0]["sequence"]).then_some(again)
    });
    let record = here.json(&["show", again["run_id"].as_str().unwrap()]);
    assert_eq!(record["args"]["word"], "bad");
    assert_eq!(record["retry_of"], left[0]["run_id"]);

    assert_eq!(here.run(&["dead", "discard", "--all"]).code, 0);
    assert!(letters(here).is_empty());
    let none = here.run(&["dead", "discard", id]);
    assert_eq!(none.code, 4, "{}", none.stderr);
    assert_eq!(here.run(&["dead", "discard"]).code, 2);
}

#[test]
fn a_person_decides_on_the_embedded_broker() {
    let here = Installation::new();
    here.schedule("a.toml", FLAKY);
    let _up = here.up(&[]);
    decide(&here);
}

#[test]
fn a_person_decides_on_nats() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", FLAKY);
    let _beat = here.start("beat", &["beat"]);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    decide(&here);
}

#[test]
fn what_cannot_be_understood_cannot_be_retried_and_stays_until_it_is_discarded() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", FLAKY);
    let _beat = here.start("beat", &["beat"]);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    ready(&here);
    nats.publish("orch.jobs.default.flaky.slot", b"hello");
    let letter = wait_for("the letter", || letters(&here).first().cloned());
    let number = letter["sequence"].to_string();
    let retried = here.run(&["dead", "retry", &number]);
    assert_eq!(retried.code, 7, "{}", retried.stderr);
    assert!(
        retried.stderr.contains("not understood"),
        "{}",
        retried.stderr
    );
    assert_eq!(letters(&here).len(), 1);
    assert_eq!(here.run(&["dead", "discard", &number]).code, 0);
    assert!(letters(&here).is_empty());
}

#[test]
fn any_run_that_has_ended_can_be_run_again_and_a_live_one_cannot() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        "[job.echo]\ncommand = [\"echo\", \"{arg.word}\"]\n\
         [job.slow]\nshell = \"until [ -e end ]; do sleep 0.1; done\"\nworking_dir = \"..\"\n",
    );
    let _up = here.up(&[]);
    ready(&here);
    let first = here.json(&["run", "echo", "--arg", "word=hi", "--wait"]);
    let id = first["run_id"].as_str().unwrap();
    let retried = here.json(&["retry", id]);
    let new = retried[0]["run_id"].as_str().unwrap();
    let record = wait_for("the new run", || {
        let record = here.try_json(&["show", new])?;
        (record["state"] == "succeeded").then_some(record)
    });
    assert_eq!(record["args"]["word"], "hi");
    assert_eq!(record["scheduled_for"], first["scheduled_for"]);

    let slow = here.run(&["run", "slow"]).stdout.trim().to_owned();
    let refused = here.run(&["retry", &slow]);
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    std::fs::write(here.path("end"), "").unwrap();
}

#[test]
fn a_job_may_say_when_it_wants_to_be_retried_and_how_many_workers_it_may_kill() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        "[job.later]\n\
         shell = '''\n\
         echo x >> tries\n\
         echo '{\"retry_after\": \"1h\"}' > $ORCHESTRATOR_RESULT\n\
         exit 75'''\n\
         working_dir = \"..\"\n\
         retry = { attempts = 5, initial = \"10ms\", max = \"1s\" }\n",
    );
    let _up = here.up(&[]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    let id = here.run(&["run", "later"]).stdout.trim().to_owned();
    let record = wait_for("the first attempt", || {
        let record = here.try_json(&["show", &id])?;
        (record["state"] == "retrying").then_some(record)
    });
    let time =
        |key: &Value| -> chrono::DateTime<chrono::Utc> { key.as_str().unwrap().parse().unwrap() };
    let wait = time(&record["next_attempt_at"]) - time(&record["attempts"][0]["finished_at"]);
    assert_eq!(wait.num_seconds(), 3600, "{record}");
}

#[test]
fn a_job_that_kills_its_workers_ends_as_a_dead_letter() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule(
        "a.toml",
        "[job.killer]\nshell = \"echo $PPID >> workers; kill -9 $PPID; sleep 600\"\nworking_dir = \"..\"\n\
         retry = { max_crashes = 1 }\n",
    );
    let _beat = here.start("beat", &["beat"]);
    let worker = |name: &str| here.start(name, &["worker", "--queue", "default", "--lease", "1s"]);
    let mut first = worker("first");
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    let id = here.run(&["run", "killer"]).stdout.trim().to_owned();
    assert!(!first.wait().success());
    let mut second = worker("second");
    assert!(!second.wait().success());
    let _third = worker("third");
    let record = wait_for("the end", || {
        let record = here.try_json(&["show", &id])?;
        (record["state"] == "dead").then_some(record)
    });
    assert_eq!(record["crashes"], 2, "{record}");
    assert_eq!(record["attempts_used"], 0, "{record}");
    wait_for("the letter", || letters(&here).first().cloned());
    assert_eq!(here.lines("workers").len(), 2);
}
