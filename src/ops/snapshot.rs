//! Snapshots of an installation in a directory: the newest three, each whole or not there at all.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use chrono::SecondsFormat;
use tracing::{error, warn};

use super::InstallationState;

/// How many are kept.
const KEPT: usize = 3;
const PREFIX: &str = "state-";
const SUFFIX: &str = ".snapshot";
const PARTIAL: &str = ".partial";

/// Writes a snapshot and removes those that are too many. What another try left unfinished goes first: it may be
/// what fills the disk.
pub fn write_snapshot(directory: &Path, state: &InstallationState) -> io::Result<PathBuf> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    for unfinished in named(directory, PARTIAL)? {
        fs::remove_file(unfinished)?;
    }
    let at = state
        .exported_at
        .to_rfc3339_opts(SecondsFormat::Millis, true);
    let path = directory.join(format!("{PREFIX}{}{SUFFIX}", at.replace(':', "")));
    let partial = path.with_extension(&PARTIAL[1..]);
    let bytes = state.encode().map_err(io::Error::other)?;
    if let Err(error) = write_whole(&partial, &bytes) {
        // What there is of it takes room, and is of no use.
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    fs::rename(&partial, &path)?;
    File::open(directory)?.sync_all()?;
    for old in newest_first(directory)?.into_iter().skip(KEPT) {
        fs::remove_file(old)?;
    }
    Ok(path)
}

/// The newest snapshot that is whole.
pub fn read_snapshot(directory: &Path) -> io::Result<Option<(PathBuf, InstallationState)>> {
    let snapshots = match newest_first(directory) {
        Ok(snapshots) => snapshots,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let any = !snapshots.is_empty();
    for path in snapshots {
        match InstallationState::decode(&fs::read(&path)?) {
            Ok(state) => return Ok(Some((path, state))),
            Err(reason) => warn!(target: "orchestrator::state", path = %path.display(), %reason,
                "a snapshot is passed over"),
        }
    }
    if any {
        error!(target: "orchestrator::state", directory = %directory.display(),
            "no snapshot is whole: the schedule begins anew, without pauses and what waited; if there is a whole one \
             elsewhere, stop this, remove the store, and put that one here");
    }
    Ok(None)
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// By their names, which tell their times.
fn newest_first(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = named(directory, SUFFIX)?;
    found.sort();
    found.reverse();
    Ok(found)
}

fn named(directory: &Path, suffix: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(suffix)) {
            found.push(path);
        }
    }
    Ok(found)
}
