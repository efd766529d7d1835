//! Finds and ends the processes of a job that left its process group.
//!
//! This process adopts the orphans among its descendants (`PR_SET_CHILD_SUBREAPER`), so a daemon of
//! a job becomes its child. Whose daemon it is tells a [`Tag`]: the soft limit on file locks, which
//! Linux hands down through fork, setsid and exec and has not enforced since 2.4. Only processes
//! with a tag are touched. `docs/decisions/0009-lineage-by-limit.md` says why.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    os::unix::fs::FileExt,
    str::FromStr,
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid},
};
use tracing::warn;

use super::cgroup::{self, Group};
use crate::clock;

/// How long the end of the last process of a run is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first and the longest pause between two looks.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// The first byte of every tag.
const MAGIC: u64 = 0x4f << 56;
/// How many bits count the runs of one process.
const COUNTER_BITS: u32 = 32;

/// What the processes of one run have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Tag(pub(super) u64);

/// What the processes of all runs of one worker have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family(u64);

/// The family of this process: there is one, however many executors there are, because orphans are
/// adopted by the process.
static OWN: LazyLock<Own> = LazyLock::new(Own::new);

#[derive(Debug)]
struct Own {
    family: Family,
    runs: AtomicU32,
    live: Mutex<HashSet<Tag>>,
    helpers: Mutex<HashSet<Pid>>,
}

impl Own {
    fn new() -> Self {
        let [.., a, b, c] = *uuid::Uuid::new_v4().as_bytes();
        let instance = u64::from(u32::from_be_bytes([0, a, b, c]));
        Self {
            family: Family(MAGIC | instance << COUNTER_BITS),
            runs: AtomicU32::new(0),
            live: Mutex::default(),
            helpers: Mutex::default(),
        }
    }

    fn helpers(&self) -> MutexGuard<'_, HashSet<Pid>> {
        self.helpers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, HashSet<Tag>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Family {
    /// That of this process.
    pub fn own() -> Self {
        OWN.family
    }

    pub(super) fn includes(self, tag: Tag) -> bool {
        tag.0 >> COUNTER_BITS == self.0 >> COUNTER_BITS
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Family {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let tag: Result<Tag, _> = text.parse();
        tag.map(|Tag(family)| Self(family))
            .map_err(|_| format!("`{text}` does not name the processes of a worker"))
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = u64::from_str_radix(text, 16).ok();
        number
            .filter(|number| Self::is_one(*number))
            .map(Self)
            .ok_or_else(|| format!("`{text}` does not name the processes of a run"))
    }
}

impl Tag {
    fn is_one(number: u64) -> bool {
        number >> 56 == MAGIC >> 56
    }
}

/// A child of this process that is no job, until it is dropped: it is not looked at.
#[derive(Debug)]
pub(super) struct Helper(Pid);

impl Helper {
    pub(super) fn known(pid: Pid) -> Self {
        OWN.helpers().insert(pid);
        Self(pid)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        OWN.helpers().remove(&self.0);
    }
}

/// The processes of one run, from before its first one is started until it is dropped.
#[derive(Debug)]
pub(super) struct Lineage(Tag);

impl Lineage {
    pub(super) fn begin() -> Self {
        let tag = Tag(OWN.family.0 | u64::from(OWN.runs.fetch_add(1, Ordering::Relaxed)));
        OWN.live().insert(tag);
        Self(tag)
    }

    pub(super) fn tag(&self) -> Tag {
        self.0
    }

    /// The daemons of the run that are alive.
    pub(super) fn strays(&self) -> Vec<Pid> {
        let own = |(pid, tag): (Pid, Tag)| (tag == self.0).then_some(pid);
        orphans().filter_map(own).collect()
    }

    /// Ends what is left of the run: all of its control group if it has one; otherwise its daemons,
    /// whose children are the next ones.
    pub(super) async fn clear(&self, mut group: Option<&mut Group>) {
        let start = clock::monotonic();
        let (mut pause, longest) = PAUSE;
        loop {
            let mut is_removed = || group.as_mut().is_none_or(|group| group.remove());
            let strays = self.strays();
            if strays.is_empty() && is_removed() {
                return;
            }
            if let Some(group) = &group {
                group.kill();
            }
            for &stray in &strays {
                signal(stray, Signal::KILL);
            }
            if clock::monotonic() - start > PATIENCE {
                warn!(target: "orchestrator::exec", processes = ?strays,
                    "processes of a job do not end although they were killed");
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
}

impl Drop for Lineage {
    fn drop(&mut self) {
        // What is left of it is ended by [`end_unwanted`].
        OWN.live().remove(&self.0);
    }
}

/// Makes this process the one that adopts the orphans among its descendants.
pub(super) fn adopt_orphans() {
    // Linux has known this since 3.4. Where it is refused, orphans go to the first process, and the
    // guardian still finds them.
    if let Err(error) = set_child_subreaper(Some(rustix::process::getpid())) {
        warn!(target: "orchestrator::exec", %error,
            "daemons that jobs leave behind cannot be adopted");
    }
}

/// Ends orphans that no run asks for any more, and reaps those that ended by themselves.
pub(super) fn end_unwanted() {
    /// When orphans from workers below this one were first seen, told by the runs of then.
    static FOREIGN: LazyLock<Mutex<HashMap<Pid, HashSet<Tag>>>> = LazyLock::new(Mutex::default);
    let mut foreign = FOREIGN.lock().unwrap_or_else(PoisonError::into_inner);
    let orphans: Vec<_> = orphans().collect();
    foreign.retain(|pid, _| orphans.iter().any(|(orphan, _)| orphan == pid));
    let live = OWN.live();
    for (pid, tag) in orphans {
        if !is_wanted(pid, tag, &live, &mut foreign) {
            signal(pid, Signal::KILL);
        }
    }
}

/// Whether an orphan may still be of use. One whose tag is that of a worker below this one, started by
/// a job, is, as long as any of the runs goes on that went on when it was first seen.
fn is_wanted(
    pid: Pid,
    tag: Tag,
    live: &HashSet<Tag>,
    foreign: &mut HashMap<Pid, HashSet<Tag>>,
) -> bool {
    if OWN.family.includes(tag) {
        return live.contains(&tag);
    }
    let hosts = foreign.entry(pid).or_insert_with(|| live.clone());
    hosts.retain(|host| live.contains(host));
    !hosts.is_empty()
}

/// The children of this process that carry a tag, and are neither its own jobs nor ended: those that
/// have ended are reaped on the way.
fn orphans() -> impl Iterator<Item = (Pid, Tag)> {
    let adopted = adopted();
    let helpers = match adopted.is_empty() {
        true => HashSet::new(),
        false => OWN.helpers().clone(),
    };
    let strangers = adopted
        .into_iter()
        .filter(move |pid| !helpers.contains(pid));
    strangers.filter_map(|pid| {
        let tag = tag_of(pid)?;
        let ended = waitpid(Some(pid), WaitOptions::NOHANG);
        matches!(ended, Ok(None)).then_some((pid, tag))
    })
}

/// The kernel gives orphans to the main thread; jobs are started by other ones.
fn adopted() -> Vec<Pid> {
    /// Kept open: it is read at the end of each run. A kernel without this file has none.
    static CHILDREN: LazyLock<Option<File>> = LazyLock::new(|| {
        let own = rustix::process::getpid().as_raw_nonzero();
        File::open(format!("/proc/{own}/task/{own}/children")).ok()
    });
    let mut list = Vec::new();
    let mut part = [0; 512];
    while let Some(children) = &*CHILDREN
        && let Ok(count @ 1..) = children.read_at(&mut part, list.len() as u64)
    {
        list.extend_from_slice(&part[..count]);
    }
    let list = String::from_utf8_lossy(&list);
    list.split_ascii_whitespace().filter_map(pid).collect()
}

/// Sends a signal to an orphan. It is a child of this process and was not reaped: its id is its own.
pub(super) fn signal(pid: Pid, signal: Signal) {
    match kill_process(pid, signal) {
        // EPERM: it has changed its user and is beyond the worker's rights.
        Ok(()) | Err(Errno::SRCH | Errno::PERM) => {}
        Err(error) => {
            warn!(target: "orchestrator::exec", %error, "cannot signal a process of a job")
        }
    }
}

/// Every process of the machine whose tag is wanted.
pub(super) fn tagged(wanted: impl Fn(Tag) -> bool) -> impl Iterator<Item = Pid> {
    processes().filter(move |pid| tag_of(*pid).is_some_and(&wanted))
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| pid(entry.ok()?.file_name().to_str()?))
}

fn pid(text: &str) -> Option<Pid> {
    Pid::from_raw(text.parse().ok()?)
}

/// By its limit; if it has changed that, by its control group.
pub(super) fn tag_of(pid: Pid) -> Option<Tag> {
    let read = |file: &str| {
        let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
        fs::read_to_string(path).unwrap_or_default()
    };
    tag_in(&read("limits")).or_else(|| cgroup::tag_in(&read("cgroup")))
}

/// Whether a process can be looked at: those of other users may be hidden.
pub(super) fn is_seen(pid: Pid) -> bool {
    fs::read(format!("/proc/{}/limits", pid.as_raw_nonzero())).is_ok()
}

/// Reads `/proc/PID/limits`.
fn tag_in(limits: &str) -> Option<Tag> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max file locks"))?;
    let soft = line.split_ascii_whitespace().next()?.parse().ok()?;
    Tag::is_one(soft).then_some(Tag(soft))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_told_from_a_limit() {
        let limits = |locks: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max cpu time              unlimited            unlimited            seconds   \n\
                 Max file locks            {locks:<20} unlimited            locks     \n"
            )
        };
        let tag = Lineage::begin().tag();
        assert_eq!(tag_in(&limits(&tag.0.to_string())), Some(tag));
        for other in ["unlimited", "0", "1024", ""] {
            assert_eq!(tag_in(&limits(other)), None, "{other}");
        }
        assert_eq!(tag_in(""), None);
    }

    #[test]
    fn a_family_includes_its_own_tags_only() {
        let tag = Lineage::begin().tag();
        assert!(Family::own().includes(tag));
        assert!(!Family::own().includes(Tag(tag.0 ^ (1 << COUNTER_BITS))));
        let text = Family::own().to_string();
        assert_eq!(text.parse(), Ok(Family::own()));
        for bad in ["", "x", "0", "ffffffffffffffff"] {
            assert!(bad.parse::<Family>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_orphan_is_wanted_as_long_as_its_run() {
        let mut foreign = HashMap::new();
        let pid = rustix::process::getpid();
        let [run, later] = [1, 2].map(|count| Tag(Family::own().0 | count));
        let below = Tag(run.0 ^ (1 << COUNTER_BITS));
        let live = HashSet::from([run]);
        assert!(is_wanted(pid, run, &live, &mut foreign));
        assert!(is_wanted(pid, below, &live, &mut foreign));
        let live = HashSet::from([later]);
        assert!(!is_wanted(pid, run, &live, &mut foreign));
        assert!(!is_wanted(pid, below, &live, &mut foreign));
    }
}
