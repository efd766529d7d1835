//! Bad input and faults: each gets one clear message, and what was good goes on.

use std::{fs, os::unix::process::CommandExt, process::Stdio};

use crate::support::{Installation, is_alive, nats::NatsServer, wait_for};

fn ready(here: &Installation) {
    wait_for("the definitions", || {
        here.try_json(&["jobs"])?.get(0).cloned()
    });
}

#[test]
fn no_broker_at_the_start_says_how_to_start_one() {
    let here = Installation::on_nats("nats://127.0.0.1:9");
    here.schedule("a.toml", "[job.a]\nshell = \"true\"\n");
    for args in [
        &["beat"][..],
        &["worker", "--queue", "high"],
        &["jobs"],
        &["run", "a"],
    ] {
        let ended = here.run(args);
        assert_eq!(ended.code, 5, "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("127.0.0.1:9"), "{}", ended.stderr);
        assert!(ended.stderr.contains("nats-server -js"), "{}", ended.stderr);
    }
}

#[test]
fn a_command_that_does_not_exist_is_named() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        "[job.a]\ncommand = [\"no-such-program-here\", \"x\"]\n",
    );
    let _up = here.up(&[]);
    ready(&here);
    assert_eq!(here.run(&["run", "a", "--wait"]).code, 1);
    let run = &here.runs("a")[0];
    assert_eq!(run["state"], "failed");
    assert!(run.to_string().contains("no-such-program-here"), "{run}");
}

#[test]
fn a_job_that_ignores_sigterm_is_ended() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        "[job.deaf]\nshell = \"trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done\"\nworking_dir = \"..\"\ntimeout = \"1s\"\nkill = { signal = \"SIGTERM\", grace = \"1s\" }\n",
    );
    let _up = here.up(&[]);
    ready(&here);
    assert_eq!(here.run(&["run", "deaf", "--wait"]).code, 1);
    let run = &here.runs("deaf")[0];
    assert_eq!(run["attempts"][0]["end"], "timed_out");
    assert_eq!(run["attempts"][0]["exit"]["signal"], 9);
    assert!(!is_alive(here.read("pid").trim().parse().unwrap()));
}

#[test]
fn a_data_directory_without_permission_is_named() {
    let here = Installation::new();
    here.schedule("a.toml", "[job.a]\nshell = \"true\"\n");
    let locked = here.path("locked");
    fs::create_dir(&locked).unwrap();
    let mut command = here.command(&["up"]);
    // Root may write everywhere: then the command runs as nobody.
    if rustix::process::geteuid().is_root() {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(here.path("."), fs::Permissions::from_mode(0o755)).unwrap();
        command.uid(65_534).gid(65_534);
    } else {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).unwrap();
    }
    let data = locked.join("data");
    let output = command
        .env("ORCHESTRATOR_DATA_DIR", &data)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{stderr}");
    assert!(stderr.contains(data.to_str().unwrap()), "{stderr}");
    assert!(stderr.to_lowercase().contains("permission"), "{stderr}");
}

#[test]
fn a_job_with_a_dot_in_its_name_and_a_cron_that_never_fires_stop_the_start() {
    let here = Installation::new();
    here.schedule("a.toml", "[job.\"crawl.page\"]\nshell = \"true\"\n");
    here.schedule(
        "b.toml",
        "[job.b]\ncron = \"0 0 30 2 *\"\nshell = \"true\"\n",
    );
    let ended = here.run(&["up"]);
    assert_eq!(ended.code, 3);
    assert!(
        ended.stderr.contains("crawl.page") && ended.stderr.contains("a.toml:1"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("b.toml:2"), "{}", ended.stderr);
}

#[test]
fn failures_are_retried_by_policy_and_end_as_dead_letters() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        "[job.flaky]\nshell = \"echo x >> tries; exit 1\"\nworking_dir = \"..\"\nretry = { attempts = 3, backoff = \"fixed\", initial = \"100ms\", jitter = 0.0 }\n",
    );
    let _up = here.up(&[]);
    ready(&here);
    assert_eq!(here.run(&["run", "flaky", "--wait"]).code, 1);
    let run = &here.runs("flaky")[0];
    assert_eq!(
        (run["state"].as_str(), run["attempts_used"].as_u64()),
        (Some("dead"), Some(3))
    );
    assert_eq!(here.lines("tries").len(), 3);
    // The letter follows the record, which `--wait` has seen.
    wait_for("the dead letter", || {
        let letters = here.json(&["dead"]);
        (letters[0]["run_id"] == run["run_id"]).then_some(())
    });
}

#[test]
fn who_waits_for_a_run_hears_of_an_outage_and_goes_on_after_it() {
    let mut server = NatsServer::start();
    let here = Installation::on_nats(&server.url());
    here.schedule(
        "a.toml",
        "[job.slow]\nshell = \"until [ -e end ]; do sleep 0.1; done\"\nworking_dir = \"..\"\n",
    );
    let _beat = here.start("beat", &["beat"]);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    let mut waiting = here.start("run", &["run", "slow", "--wait"]);
    wait_for("the run", || {
        (here.runs("slow").first()?["state"] == "running").then_some(())
    });
    server.kill9();
    wait_for("word of it", || {
        waiting
            .log()
            .contains("waiting for the broker")
            .then_some(())
    });
    server.restart();
    std::fs::write(here.path("end"), "").unwrap();
    assert!(waiting.wait().success(), "{}", waiting.log());
}

#[test]
fn a_job_whose_limits_cannot_be_kept_is_not_started() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        "[job.a]\nshell = \"touch started\"\nlimits = { memory = \"512M\" }\nretry = { attempts = 1 }\n",
    );
    let _up = here.up(&["--cgroup", "off"]);
    let ended = here.run(&["run", "a", "--wait"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let run = &here.runs("a")[0];
    assert_eq!(run["state"], "failed");
    let exit = run["attempts"][0]["exit"]["not_started"].as_str();
    assert!(
        exit.is_some_and(|reason| reason.contains("switched off") && reason.contains("--cgroup")),
        "{run}"
    );
    assert!(!here.path("started").exists());
}

/// A server that is there is not to be started: it is said what it lacks.
#[test]
fn a_server_that_is_there_and_does_not_answer_is_told_from_none() {
    let frozen = NatsServer::start();
    frozen.signal(rustix::process::Signal::STOP);
    // It waits for servers of its cluster that never come.
    let alone = NatsServer::start_with(
        "server_name: n0\ncluster { name: c, listen: \"127.0.0.1:-1\", routes: [\"nats://127.0.0.1:9\"] }",
    );
    let ask = |url: String| Installation::on_nats(&url).run(&["queues"]);
    let (of_frozen, of_alone) = std::thread::scope(|both| {
        let of_frozen = both.spawn(|| ask(frozen.url()));
        let of_alone = ask(alone.url());
        (of_frozen.join().unwrap(), of_alone)
    });
    for (ended, says) in [
        (
            of_frozen,
            "accepts connections there, and says nothing within 5s",
        ),
        (
            of_alone,
            "a server is there, but its JetStream does not answer",
        ),
    ] {
        assert_eq!(ended.code, 5, "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
        assert!(
            !ended.stderr.contains("nats-server -js"),
            "{}",
            ended.stderr
        );
    }
}
