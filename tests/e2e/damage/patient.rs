//! Whom it befalls: an installation with a past, whose service is `up` or `beat`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::support::{Installation, Service, checker, mounts::Mounts, nats::NatsServer, wait_for};

const JOBS: &str = r#"
[defaults]
working_dir = ".."

[job.tick]
every = "1s"
overlap = "allow"
catch_up = "all"
command = ["sh", "-c", "echo $ORCHESTRATOR_RUN_ID >> ticks"]

[job.paused]
every = "1s"
shell = "echo no >> paused"

[job.bulk]
queue = "bulk"
overlap = "allow"
shell = "true"
"#;

/// Whose data directory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Up,
    Beat,
}

/// An installation with a past.
pub(super) struct Patient {
    whose: Whose,
    /// The one that holds the directory.
    pub(super) running: Option<Service>,
    _worker: Option<Service>,
    nats: Option<NatsServer>,
    pub(super) mounts: Option<Mounts>,
    pub(super) here: Installation,
}

impl Patient {
    pub(super) fn new(whose: Whose, size: &str) -> Self {
        let mut mounts = Mounts::new("read-only and full data directories");
        let nats = (whose == Whose::Beat).then(NatsServer::start);
        let mut here = Installation::new();
        if let Some(nats) = &nats {
            here.set("NATS_URL", &nats.url());
        }
        here.schedule("a.toml", JOBS);
        if let Some(mounts) = &mut mounts {
            mounts.tmpfs(&here.path("data"), size);
        }
        let worker = || here.start("worker", &["worker", "--queue", "default"]);
        Self {
            whose,
            running: None,
            _worker: nats.is_some().then(worker),
            nats,
            mounts,
            here,
        }
    }

    pub(super) fn start(&self) -> Service {
        match self.whose {
            Whose::Up => self.here.start("service", &["up"]),
            Whose::Beat => self.here.start("service", &["beat"]),
        }
    }

    pub(super) fn log(&self) -> String {
        self.here.read("service.log")
    }

    pub(super) fn store(&self) -> PathBuf {
        match self.whose {
            Whose::Up => self.here.path("data"),
            Whose::Beat => self.here.path("data/beat"),
        }
    }

    pub(super) fn database(&self) -> fs::File {
        let file = fs::File::options()
            .write(true)
            .open(self.store().join("db"));
        file.unwrap()
    }

    pub(super) fn remount(&self, options: &str) -> Result<(), String> {
        match &self.mounts {
            Some(mounts) => mounts.remount(&self.here.path("data"), options),
            None => Err("no mounts".to_owned()),
        }
    }

    /// Deletes the files of the store, and all that is beside them but what is to be kept.
    pub(super) fn delete(&self, kept: &[&str]) {
        for entry in fs::read_dir(self.store()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            if kept.iter().any(|kept| name == **kept) {
                continue;
            }
            match entry.file_type().unwrap().is_dir() {
                true => fs::remove_dir_all(entry.path()).unwrap(),
                false => fs::remove_file(entry.path()).unwrap(),
            }
        }
    }

    pub(super) fn aside(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.store()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let is_aside = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("corrupt-")
        };
        paths.filter(is_aside).collect()
    }

    /// Ticks ran, and a job is paused, of which the service knows.
    pub(super) fn live(&self) {
        let running = self.start();
        self.ticks_go_on("the first ticks");
        let bulk = self.here.run(&["pause", "--queue", "bulk"]);
        assert_eq!(bulk.code, 0, "{}", bulk.stderr);
        let paused = self.here.run(&["pause", "paused", "--reason", "a test"]);
        assert_eq!(paused.code, 0, "{}", paused.stderr);
        wait_for("beat to hear of the pause", || {
            let before = self.here.lines("paused").len();
            self.ticks_go_on("a tick");
            (self.here.lines("paused").len() == before).then_some(())
        });
        assert!(running.stop().success());
    }

    pub(super) fn ticks_go_on(&self, what: &str) {
        let before = self.here.lines("ticks").len();
        wait_for(&format!("{what}: {}", self.log()), || {
            (self.here.lines("ticks").len() > before + 1).then_some(())
        });
    }

    /// Submits runs that nobody executes until nothing more is stored; those that were accepted.
    pub(super) fn submit_until_it_ends(&self, service: &mut Service) -> Vec<String> {
        let lines = format!("{{\"text\": \"{}\"}}\n", "x".repeat(2_000)).repeat(500);
        fs::write(self.here.path("lines"), lines).unwrap();
        let lines = self.here.path("lines").display().to_string();
        let mut accepted = Vec::new();
        wait_for("the end of room", || {
            if service.ended().is_none() {
                let ended = self.here.run(&["run", "bulk", "--batch", &lines]);
                accepted.extend(ended.stdout.lines().map(str::to_owned));
            }
            service.ended()
        });
        accepted
    }

    pub(super) fn has_stored(&self, accepted: &[String]) {
        let runs = self.here.runs("bulk");
        let stored: BTreeSet<_> = runs
            .iter()
            .map(|run| run["run_id"].as_str().unwrap())
            .collect();
        let lost: Vec<_> = accepted
            .iter()
            .filter(|id| !stored.contains(id.as_str()))
            .collect();
        assert!(lost.is_empty(), "accepted and lost: {lost:?}");
    }

    /// It goes on where it was, and remembers.
    pub(super) fn is_well(&self, after: &str) {
        let silent = self.here.lines("paused").len();
        self.ticks_go_on(&format!("ticks after {after}"));
        let jobs = self.here.json(&["jobs"]);
        let is_paused = |job: &Value| job["paused"]["reason"] == "a test";
        assert!(
            jobs.as_array().unwrap().iter().any(is_paused),
            "{after}: {jobs:#}"
        );
        assert_eq!(
            self.here.lines("paused").len(),
            silent,
            "{after}: the pause was forgotten"
        );
    }

    /// A broker that lost everything is filled again from beat's own copy.
    pub(super) fn refills_a_broker(&mut self) {
        checker::none_waits(&self.here, "ticks");
        let nats = self.nats.as_mut().unwrap();
        nats.kill9();
        nats.wipe();
        nats.restart();
        self.is_well("the loss of NATS");
    }

    /// Every tick from the first to the last ran once.
    pub(super) fn each_tick_ran_once(&self) {
        checker::every_second_once(&self.here.lines("ticks"));
    }
}

/// Whether a text names a place and has all these words.
pub(super) fn contains_all(text: &str, place: &Path, words: &[&str]) -> bool {
    text.contains(&place.display().to_string()) && words.iter().all(|word| text.contains(word))
}
