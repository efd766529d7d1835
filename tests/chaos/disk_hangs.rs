//! The disk of beat's own copy hangs: no call ends, and none fails. Ticks go on with the shared copy alone.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{
    EVERY_SECOND, Installation, checker,
    mounts::{Mounts, skipped},
    nats::NatsServer,
    wait_for,
};

/// A file system on which every write waits, until this is dropped.
struct Frozen(PathBuf);

fn freeze(option: &str, at: &Path) -> bool {
    let done = Command::new("fsfreeze").arg(option).arg(at).status();
    done.is_ok_and(|status| status.success())
}

impl Frozen {
    fn new(at: &Path) -> Option<Self> {
        freeze("--freeze", at).then(|| Self(at.to_owned()))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        freeze("--unfreeze", &self.0);
    }
}

#[test]
fn ticks_do_not_wait_for_it() {
    const WHAT: &str = "a disk that hangs";
    let Some(mut mounts) = Mounts::new(WHAT) else {
        return;
    };
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    let (image, disk) = (here.path("image"), here.path("disk"));
    std::fs::create_dir(&disk).unwrap();
    std::fs::File::create(&image)
        .unwrap()
        .set_len(32 << 20)
        .unwrap();
    let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status();
    let image = image.to_str().unwrap();
    if !made.is_ok_and(|status| status.success()) {
        return skipped(WHAT, "no mkfs.ext4");
    }
    if let Err(reason) = mounts.mount(&disk, &["-t", "ext4", "-o", "loop", image]) {
        return skipped(WHAT, &reason);
    }
    here.schedule("a.toml", EVERY_SECOND);
    let _worker = here.start("worker", &["worker", "--queue", "default"]);
    let own = disk.join("own").display().to_string();
    let beat = here.start("beat", &["beat", "--data-dir", &own]);
    let ticks = |what: &str| {
        let before = here.lines("ticks").len();
        wait_for(what, || {
            (here.lines("ticks").len() > before + 2).then_some(())
        });
    };
    ticks("the first runs");
    let Some(frozen) = Frozen::new(&disk) else {
        return skipped(WHAT, "no fsfreeze");
    };
    wait_for("beat to say so", || {
        beat.log().contains("nothing is confirmed").then_some(())
    });
    ticks("runs while it hangs");
    drop(frozen);
    wait_for("beat to write its copy again", || {
        beat.log()
            .contains("own copy is written again")
            .then_some(())
    });
    ticks("runs after it");
    assert!(beat.stop().success());
    checker::every_second_once(&here.lines("ticks"));
}
