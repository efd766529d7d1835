//! What a service manager is told: a socket of `sd_notify(3)` takes its place.

use std::{
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use crate::support::{Installation, Service, nats::NatsServer, wait_for};

/// The manager's end.
struct Manager {
    socket: UnixDatagram,
    path: String,
    heard: Vec<String>,
}

impl Manager {
    fn new(here: &Installation) -> Self {
        let path = here.path("manager.socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            path: path.to_str().unwrap().to_owned(),
            heard: Vec::new(),
        }
    }

    /// Starts a service whose watchdog has two seconds.
    fn start(&self, here: &Installation, args: &[&str], more: &[(&str, &str)]) -> Service {
        let env = [
            ("NOTIFY_SOCKET", self.path.as_str()),
            ("WATCHDOG_USEC", "2000000"),
        ];
        here.start_with(args[0], args, &[&env, more].concat())
    }

    /// Everything that was said since the last look.
    fn listen(&mut self) -> usize {
        let before = self.heard.len();
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            self.heard.extend(text.lines().map(str::to_owned));
        }
        self.heard.len() - before
    }

    /// Waits for a line that begins so, after what was heard before; forgets everything up to it.
    fn wait_for(&mut self, beginning: &str) -> String {
        wait_for(beginning, || {
            self.listen();
            let at = self
                .heard
                .iter()
                .position(|line| line.starts_with(beginning))?;
            let line = self.heard[at].clone();
            self.heard.drain(..=at);
            Some(line)
        })
    }
}

const EVERY_SECOND: &str = "[job.a]\nevery = \"1s\"\nshell = \"true\"\n";

#[test]
fn beat_tells_its_manager_what_it_does() {
    let server = NatsServer::start();
    let here = Installation::on_nats(&server.url());
    let mut manager = Manager::new(&here);
    here.schedule("a.toml", EVERY_SECOND);
    let beat = manager.start(&here, &["beat"], &[]);
    manager.wait_for("READY=1");
    manager.wait_for("STATUS=firing ticks");
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");

    beat.signal(rustix::process::Signal::HUP);
    manager.wait_for("RELOADING=1");
    let at = manager.wait_for("MONOTONIC_USEC=");
    assert!(at["MONOTONIC_USEC=".len()..].parse::<u64>().unwrap() > 0);
    manager.wait_for("READY=1");
    // Noticed by itself, too, and shown.
    here.schedule("b.toml", "[job.b]\nevry = \"1s\"\n");
    let status = manager.wait_for("STATUS=firing ticks (the schedules have errors");
    assert!(status.contains("b.toml"), "{status}");
    beat.signal(rustix::process::Signal::HUP);
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    here.schedule("b.toml", "");
    assert_eq!(
        manager.wait_for("STATUS=firing ticks"),
        "STATUS=firing ticks"
    );

    beat.signal(rustix::process::Signal::TERM);
    manager.wait_for("STOPPING=1");
    manager.wait_for("STATUS=draining");
    let mut beat = beat;
    assert!(beat.wait().success());
}

/// Else the manager takes it to be reloading for ever.
#[test]
fn a_worker_tells_its_manager_how_a_reload_ended() {
    let server = NatsServer::start();
    let here = Installation::on_nats(&server.url());
    let mut manager = Manager::new(&here);
    let policy = |text: &str| std::fs::write(here.path("worker.toml"), text).unwrap();
    policy("shell = true\n");
    let start = ["worker", "--queue", "default", "--policy", "worker.toml"];
    let check = || here.run(&[&start[..], &["--check"]].concat());
    let worker = manager.start(&here, &start, &[]);
    manager.wait_for("STATUS=taking runs");
    assert_eq!(check().code, 0);
    worker.signal(rustix::process::Signal::HUP);
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");

    policy("shel = true\n");
    let refused = check();
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("did you mean `shell`?"),
        "{}",
        refused.stderr
    );
    worker.signal(rustix::process::Signal::HUP);
    manager.wait_for("RELOADING=1");
    let status = manager.wait_for("STATUS=taking runs (");
    assert!(status.contains("worker.toml:1:1"), "{status}");
    policy("shell = true\n");
    worker.signal(rustix::process::Signal::HUP);
    assert_eq!(manager.wait_for("STATUS=taking runs"), "STATUS=taking runs");
    assert!(worker.stop().success());
}

#[test]
fn a_worker_with_no_free_slot_and_one_that_drains_still_come_round() {
    let server = NatsServer::start();
    let here = Installation::on_nats(&server.url());
    let mut manager = Manager::new(&here);
    here.schedule("a.toml", "[job.a]\nshell = \"sleep 600\"\n");
    let _beat = here.start("beat", &["beat"]);
    let worker = ["worker", "--queue", "default", "--concurrency", "1"];
    let mut worker = manager.start(
        &here,
        &[&worker[..], &["--drain-timeout", "60s"]].concat(),
        &[("WATCHDOG_USEC", "20000000")],
    );
    manager.wait_for("READY=1");
    manager.wait_for("STATUS=taking runs");
    wait_for("the job is known", || {
        (here.run(&["run", "a"]).code == 0).then_some(())
    });
    wait_for("a running run", || {
        here.runs("a")
            .iter()
            .any(|run| run["state"] == "running")
            .then_some(())
    });
    manager.listen();
    manager.heard.clear();
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");
    worker.signal(rustix::process::Signal::TERM);
    manager.wait_for("STOPPING=1");
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");
    worker.signal(rustix::process::Signal::TERM);
    assert!(worker.wait().success());
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "that nothing is said is seen on the real clock only"
)]
fn nobody_feeds_the_watchdog_for_a_loop_that_stands_still() {
    let server = NatsServer::start();
    let here = Installation::on_nats(&server.url());
    let mut manager = Manager::new(&here);
    here.schedule("a.toml", EVERY_SECOND);
    // Its loop stops for good at the third tick; everything else of the process goes on.
    let stops = [("FAILPOINTS", "beat-due=2*off->pause")];
    let _beat = manager.start(&here, &["beat"], &stops);
    manager.wait_for("WATCHDOG=1");
    // A loop that comes round feeds it four times a second at most, and once in two seconds at least.
    let mut last = Instant::now();
    wait_for("silence", || {
        manager.listen();
        if manager.heard.iter().any(|line| line == "WATCHDOG=1") {
            manager.heard.clear();
            last = Instant::now();
        }
        (last.elapsed() > Duration::from_secs(6)).then_some(())
    });
}
