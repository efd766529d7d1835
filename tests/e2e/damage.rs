//! What can befall a data directory, for `up` on its embedded broker and for `beat` on NATS alike: each is told in
//! one message that names thing, place and mend, what is bad is set aside, and no tick runs twice.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::support::{
    Installation, Service,
    mounts::{Mounts, fill, skipped},
    nats::NatsServer,
    wait_for,
};

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
enum Whose {
    Up,
    Beat,
}

/// What befalls it while nobody uses it, and what must follow.
struct Misfortune {
    name: &'static str,
    befall: fn(&mut Patient) -> Result<(), String>,
    then: Then,
}

enum Then {
    /// It is set aside, and rebuilt.
    SetAside,
    /// It is rebuilt; there is nothing to set aside.
    Rebuilt,
    /// The start is refused with a code and these words; after the mend it is as it was.
    Refused(i32, &'static [&'static str], fn(&mut Patient)),
    /// The same for `up`. `beat` says the words, and goes on without it until the mend.
    Missed(i32, &'static [&'static str], fn(&mut Patient)),
}

const MISFORTUNES: [Misfortune; 6] = [
    Misfortune {
        name: "truncated",
        befall: |patient| {
            let database = patient.database();
            let size = database.metadata().unwrap().len();
            database.set_len(size / 2).unwrap();
            Ok(())
        },
        then: Then::SetAside,
    },
    Misfortune {
        name: "bit-flipped",
        befall: |patient| {
            // One in each page: which of them matter, only sled knows.
            let mut bytes = fs::read(patient.store().join("db")).unwrap();
            bytes.chunks_mut(4096).for_each(|page| page[0] ^= 4);
            patient.database().write_all_at(&bytes, 0).unwrap();
            Ok(())
        },
        then: Then::SetAside,
    },
    Misfortune {
        name: "locked",
        befall: |patient| {
            patient.running = Some(patient.start());
            Ok(())
        },
        then: Then::Refused(7, &["is held by process", "stop that one"], |patient| {
            assert!(patient.running.take().unwrap().stop().success());
        }),
    },
    Misfortune {
        name: "read-only",
        befall: |patient| patient.remount("ro"),
        then: Then::Refused(
            1,
            &["is on a read-only file system", "mount it writable"],
            |patient| patient.remount("rw").unwrap(),
        ),
    },
    Misfortune {
        name: "full",
        befall: |patient| match &patient.mounts {
            Some(_) => {
                fill(&patient.here.path("data/ballast"));
                Ok(())
            }
            None => Err("no mounts".to_owned()),
        },
        then: Then::Missed(1, &["the disk of", "is full", "make room"], |patient| {
            fs::remove_file(patient.here.path("data/ballast")).unwrap();
        }),
    },
    Misfortune {
        name: "deleted",
        befall: |patient| {
            // The snapshots of `up` are what it is rebuilt from.
            patient.delete(&["snapshots"]);
            Ok(())
        },
        then: Then::Rebuilt,
    },
];

/// An installation with a past.
struct Patient {
    whose: Whose,
    /// The one that holds the directory.
    running: Option<Service>,
    _worker: Option<Service>,
    _nats: Option<NatsServer>,
    mounts: Option<Mounts>,
    here: Installation,
}

impl Patient {
    fn new(whose: Whose, size: &str) -> Self {
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
            _nats: nats,
            mounts,
            here,
        }
    }

    fn start(&self) -> Service {
        match self.whose {
            Whose::Up => self.here.start("service", &["up"]),
            Whose::Beat => self.here.start("service", &["beat"]),
        }
    }

    fn log(&self) -> String {
        self.here.read("service.log")
    }

    fn store(&self) -> PathBuf {
        match self.whose {
            Whose::Up => self.here.path("data"),
            Whose::Beat => self.here.path("data/beat"),
        }
    }

    fn database(&self) -> fs::File {
        let file = fs::File::options()
            .write(true)
            .open(self.store().join("db"));
        file.unwrap()
    }

    fn remount(&self, options: &str) -> Result<(), String> {
        match &self.mounts {
            Some(mounts) => mounts.remount(&self.here.path("data"), options),
            None => Err("no mounts".to_owned()),
        }
    }

    /// Deletes the files of the store, and all that is beside them but what is to be kept.
    fn delete(&self, kept: &[&str]) {
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

    fn aside(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.store()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let is_aside = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("corrupt-")
        };
        paths.filter(is_aside).collect()
    }

    /// Ticks ran, and a job is paused, of which the service knows.
    fn live(&self) {
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

    fn ticks_go_on(&self, what: &str) {
        let before = self.here.lines("ticks").len();
        wait_for(&format!("{what}: {}", self.log()), || {
            (self.here.lines("ticks").len() > before + 1).then_some(())
        });
    }

    /// Submits runs that nobody executes until nothing more is stored; those that were accepted.
    fn submit_until_it_ends(&self, service: &mut Service) -> Vec<String> {
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

    fn has_stored(&self, accepted: &[String]) {
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
    fn is_well(&self, after: &str) {
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

    /// Every tick from the first to the last ran once.
    fn each_tick_ran_once(&self) {
        let executed = self.here.lines("ticks");
        let once: BTreeSet<_> = executed.iter().collect();
        assert_eq!(once.len(), executed.len(), "executed twice: {executed:#?}");
        let at = |id: &String| {
            let tick = id.split_once('@').unwrap().1;
            chrono::NaiveDateTime::parse_from_str(tick, "%Y%m%dT%H%M%SZ").unwrap()
        };
        let ticks: BTreeSet<_> = executed.iter().map(at).collect();
        let whole = *ticks.last().unwrap() - *ticks.first().unwrap();
        assert_eq!(
            ticks.len() as i64,
            whole.num_seconds() + 1,
            "a tick has no run: {executed:#?}"
        );
    }
}

fn contains_all(text: &str, place: &Path, words: &[&str]) -> bool {
    text.contains(&place.display().to_string()) && words.iter().all(|word| text.contains(word))
}

fn befallen_by_everything(whose: Whose) {
    let mut patient = Patient::new(whose, "64m");
    patient.live();
    for Misfortune { name, befall, then } in &MISFORTUNES {
        let asides = patient.aside().len();
        if let Err(reason) = befall(&mut patient) {
            skipped(&format!("{name} for {whose:?}"), &reason);
            continue;
        }
        let told = patient.log().len();
        let log = |patient: &Patient| patient.log().split_off(told);
        let mut service = patient.start();
        match *then {
            Then::SetAside => {
                patient.is_well(name);
                let words = ["the store is damaged", "it was set aside", "corrupt-"];
                let log = log(&patient);
                assert!(
                    contains_all(&log, &patient.store(), &words),
                    "{name}: {log}"
                );
                let aside = patient.aside();
                assert_eq!(aside.len(), asides + 1, "{name}");
                assert!(aside.iter().all(|aside| aside.join("db").exists()));
            }
            Then::Rebuilt => {
                patient.is_well(name);
                let log = log(&patient);
                if whose == Whose::Up {
                    assert!(log.contains("going on from a snapshot"), "{name}: {log}");
                }
            }
            Then::Missed(_, words, mend) if whose == Whose::Beat => {
                patient.is_well(name);
                wait_for("what it says", || {
                    contains_all(&log(&patient), &patient.store(), words).then_some(())
                });
                assert!(log(&patient).contains("beat goes on"));
                mend(&mut patient);
                wait_for("the copy", || {
                    log(&patient)
                        .contains("own copy is written again")
                        .then_some(())
                });
                patient.is_well(name);
                assert_eq!(patient.aside().len(), asides, "{name}: nothing was bad");
            }
            Then::Refused(code, words, mend) | Then::Missed(code, words, mend) => {
                let accepted = match then {
                    Then::Missed(..) => patient.submit_until_it_ends(&mut service),
                    _ => Vec::new(),
                };
                let ended = service.wait();
                let before = log(&patient);
                assert_eq!(ended.code(), Some(code), "{name}: {before}");
                assert!(
                    contains_all(&before, &patient.store(), words),
                    "{name}: {before}"
                );
                mend(&mut patient);
                service = patient.start();
                patient.is_well(name);
                assert_eq!(patient.aside().len(), asides, "{name}: nothing was bad");
                let after = log(&patient);
                assert!(!after.contains("the store is damaged"), "{name}: {after}");
                patient.has_stored(&accepted);
            }
        }
        assert!(service.stop().success(), "{name}");
    }
    patient.each_tick_ran_once();
}

#[test]
fn up_is_befallen_by_everything() {
    befallen_by_everything(Whose::Up);
}

#[test]
fn beat_is_befallen_by_everything() {
    befallen_by_everything(Whose::Beat);
}

#[test]
fn up_ends_when_its_directory_is_deleted_and_goes_on_from_what_it_saved() {
    let patient = Patient::new(Whose::Up, "64m");
    patient.live();
    let mut service = patient.start();
    patient.is_well("a start");
    patient.delete(&[]);
    let ended = service.wait();
    assert_eq!(ended.code(), Some(1), "{}", patient.log());
    let words = ["was deleted, moved or replaced", "start again"];
    let log = patient.log();
    assert!(contains_all(&log, &patient.store(), &words), "{log}");
    let service = patient.start();
    patient.is_well("its deletion");
    assert!(patient.log().contains("going on from a snapshot"));
    assert!(service.stop().success());
    patient.each_tick_ran_once();
}

#[test]
fn beat_goes_on_when_its_directory_is_deleted_and_makes_it_anew() {
    let mut patient = Patient::new(Whose::Beat, "64m");
    patient.live();
    let service = patient.start();
    patient.is_well("a start");
    patient.delete(&[]);
    wait_for("a new copy", || {
        patient
            .log()
            .contains("beat's own copy is written again")
            .then_some(())
    });
    let words = ["was deleted, moved or replaced", "beat goes on"];
    let log = patient.log();
    assert!(contains_all(&log, &patient.store(), &words), "{log}");
    patient.is_well("its deletion");
    the_copy_is_whole(&mut patient);
    assert!(service.stop().success());
    patient.each_tick_ran_once();
}

/// A broker that lost everything is filled again.
fn the_copy_is_whole(patient: &mut Patient) {
    let nats = patient._nats.as_mut().unwrap();
    nats.kill9();
    nats.wipe();
    nats.restart();
    patient.is_well("the loss of NATS");
}

/// A file system of 20 MB fills up while `up` is at work, and is enlarged.
#[test]
fn up_ends_when_the_disk_fills_up_and_goes_on_when_it_is_enlarged() {
    let mut patient = Patient::new(Whose::Up, "20m");
    if patient.mounts.is_none() {
        return;
    }
    patient.live();
    let mut service = patient.start();
    patient.is_well("a start");
    let accepted = patient.submit_until_it_ends(&mut service);
    assert!(accepted.len() > 1_000, "{}", accepted.len());
    println!("{} runs were accepted", accepted.len());
    let log = patient.log();
    assert_eq!(service.wait().code(), Some(1), "{log}");
    let words = ["the disk of", "is full", "make room"];
    assert!(contains_all(&log, &patient.store(), &words), "{log}");
    patient.remount("size=60m").unwrap();
    let service = patient.start();
    patient.is_well("more room");
    assert!(patient.aside().is_empty(), "nothing was bad");
    patient.has_stored(&accepted);
    assert!(service.stop().success());
    patient.each_tick_ran_once();
}

/// The same for the own copy of `beat`, which keeps on firing.
#[test]
fn beat_goes_on_when_the_disk_fills_up_and_when_it_is_enlarged() {
    let mut patient = Patient::new(Whose::Beat, "20m");
    if patient.mounts.is_none() {
        return;
    }
    // Their states change with every run, and fill the copy quickly.
    let anchored = |n: u32| {
        format!("[job.anchored-{n}]\nevery = \"1s\"\nanchor = \"last_start\"\nshell = \"true\"\n")
    };
    let anchored: String = (0..20).map(anchored).collect();
    patient.here.schedule("b.toml", &anchored);
    patient.live();
    let service = patient.start();
    patient.is_well("a start");
    fill(&patient.here.path("data/ballast"));
    wait_for("what it says", || {
        let words = ["the disk of", "is full", "make room", "beat goes on"];
        contains_all(&patient.log(), &patient.store(), &words).then_some(())
    });
    patient.is_well("the end of room");
    let again = || patient.log().contains("own copy is written again");
    assert!(!again(), "there is no room yet");
    patient.remount("size=60m").unwrap();
    wait_for("the copy", || again().then_some(()));
    patient.is_well("more room");
    assert!(patient.aside().is_empty(), "nothing was bad");
    the_copy_is_whole(&mut patient);
    assert!(service.stop().success());
    patient.each_tick_ran_once();
}
