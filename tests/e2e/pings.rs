//! Somebody else is told how jobs and beat fare.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use crate::support::{Installation, wait_for};

/// Each request: its path, and its body.
type Seen = Arc<Mutex<Vec<(String, String)>>>;

/// Answers 200, but 503 to the first request for a path with `flaky` in it. Ends with the test process.
fn server() -> (u16, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, &noted);
        }
    });
    (port, seen)
}

fn answer(mut stream: TcpStream, seen: &Seen) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    lines.read_line(&mut first).ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body).ok()?;
    let mut seen = seen.lock().unwrap();
    let is_first = seen.iter().all(|(before, _)| *before != path);
    let status = match path.contains("flaky") && is_first {
        true => "503 Service Unavailable",
        false => "200 OK",
    };
    seen.push((path, String::from_utf8_lossy(&body).into_owned()));
    drop(seen);
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
    .ok()
}

#[test]
fn jobs_and_beat_tell_how_they_fare() {
    let (port, seen) = server();
    let here = Installation::new();
    let url = format!("http://127.0.0.1:{port}");
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
        let seen = seen.lock().unwrap();
        seen.iter()
            .map(|(path, _)| path.split('?').next().unwrap().to_owned())
            .collect()
    };
    wait_for("beat's ping", || {
        paths().contains(&"/beat".to_owned()).then_some(())
    });
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(5).cloned());
    let slow = here.run(&["run", "slow"]).stdout.trim().to_owned();
    for job in ["good", "bad", "killed", "flaky", "unheard"] {
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
        "/slow/log",
    ] {
        wait_for(expected, || {
            paths().iter().any(|path| path == expected).then_some(())
        });
    }
    wait_for("a second try", || {
        (paths().iter().filter(|path| *path == "/flaky").count() == 2).then_some(())
    });
    let seen = seen.lock().unwrap().clone();
    let about = |path: &str| {
        let (whole, body) = seen
            .iter()
            .find(|(whole, _)| whole.split('?').next() == Some(path))
            .unwrap();
        (
            whole.split_once("?rid=").unwrap().1.to_owned(),
            body.clone(),
        )
    };
    assert_eq!(about("/good/start").0, about("/good").0);
    assert_ne!(about("/good").0, about("/bad/3").0);
    assert!(about("/bad/3").1.contains("exit 3"), "{seen:?}");
    assert!(up.stop().success());

    here.schedule("a.toml", "[job.a]\nshell = \"true\"\nping = \"ftp://x\"\n");
    let checked = here.run(&["check"]);
    assert_eq!(checked.code, 3);
    assert!(
        checked.stderr.contains("https://hc-ping.com/UUID"),
        "{}",
        checked.stderr
    );
}
