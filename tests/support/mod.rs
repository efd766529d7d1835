//! What the end-to-end tests share: an installation in a temporary directory, the real binary, and
//! waiting for conditions with a deadline.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod checker;
pub mod commands;
pub mod files;
pub mod listener;
pub mod mounts;
pub mod nats;
pub mod network;
pub mod probes;
pub mod random;

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use network::Network;
use serde_json::Value;
use tempfile::TempDir;

/// A job whose every tick has to have a run, each of which writes its id into `ticks`.
pub const EVERY_SECOND: &str = r#"
[job.tick]
every = "1s"
overlap = "allow"
catch_up = "all"
catch_up_window = "1h"
command = ["sh", "-c", "echo $ORCHESTRATOR_RUN_ID >> ticks"]
working_dir = ".."
"#;

/// Generous: it only bounds how long a failing test hangs.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `look` finds something; panics with `what` after [`PATIENCE`].
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

/// Waits until `look` finds something; panics with `what` after `limit`.
#[allow(
    clippy::disallowed_methods,
    reason = "tests poll real processes on the real clock, with a deadline"
)]
pub fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a command left behind.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Schedules, data directory and environment of one installation.
#[derive(Debug)]
pub struct Installation {
    dir: TempDir,
    env: Vec<(String, String)>,
}

impl Installation {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("schedules")).unwrap();
        Self {
            dir,
            env: Vec::new(),
        }
    }

    /// An installation that finds its broker at `url`.
    pub fn on_nats(url: &str) -> Self {
        let mut installation = Self::new();
        installation.set("NATS_URL", url);
        installation
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// Writes a schedule file as editors do: beside it, then over it.
    pub fn schedule(&self, name: &str, text: &str) {
        let whole = self.path("schedules").join(name);
        let partial = self.path("schedules").join(format!(".{name}.tmp"));
        fs::write(&partial, text).unwrap();
        fs::rename(partial, whole).unwrap();
    }

    /// A path as programs have it that follow links.
    pub fn real(&self, relative: &str) -> String {
        let path = self.path(relative).canonicalize().unwrap();
        path.display().to_string()
    }

    /// Writes a script for `/bin/sh` that everybody can execute, in a directory that is made for it.
    pub fn script(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn read(&self, relative: &str) -> String {
        fs::read_to_string(self.path(relative)).unwrap_or_default()
    }

    pub fn lines(&self, relative: &str) -> Vec<String> {
        self.read(relative).lines().map(str::to_owned).collect()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        for (name, _) in std::env::vars() {
            if name.starts_with("ORCHESTRATOR_") || name.starts_with("NATS_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("ORCHESTRATOR_DATA_DIR", self.path("data"))
            .env("ORCHESTRATOR_SCHEDULES", self.path("schedules"))
            .env("NO_COLOR", "1")
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Ended {
        let output = self.command(args).output().unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a command; its standard output as it is.
    pub fn bytes(&self, args: &[&str]) -> Vec<u8> {
        self.command(args).output().unwrap().stdout
    }

    /// Runs a command that must succeed; its standard output as JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let ended = self.run(&[args, &["-o", "json"]].concat());
        assert_eq!(ended.code, 0, "{args:?}: {}{}", ended.stdout, ended.stderr);
        serde_json::from_str(&ended.stdout).unwrap()
    }

    /// Runs a command that may fail while the installation is starting.
    pub fn try_json(&self, args: &[&str]) -> Option<Value> {
        let ended = self.run(&[args, &["-o", "json"]].concat());
        (ended.code == 0).then(|| serde_json::from_str(&ended.stdout).unwrap())
    }

    /// The record of a run of a job that is asked for now, at its end.
    pub fn run_to_its_end(&self, job: &str) -> Value {
        let run = self.run(&["-o", "json", "run", job, "--wait"]);
        let record = serde_json::from_str(&run.stdout);
        record.unwrap_or_else(|_| panic!("{job}: {}", run.stderr))
    }

    /// The runs of a job, newest first; none while nobody answers.
    pub fn runs(&self, job: &str) -> Vec<Value> {
        let runs = self.try_json(&["runs", "--job", job, "--limit", "100000"]);
        runs.and_then(|runs| runs.as_array().cloned())
            .unwrap_or_default()
    }

    /// Starts a service; its standard output and error go to `NAME.log`.
    pub fn start(&self, name: &str, args: &[&str]) -> Service {
        self.start_with(name, args, &[])
    }

    pub fn start_with(&self, name: &str, args: &[&str], env: &[(&str, &str)]) -> Service {
        self.spawn(self.command(args), name, env)
    }

    /// Starts a service in a network of its own.
    pub fn start_in(
        &self,
        network: &Network,
        name: &str,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Service {
        self.spawn(network.enter(&self.command(args)), name, env)
    }

    pub fn spawn(&self, mut command: Command, name: &str, env: &[(&str, &str)]) -> Service {
        let log = self.path(&format!("{name}.log"));
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = command
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Service { child, log }
    }

    /// Starts `up` and waits until it answers.
    pub fn up(&self, args: &[&str]) -> Service {
        let mut up = self.start("up", &[&["up"], args].concat());
        wait_for("`up` to answer", || {
            if let Some(status) = up.ended() {
                panic!("up ended with {status}: {}", up.log());
            }
            self.try_json(&["queues"])
        });
        up
    }
}

/// A running service; killed when dropped.
#[derive(Debug)]
pub struct Service {
    child: Child,
    log: PathBuf,
}

impl Service {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.unwrap(), signal).unwrap();
    }

    pub fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let log = self.log.clone();
        wait_for(
            &format!("the end of the service, see {}", log.display()),
            || self.ended(),
        )
    }

    /// SIGTERM, then its end.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Already ended: then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), tail(&self.log()));
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// Whether a process exists and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or("Z").starts_with('Z'))
}
