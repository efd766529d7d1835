//! What `doctor` finds on the machine that asks: room on the disk, files that others can read, limits.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::{
    fs::{Access, access},
    process::{Resource, getrlimit},
};

use super::Finding;

/// Files that a service needs at least to open at once: a run holds about eight.
const FILES: u64 = 1024;

/// How much room is left in a data directory; `None` if there is none.
pub fn room_on_disk(data_dir: &Path) -> Option<Finding> {
    const MB: u64 = 1 << 20;
    let disk = rustix::fs::statvfs(data_dir).ok()?;
    let (free, whole) = (
        disk.f_bavail.saturating_mul(disk.f_frsize) / MB,
        disk.f_blocks.saturating_mul(disk.f_frsize) / MB,
    );
    let message = format!("{free} MB of {whole} MB are free in {}", data_dir.display());
    let is_little = free < 100 || free.saturating_mul(20) < whole;
    Some(match is_little {
        false => Finding::ok("disk", message),
        true => Finding::warning("disk", message)
            .with_help("make room: what cannot be written down is not run"),
    })
}

/// Whether a data directory is its owner's alone, and can be written to; `None` if there is none.
pub fn data_directory(data_dir: &Path) -> Option<Finding> {
    let shown = data_dir.display();
    let found = match fs::metadata(data_dir) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            let message = format!("{shown} cannot be looked at: {error}");
            let help = "ask as root, or as the user of the service";
            return Some(Finding::warning("permissions", message).with_help(help));
        }
    };
    if is_open(&found) {
        let message =
            format!("others can get into {shown}, where arguments and outputs of jobs are");
        let help = format!("chmod 700 {shown}");
        return Some(Finding::warning("permissions", message).with_help(help));
    }
    if access(data_dir, Access::WRITE_OK).is_err() {
        let message = format!("{shown} cannot be written to by this user");
        let help = "ask as the user of the service; else the owner of the directory, or its file system, is wrong";
        return Some(Finding::warning("permissions", message).with_help(help));
    }
    Some(Finding::ok(
        "permissions",
        format!("{shown} is its owner's alone"),
    ))
}

/// A file of credentials that everybody can read. Its group may: that is how a service without privileges is given one.
pub fn open_secret(what: &str, path: &Path) -> Option<Finding> {
    let found = fs::metadata(path).ok()?;
    let (shown, is_readable) = (path.display(), found.mode() & 0o004 != 0);
    is_readable.then(|| {
        let message = format!("everybody can read {shown}, which {what} names");
        Finding::failed("permissions", message).with_help(format!("chmod 600 {shown}"))
    })
}

fn is_open(found: &Metadata) -> bool {
    found.mode() & 0o077 != 0
}

/// How many files a service that is started from here may open.
pub fn open_files() -> Finding {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < FILES => {
            let message = format!("{limit} files may be open at once");
            let help = "a run takes about eight: `ulimit -n 65536`, or LimitNOFILE= in the unit";
            Finding::warning("limits", message).with_help(help)
        }
        Some(limit) => Finding::ok("limits", format!("{limit} files may be open at once")),
        None => Finding::ok("limits", "files may be open without a limit"),
    }
}
