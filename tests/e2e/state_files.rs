//! Where an export may go, and when an import is refused.

use std::{
    fs,
    io::Read,
    os::unix::fs::{FileTypeExt, MetadataExt, symlink},
};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::support::{Installation, mounts::skipped, nats::NatsServer, wait_for};

const JOBS: &str = "[job.none]\ncommand = [\"true\"]\n";
const BEGIN: &[u8] = b"orchestrator-state crc32c=";

fn text(here: &Installation, name: &str) -> String {
    here.path(name).display().to_string()
}

fn exports(here: &Installation, name: &str) {
    let ended = here.run(&["state", "export", &text(here, name)]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

fn is_an_export(here: &Installation, name: &str) {
    let bytes = fs::read(here.path(name)).unwrap();
    assert!(bytes.starts_with(BEGIN), "{name}");
}

#[test]
fn an_export_replaces_files_alone() {
    let here = Installation::new();
    here.schedule("a.toml", JOBS);
    let _up = here.up(&[]);

    // A link stays, and what it points to is replaced; one that points to nothing gets its file.
    fs::write(here.path("kept"), "old").unwrap();
    symlink("kept", here.path("link")).unwrap();
    symlink(here.path("new"), here.path("dangling")).unwrap();
    for (link, target) in [("link", "kept"), ("dangling", "new")] {
        exports(&here, link);
        let found = fs::symlink_metadata(here.path(link)).unwrap();
        assert!(found.is_symlink(), "{link}");
        is_an_export(&here, target);
        let mode = fs::metadata(here.path(target)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{target}");
    }

    // Somebody laid a trap, or one that was killed left a part behind.
    fs::write(here.path("victim"), "precious").unwrap();
    symlink("victim", here.path("copy.partial")).unwrap();
    exports(&here, "copy");
    assert_eq!(here.read("victim"), "precious");
    fs::write(here.path("copy.partial"), "a part").unwrap();
    exports(&here, "copy");
    is_an_export(&here, "copy");
    assert!(!here.path("copy.partial").exists());

    // A pipe is written to.
    mknodat(
        CWD,
        here.path("pipe"),
        FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .unwrap();
    let pipe = here.path("pipe");
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        fs::File::open(pipe)
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    });
    exports(&here, "pipe");
    assert!(reading.join().unwrap().starts_with(BEGIN));
    let found = fs::symlink_metadata(here.path("pipe")).unwrap();
    assert!(found.file_type().is_fifo());
    for name in ["/dev/stdout", "/proc/self/fd/1"] {
        let piped = here.bytes(&["state", "export", name]);
        assert!(piped.starts_with(BEGIN), "{name}");
    }
}

#[test]
fn an_export_leaves_a_device_what_it_is() {
    let here = Installation::new();
    // As /dev/null.
    let device = here.path("null");
    let made = mknodat(
        CWD,
        &device,
        FileType::CharacterDevice,
        Mode::RUSR | Mode::WUSR,
        makedev(1, 3),
    );
    let opened = made.map_err(std::io::Error::from);
    let opened = opened.and_then(|()| fs::File::options().append(true).open(&device));
    if let Err(error) = opened {
        return skipped("a device", &error.to_string());
    }
    here.schedule("a.toml", JOBS);
    let _up = here.up(&[]);
    exports(&here, "null");
    let found = fs::symlink_metadata(&device).unwrap();
    assert!(found.file_type().is_char_device());
    assert!(!here.path("null.partial").exists());
}

#[test]
fn an_import_beside_a_beat_is_refused() {
    let nats = NatsServer::start();
    let on_nats = Installation::on_nats(&nats.url());
    let alone = Installation::new();
    let imports =
        |here: &Installation| here.run(&["state", "import", &text(here, "state"), "--replace"]);
    let is_refused = |here: &Installation| {
        wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
        exports(here, "state");
        let refused = imports(here);
        assert_eq!(refused.code, 7, "{}", refused.stderr);
        assert!(
            refused.stderr.contains("is at work on"),
            "{}",
            refused.stderr
        );
        assert!(
            refused.stderr.contains("stop all beats"),
            "{}",
            refused.stderr
        );
    };
    alone.schedule("a.toml", JOBS);
    let up = alone.up(&[]);
    is_refused(&alone);
    assert!(up.stop().success());

    on_nats.schedule("a.toml", JOBS);
    let beat = on_nats.start("beat", &["beat"]);
    is_refused(&on_nats);
    // One that was stopped says so; one that was killed is gone when its lease is over.
    assert!(beat.stop().success());
    let imported = imports(&on_nats);
    assert_eq!(imported.code, 0, "{}", imported.stderr);
    let beat = on_nats.start("beat", &["beat", "--data-dir", &text(&on_nats, "other")]);
    wait_for("the beat to lead", || {
        beat.log().contains("\"leading\"").then_some(())
    });
    is_refused(&on_nats);
    beat.kill9();
    wait_for("the end of its lease", || {
        (imports(&on_nats).code == 0).then_some(())
    });
}
