//! A control group for each run, where version 2 of them has been delegated to this worker.
//!
//! `BASE/orchestrator-FAMILY.N/TAG`: the directory of a worker is locked as long as the worker lives, so
//! that another one can tell what was left behind; that of a run is named by its [`Tag`], so that
//! whoever finds a process in it knows whose it is.

mod place;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, ErrorKind},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use tracing::{debug, info, warn};

pub use place::Cgroup;

use super::{
    ExecError, start,
    tree::{Family, Lineage, Tag},
};
use crate::{clock, job::ResourceLimits};

/// What precedes the name of a worker's family.
const PREFIX: &str = "orchestrator-";
/// How long the end of what was left behind is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

/// The groups of one worker.
#[derive(Debug)]
pub(super) struct Cgroups {
    /// That of the worker.
    directory: PathBuf,
    /// Held locked as long as the worker lives.
    _lock: File,
    controllers: Vec<&'static str>,
    /// Groups that could not be removed yet.
    left: Mutex<Vec<PathBuf>>,
}

impl Cgroups {
    /// Makes the group of this worker, and ends what dead workers left behind in theirs. `Err` says why there is
    /// none, which is an error only if it was asked for.
    pub(super) fn open(cgroup: &Cgroup) -> Result<Result<Arc<Self>, String>, ExecError> {
        let (base, asked_for) = match cgroup {
            Cgroup::Off => return Ok(Err("control groups are switched off".to_owned())),
            Cgroup::At(path) => (Ok(path.clone()), true),
            Cgroup::Auto => (place::delegated(), false),
        };
        match base.and_then(|base| Self::make(&base)?.tried()) {
            Ok(own) => {
                let own = Arc::new(own);
                info!(target: "orchestrator::exec", directory = %own.directory.display(),
                    limits = own.controllers.join(","), "each run has a control group");
                Ok(Ok(own))
            }
            Err(reason) if asked_for => Err(ExecError::Cgroup(reason)),
            Err(reason) => {
                debug!(target: "orchestrator::exec", reason, "runs have no control groups");
                Ok(Err(reason))
            }
        }
    }

    fn make(base: &Path) -> Result<Self, String> {
        if !base.join("cgroup.procs").exists() {
            let shown = base.display();
            return Err(format!("{shown} is not a control group of version 2"));
        }
        clear_left_behind(base);
        /// A process may have several executors.
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = base.join(format!("{PREFIX}{}.{count}", Family::own()));
        let at = |error: io::Error| format!("{}: {error}", directory.display());
        let lock = claim(&directory).map_err(at)?;
        if !directory.join("cgroup.kill").exists() {
            let _ = fs::remove_dir(&directory);
            return Err(
                "this kernel cannot end a control group as a whole (Linux 5.14 can)".to_owned(),
            );
        }
        let controllers = place::hand_on(base, &directory);
        let own = Self {
            directory,
            _lock: lock,
            controllers,
            left: Mutex::default(),
        };
        Ok(own)
    }

    /// Itself, if children can be started in its groups.
    fn tried(self) -> Result<Self, String> {
        let own = Arc::new(self);
        let tag = Lineage::begin().tag();
        let group = own.group(tag, None);
        let started = group.and_then(|group| start::may_start_in(group, tag));
        started.map_err(|error| {
            format!(
                "no process can be started in {}: {error}",
                own.directory.display()
            )
        })?;
        Arc::into_inner(own).ok_or_else(|| "a group of it is in use".to_owned())
    }

    /// Where the groups of the runs are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether a process that is killed for lack of memory can be told from others.
    pub(super) fn counts_memory(&self) -> bool {
        self.controllers.contains(&"memory")
    }

    /// Makes the group of a run.
    pub(super) fn group(
        self: &Arc<Self>,
        tag: Tag,
        limits: Option<ResourceLimits>,
    ) -> io::Result<Group> {
        let path = self.directory.join(tag.to_string());
        fs::create_dir(&path)?;
        // Dropped, and so removed, if anything fails from here on.
        let mut group = Group {
            owner: Arc::clone(self),
            directory: None,
            path,
            memory: limits.and_then(|limits| limits.memory),
            pids: limits.and_then(|limits| limits.pids),
            removed: false,
        };
        group.directory = Some(File::open(&group.path)?);
        if let Some(limits) = limits {
            group.limit(limits)?;
        }
        Ok(group)
    }

    /// Why runs with these limits cannot be executed.
    pub(super) fn lacks(&self, limits: ResourceLimits) -> Option<String> {
        let needed = limits.controllers();
        let missing: Vec<_> = needed
            .filter(|needed| !self.controllers.contains(needed))
            .collect();
        (!missing.is_empty()).then(|| {
            format!(
                "the control group {} has no controller for {}",
                self.directory.display(),
                missing.join(" and ")
            )
        })
    }

    /// Tries again to remove what could not be removed.
    pub(super) fn tend(&self) {
        self.left().retain(|path| {
            kill_all(path);
            !is_removed(path)
        });
    }

    fn left(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.tend();
        let _ = fs::remove_dir(&self.directory);
    }
}

/// The group of one run. Dropping it kills whoever is in it.
#[derive(Debug)]
pub(super) struct Group {
    owner: Arc<Cgroups>,
    directory: Option<File>,
    path: PathBuf,
    memory: Option<u64>,
    pids: Option<u32>,
    removed: bool,
}

impl Group {
    /// For a child that is to be started in it.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.directory.as_ref().map(AsFd::as_fd)
    }

    fn limit(&self, limits: ResourceLimits) -> io::Result<()> {
        let write = |file: &str, value: String| fs::write(self.path.join(file), value);
        if let Some(memory) = limits.memory {
            write("memory.max", memory.to_string())?;
            // A run that swaps is slower than one that is ended and told why. There may be no such file.
            let _ = write("memory.swap.max", "0".to_owned());
            // Half of a job is worth nothing.
            write("memory.oom.group", "1".to_owned())?;
        }
        if let Some(cpu) = limits.cpu {
            /// Over which time the share counts, in microseconds; the kernel's own default.
            const PERIOD: u32 = 100_000;
            write("cpu.max", format!("{} {PERIOD}", cpu.of(PERIOD)))?;
        }
        if let Some(pids) = limits.pids {
            write("pids.max", pids.to_string())?;
        }
        Ok(())
    }

    /// Whether the kernel killed any of its processes for lack of memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        self.owner.counts_memory() && self.count("memory.events", "oom_kill") > 0
    }

    /// How much memory the run was allowed, in bytes.
    pub(super) fn memory(&self) -> Option<u64> {
        self.memory
    }

    /// The number of processes that it was allowed, if it tried to have more.
    pub(super) fn wanted_more_pids(&self) -> Option<u32> {
        let pids = self.pids?;
        (self.count("pids.events", "max") > 0).then_some(pids)
    }

    fn count(&self, file: &str, name: &str) -> u64 {
        let text = fs::read_to_string(self.path.join(file)).unwrap_or_default();
        counted(&text, name)
    }

    /// Kills everybody who is in it.
    pub(super) fn kill(&self) {
        kill_all(&self.path);
    }

    /// Removes it, unless somebody is in it.
    pub(super) fn remove(&mut self) -> bool {
        self.removed = self.removed || is_removed(&self.path);
        self.removed
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.remove() {
            self.kill();
            self.owner.left().push(std::mem::take(&mut self.path));
        }
    }
}

/// Reads `name` in a file of counters, a name and a number in each line.
fn counted(text: &str, name: &str) -> u64 {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn kill_all(group: &Path) {
    match fs::write(group.join("cgroup.kill"), "1") {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => warn!(target: "orchestrator::exec", group = %group.display(), %error,
            "a control group cannot be killed"),
    }
}

/// Jobs may make groups in theirs.
fn is_removed(group: &Path) -> bool {
    match fs::remove_dir(group) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => true,
        Err(_) => {
            let inner: Vec<_> = directories(group).collect();
            !inner.is_empty()
                && inner.iter().all(|inner| is_removed(inner))
                && fs::remove_dir(group).is_ok()
        }
    }
}

/// Ends everything in the group of a worker that is gone, and removes it.
pub(super) fn clear(directory: &Path) {
    let start = clock::monotonic();
    kill_all(directory);
    while !is_removed(directory) && clock::monotonic() - start < PATIENCE {
        clock::pause(PAUSE);
        kill_all(directory);
    }
}

/// Ends what workers left behind that were killed together with their guardians.
fn clear_left_behind(base: &Path) {
    for directory in directories(base) {
        if is_of_a_worker(&directory)
            && let Ok(file) = File::open(&directory)
            && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            info!(target: "orchestrator::exec", directory = %directory.display(),
                "ending what a dead worker left behind");
            clear(&directory);
        }
    }
}

/// Makes a directory and locks it.
fn claim(directory: &Path) -> io::Result<File> {
    loop {
        match fs::create_dir(directory) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let file = File::open(directory)?;
        flock(&file, FlockOperation::LockExclusive)?;
        // Another worker may have taken it for left behind before it was locked.
        if directory.exists() {
            return Ok(file);
        }
    }
}

fn directories(group: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}

fn is_of_a_worker(directory: &Path) -> bool {
    let name = directory.file_name().and_then(OsStr::to_str);
    let rest = name.and_then(|name| name.strip_prefix(PREFIX)?.split_once('.'));
    rest.is_some_and(|(family, _)| family.parse::<Family>().is_ok())
}

/// Which run a process belongs to by its group: reads `/proc/PID/cgroup`.
pub(super) fn tag_in(groups: &str) -> Option<Tag> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut parts = path.rsplit('/');
    let mut inner = parts.next()?;
    for outer in parts {
        if outer.starts_with(PREFIX) {
            // The group of a zombie may have been removed already.
            return inner.split(' ').next()?.parse().ok();
        }
        inner = outer;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_their_whole_name() {
        let events = "low 0\nhigh 3\noom 2\noom_kill 1\noom_group_kill 7\n";
        for (name, expected) in [("oom", 2), ("oom_kill", 1), ("high", 3), ("max", 0)] {
            assert_eq!(counted(events, name), expected, "{name}");
        }
    }

    #[test]
    fn a_process_is_known_by_its_group() {
        let tag: Tag = "4f010203000000ff".parse().unwrap();
        let known = [
            "0::/orchestrator-4f01020300000000.1/4f010203000000ff\n",
            "9:pids:/\n0::/a.service/orchestrator-4f01020300000000.1/4f010203000000ff/inner\n",
            "0::/orchestrator-4f01020300000000.1/4f010203000000ff (deleted)\n",
        ];
        for text in known {
            assert_eq!(tag_in(text), Some(tag), "{text}");
        }
        for text in [
            "",
            "0::/\n",
            "0::/orchestrator-workers\n",
            "0::/x/4f010203000000ff\n",
        ] {
            assert_eq!(tag_in(text), None, "{text}");
        }
    }
}
