//! What can befall a data directory, for `up` on its embedded broker and for `beat` on NATS alike: each is told in
//! one message that names thing, place and mend, what is bad is set aside, and no tick runs twice.

#[path = "damage/patient.rs"]
mod patient;

use std::{fs, os::unix::fs::FileExt};

use crate::support::{
    mounts::{fill, skipped},
    wait_for,
};
use patient::{Patient, Whose, contains_all};

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
            // Before that the other one might be faster.
            patient.ticks_go_on("ticks of the one that holds it");
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
                assert!(
                    !log.contains("move the directory away"),
                    "nobody need: {log}"
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
    patient.refills_a_broker();
    assert!(service.stop().success());
    patient.each_tick_ran_once();
}

/// A file system of 20 MB fills up while `up` is at work, and is enlarged.
#[test]
fn up_ends_when_the_disk_fills_up_and_goes_on_when_it_is_enlarged() {
    let patient = Patient::new(Whose::Up, "20m");
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
    patient.refills_a_broker();
    assert!(service.stop().success());
    patient.each_tick_ran_once();
}
