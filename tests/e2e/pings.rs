//! Somebody else is told how jobs and beat fare.

use crate::support::{
    Installation,
    listener::{Heard, Listener},
    wait_for,
};

/// Answers 200, but 503 to the first request for a path with `flaky` in it, and to each start of `late`.
fn flaky(request: &Heard, before: &[Heard]) -> &'static str {
    let is_first = before.iter().all(|before| before.path != request.path);
    let is_refused = request.path.contains("flaky") && is_first;
    match is_refused || request.path.contains("/late/start") {
        true => "503 Service Unavailable",
        false => "200 OK",
    }
}

#[test]
fn jobs_and_beat_tell_how_they_fare() {
    let listener = Listener::start(flaky);
    let here = Installation::new();
    let url = &listener.url;
    here.schedule(
        "a.toml",
        &format!(
            r#"
[job.good]
shell = "true"
ping = "{url}/good"
[job.bad]
shell = "exit 3"
retry = {{ attempts = 2, backoff = "fixed", initial = "10ms" }}
ping = "{url}/bad/"
[job.killed]
shell = "kill -9 $$"
ping = "{url}/killed"
[job.flaky]
shell = "true"
ping = "{url}/flaky"
[job.late]
shell = "true"
ping = "{url}/late"
[job.slow]
shell = "sleep 600"
ping = "{url}/slow"
[job.unheard]
shell = "true"
ping = "http://127.0.0.1:1/nobody"
"#
        ),
    );
    let beat_ping = format!("{url}/beat");
    let up = here.up(&["--beat-ping", &beat_ping]);
    let paths = || -> Vec<String> {
        let heard = listener.heard();
        let path = |heard: &Heard| heard.path.split('?').next().unwrap().to_owned();
        heard.iter().map(path).collect()
    };
    wait_for("beat's ping", || {
        paths().contains(&"/beat".to_owned()).then_some(())
    });
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(6).cloned());
    let slow = here.run(&["run", "slow"]).stdout.trim().to_owned();
    for job in ["good", "bad", "killed", "flaky", "late", "unheard"] {
        // Nobody waits for a ping, and no run fails with one.
        let ended = here.run(&["run", job, "--wait"]);
        let expected = i32::from(["bad", "killed"].contains(&job));
        assert_eq!(ended.code, expected, "{job}: {}", ended.stderr);
    }
    wait_for("the start", || {
        paths().contains(&"/slow/start".to_owned()).then_some(())
    });
    assert_eq!(here.run(&["cancel", &slow]).code, 0);
    for expected in [
        "/good/start",
        "/good",
        "/bad/start",
        "/bad/3",
        "/killed/start",
        "/killed/fail",
        "/flaky/start",
        "/flaky",
        "/late/start",
        "/late",
        "/slow/log",
    ] {
        wait_for(expected, || {
            paths().iter().any(|path| path == expected).then_some(())
        });
    }
    wait_for("a second try", || {
        (paths().iter().filter(|path| *path == "/flaky").count() == 2).then_some(())
    });
    let seen = listener.heard();
    let about = |path: &str| {
        let mut with_path = seen
            .iter()
            .filter(|heard| heard.path.split('?').next() == Some(path));
        let Heard { path, body, .. } = with_path.next().unwrap();
        let (_, rid) = path.split_once("?rid=").unwrap();
        (rid.to_owned(), body.clone())
    };
    assert_eq!(about("/good/start").0, about("/good").0);
    assert_ne!(about("/good").0, about("/bad/3").0);
    assert!(about("/bad/3").1.contains("exit 3"), "{seen:?}");
    // Waits for what is on its way.
    assert!(up.stop().success());
    // A start that comes after the end would look like work that never ends.
    let late: Vec<_> = paths()
        .into_iter()
        .filter(|path| path.contains("/late"))
        .collect();
    assert_eq!(late, ["/late/start", "/late"]);

    here.schedule("a.toml", "[job.a]\nshell = \"true\"\nping = \"ftp://x\"\n");
    let checked = here.run(&["check"]);
    assert_eq!(checked.code, 3);
    assert!(
        checked.stderr.contains("https://hc-ping.com/UUID"),
        "{}",
        checked.stderr
    );
}
