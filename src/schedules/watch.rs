//! Says when schedule files have changed.
//!
//! The file system's events make it quick; looking every few seconds makes it sure, because a
//! directory that is replaced (a deploy that swaps a symbolic link, an editor that renames) takes its
//! events with it. Content that is the same is no change.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    time::Duration,
};

use notify_debouncer_full::{
    DebounceEventResult, Debouncer, RecommendedCache, new_debouncer,
    notify::{
        self, EventKind, RecommendedWatcher, RecursiveMode,
        event::{AccessKind, AccessMode},
    },
};
use thiserror::Error;
use tokio::sync::mpsc;

use super::files;

/// Changes that follow each other this closely are one.
const SETTLE: Duration = Duration::from_millis(200);

/// How often the files are looked at without an event.
const LOOK: Duration = Duration::from_secs(5);

/// Why files cannot be watched.
#[derive(Debug, Error)]
pub enum WatchError {
    /// The system's notification cannot be used.
    #[error("schedule files cannot be watched: {0}")]
    Notify(#[from] notify::Error),
}

/// Watches schedule files. Ends when dropped.
#[derive(Debug)]
pub struct Watch {
    paths: Vec<PathBuf>,
    events: mpsc::Receiver<()>,
    debouncer: Debouncer<RecommendedWatcher, RecommendedCache>,
    seen: Seen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    stamps: u64,
    content: u64,
}

/// Why it is time to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Event,
    Time,
}

/// Watches the given files and directories; what they hold now counts as known.
pub fn watch(paths: &[PathBuf]) -> Result<Watch, WatchError> {
    let (sender, events) = mpsc::channel(1);
    let debouncer = new_debouncer(SETTLE, None, move |result| {
        if matters(&result) {
            // A signal that still waits to be taken stands for this one too.
            let _ = sender.try_send(());
        }
    })?;
    let mut watch = Watch {
        paths: paths.to_vec(),
        events,
        debouncer,
        seen: Seen {
            stamps: stamps(paths),
            content: fingerprint(paths),
        },
    };
    watch.attach();
    Ok(watch)
}

/// Whether files may have changed: not if they were only read, which we do ourselves.
fn matters(result: &DebounceEventResult) -> bool {
    let Ok(events) = result else {
        return true;
    };
    events.iter().any(|event| match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    })
}

impl Watch {
    /// Waits until the content of the files differs from what it was at the last return, or at the
    /// start. May be dropped and called again at any time.
    pub async fn changed(&mut self) {
        loop {
            let event = self.event_or_time().await;
            let stamps = self.blocking(stamps, self.seen.stamps).await;
            if event == Cause::Time && stamps == self.seen.stamps {
                continue;
            }
            let content = self.blocking(fingerprint, self.seen.content).await;
            if stamps != self.seen.stamps {
                self.attach();
            }
            let changed = content != self.seen.content;
            self.seen = Seen { stamps, content };
            if changed {
                return;
            }
        }
    }

    async fn event_or_time(&mut self) -> Cause {
        let until = tokio::time::Instant::now() + LOOK;
        match tokio::time::timeout_at(until, self.events.recv()).await {
            Ok(Some(())) => Cause::Event,
            Ok(None) => {
                // The watching thread is gone: only looking is left.
                tokio::time::sleep_until(until).await;
                Cause::Time
            }
            Err(_) => Cause::Time,
        }
    }

    /// Reads the disk off the async threads; `known` stands in if the runtime is ending.
    async fn blocking(&self, look: fn(&[PathBuf]) -> u64, known: u64) -> u64 {
        let paths = self.paths.clone();
        let looked = tokio::task::spawn_blocking(move || look(&paths)).await;
        looked.unwrap_or(known)
    }

    /// Asks for events; also again, after a directory was replaced. What is not there cannot be
    /// watched: looking finds it when it comes.
    fn attach(&mut self) {
        for path in &self.paths {
            let _ = self.debouncer.unwatch(path);
            let _ = self.debouncer.watch(path, RecursiveMode::NonRecursive);
        }
    }
}

/// A number that differs, in practice, where the names or the content of the files differ.
pub fn fingerprint(paths: &[PathBuf]) -> u64 {
    digest(paths, |file, hasher| fs::read(file).ok().hash(hasher))
}

/// As [`fingerprint`], from sizes and times alone.
fn stamps(paths: &[PathBuf]) -> u64 {
    use std::os::unix::fs::MetadataExt;
    digest(paths, |file, hasher| {
        let stamp = fs::metadata(file).ok().map(|metadata| {
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            (metadata.dev(), metadata.ino(), metadata.len(), changed)
        });
        stamp.hash(hasher);
    })
}

fn digest(paths: &[PathBuf], add: impl Fn(&PathBuf, &mut DefaultHasher)) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        let files = match path.is_dir() {
            true => files::list(path).unwrap_or_default(),
            false => vec![path.clone()],
        };
        for file in files {
            file.hash(&mut hasher);
            add(&file, &mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reading_is_no_event_and_writing_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        fs::write(&file, "# 1").unwrap();
        let mut watch = watch(&[dir.path().to_owned()]).unwrap();
        for _ in 0..3 {
            fs::read(&file).unwrap();
        }
        let none = tokio::time::timeout(SETTLE * 4, watch.events.recv()).await;
        assert!(none.is_err(), "{none:?}");
        fs::write(&file, "# 2").unwrap();
        let some = tokio::time::timeout(SETTLE * 50, watch.events.recv()).await;
        assert_eq!(some, Ok(Some(())));
    }
}
