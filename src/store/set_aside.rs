//! Moves damaged files out of the way, and never deletes them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tracing::error;

use super::{StoreError, generation};
use crate::clock;

/// Where damaged files are now, and what was wrong with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// The directory with them, in that of the store.
    pub directory: PathBuf,
    /// What was wrong.
    pub reason: String,
}

/// Which files are the store's.
fn is_of_the_store(name: &str) -> bool {
    matches!(name, "db" | "conf" | "blobs" | generation::FILE_NAME) || name.starts_with("snap.")
}

/// Moves the files of the store in `directory` to `corrupt-TIME` there. The generation is the last one: until it is
/// moved, what is left is noticed again, should this be cut off.
pub(super) fn set_aside(directory: &Path, damage: StoreError) -> Result<SetAside, StoreError> {
    let at = clock::now().format("%Y%m%dT%H%M%S%.3fZ");
    let aside = directory.join(format!("corrupt-{at}"));
    let move_all = || {
        fs::create_dir(&aside)?;
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            let name = entry?.file_name();
            if name.to_str().is_some_and(is_of_the_store) {
                names.push(name);
            }
        }
        names.sort_by_key(|name| name == generation::FILE_NAME);
        for name in names {
            fs::rename(directory.join(&name), aside.join(&name))?;
        }
        fs::File::open(&aside)?.sync_all()?;
        fs::File::open(directory)?.sync_all()
    };
    move_all()
        .map_err(|error| StoreError::from_io(directory, "moving damaged files away", &error))?;
    let reason = match damage {
        // Nobody has to mend it any more.
        StoreError::Damaged { reason, .. } => reason,
        other => other.to_string(),
    };
    error!(target: "orchestrator::store", directory = %directory.display(), reason, moved_to = %aside.display(),
        "the store is damaged: it was set aside, an empty one takes its place");
    Ok(SetAside {
        directory: aside,
        reason,
    })
}
