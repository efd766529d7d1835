//! Ends the processes of a worker's jobs when the worker itself cannot.
//!
//! The kernel ends the program of a job together with its worker (the parent-death signal), but not
//! what that program started. So each worker has a small process beside it that holds one end of a
//! pipe: when the worker is gone, however it went, the pipe is closed, and the guardian kills every
//! process that carries the worker's tag. And a job that must not go on without its lease has to end
//! in time even if its worker is frozen: the worker tells the guardian until when each of those jobs
//! is good, again with every renewal.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    process::{
        Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open, pidfd_send_signal,
        setrlimit, setsid,
    },
};
use tracing::warn;

use super::{
    cgroup,
    tree::{Family, Helper, Tag, tag_of, tagged},
};
use crate::clock;

/// How long a guardian goes on killing what does not end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at all processes.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two looks that are not expected to find any.
const LATER: Duration = Duration::from_millis(250);

/// What a worker writes into the pipe: a tag, and the uptime in milliseconds until which its processes
/// may live; 0: until further notice. Small enough to be written at once.
const WORD: usize = 16;

/// The worker's side: the guardian that runs now.
#[derive(Debug)]
pub(super) struct Guardian {
    executable: PathBuf,
    group: Option<PathBuf>,
    child: Child,
    /// Held as long as it may run.
    #[allow(dead_code, reason = "what counts is that it is held")]
    helper: Option<Helper>,
}

impl Guardian {
    /// Starts `executable` as `executable guardian FAMILY [GROUP]`.
    pub(super) fn start(executable: &Path, group: Option<&Path>) -> io::Result<Self> {
        let child = spawn(executable, group)?;
        Ok(Self {
            executable: executable.to_owned(),
            group: group.map(Path::to_owned),
            helper: helper(&child),
            child,
        })
    }

    /// Starts another one if it was killed.
    pub(super) fn keep(&mut self) {
        match self.child.try_wait() {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => match spawn(&self.executable, self.group.as_deref()) {
                Ok(child) => {
                    self.helper = helper(&child);
                    self.child = child;
                }
                Err(error) => warn!(target: "orchestrator::exec", %error,
                    "no guardian: if this worker is killed, processes of its jobs may stay"),
            },
        }
    }

    /// Has the processes with this tag killed at `deadline` ([`clock::uptime`]), unless it is told
    /// otherwise before.
    pub(super) fn tell(&mut self, tag: Tag, deadline: Option<Duration>) {
        let deadline = deadline.map_or(0, milliseconds);
        let mut word = [0; WORD];
        word[..8].copy_from_slice(&tag.0.to_ne_bytes());
        word[8..].copy_from_slice(&deadline.to_ne_bytes());
        let told = match &mut self.child.stdin {
            Some(pipe) => pipe.write_all(&word),
            None => Ok(()),
        };
        if let Err(error) = told {
            warn!(target: "orchestrator::exec", %error,
                "the guardian does not listen: if this worker is frozen, a job may outlive its lease");
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends once it has found nothing.
        let _ = self.child.wait();
    }
}

fn helper(child: &Child) -> Option<Helper> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.map(Helper::known)
}

fn spawn(executable: &Path, group: Option<&Path>) -> io::Result<Child> {
    let child = Command::new(executable)
        .args(["guardian", &Family::own().to_string()])
        .args(group)
        .current_dir("/")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(pipe) = &child.stdin {
        // A guardian that is stuck must not hold its worker.
        fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
    }
    Ok(child)
}

/// The guardian's side. Ends what has outlived its deadline until standard input is closed, then the
/// whole family, and removes the worker's control group if it has one.
pub fn guard(family: Family, group: Option<&Path>) -> io::Result<()> {
    // Not to be ended with the worker's session, nor taken for a process of a job if the worker is
    // one itself.
    let _ = setsid();
    let limit = getrlimit(Resource::Locks);
    let _ = setrlimit(
        Resource::Locks,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
    watch(family)?;
    if let Some(group) = group {
        cgroup::clear(group);
    }
    let start = clock::monotonic();
    while kill_all(|tag| family.includes(tag)) && clock::monotonic() - start < PATIENCE {
        clock::pause(PAUSE);
    }
    Ok(())
}

/// Until the worker is gone.
fn watch(family: Family) -> io::Result<()> {
    let mut deadlines = Deadlines::default();
    let mut words = Words::default();
    let mut input = io::stdin().lock();
    loop {
        let now = clock::uptime();
        let due = deadlines.due(now);
        let again = match due.is_empty() {
            true => None,
            // Their children are the next ones, or one that is being started just now.
            false => Some(
                match kill_all(|tag| family.includes(tag) && due.contains(&tag)) {
                    true => PAUSE,
                    false => LATER,
                },
            ),
        };
        let wait = deadlines.next(now).map(|next| next.saturating_sub(now));
        let wait = again.into_iter().chain(wait).min();
        let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
        let mut readable = [PollFd::new(&input, PollFlags::IN)];
        match poll(&mut readable, wait.as_ref()) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut bytes = [0; WORD * 256];
        match input.read(&mut bytes)? {
            0 => return Ok(()),
            count => words.read(&bytes[..count], |tag, until| deadlines.set(tag, until)),
        }
    }
}

/// Until when the processes of some runs may live.
#[derive(Debug, Default)]
struct Deadlines(BTreeMap<Tag, u64>);

impl Deadlines {
    fn set(&mut self, tag: Tag, until: u64) {
        match until {
            0 => self.0.remove(&tag),
            until => self.0.insert(tag, until),
        };
    }

    /// Those whose time is over, until they are set anew.
    fn due(&self, now: Duration) -> Vec<Tag> {
        let now = milliseconds(now);
        let over = self.0.iter().filter(|(_, until)| **until <= now);
        over.map(|(tag, _)| *tag).collect()
    }

    /// When the next one will be due.
    fn next(&self, now: Duration) -> Option<Duration> {
        let now = milliseconds(now);
        let later = self.0.values().copied().filter(|until| *until > now);
        later.min().map(Duration::from_millis)
    }
}

/// Puts words together that were read in pieces.
#[derive(Debug, Default)]
struct Words(Vec<u8>);

impl Words {
    fn read(&mut self, bytes: &[u8], mut word: impl FnMut(Tag, u64)) {
        self.0.extend_from_slice(bytes);
        let whole = self.0.len() - self.0.len() % WORD;
        for bytes in self.0[..whole].chunks_exact(WORD) {
            let number = |half: &[u8]| half.try_into().map_or(0, u64::from_ne_bytes);
            let (tag, until) = bytes.split_at(WORD / 2);
            word(Tag(number(tag)), number(until));
        }
        self.0.drain(..whole);
    }
}

/// Kills the processes whose tag is wanted. Returns whether there were any.
fn kill_all(wanted: impl Fn(Tag) -> bool) -> bool {
    let mut any = false;
    for pid in tagged(&wanted) {
        any = true;
        kill(pid, &wanted);
    }
    any
}

/// By a descriptor, so that a process that was given the id meanwhile is spared.
fn kill(pid: Pid, wanted: impl Fn(Tag) -> bool) {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    if tag_of(pid).is_some_and(wanted) {
        // Whoever changed its user is beyond our rights; it is looked at again in vain.
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

fn milliseconds(uptime: Duration) -> u64 {
    u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_moved_and_stay_due_until_they_are() {
        let second = Duration::from_secs;
        let mut deadlines = Deadlines::default();
        deadlines.set(Tag(1), 1_000);
        deadlines.set(Tag(2), 5_000);
        deadlines.set(Tag(1), 7_000);
        assert_eq!(deadlines.next(second(0)), Some(second(5)));
        assert_eq!(deadlines.due(second(4)), []);
        assert_eq!(deadlines.due(second(5)), [Tag(2)]);
        assert_eq!(deadlines.next(second(5)), Some(second(7)));
        assert_eq!(deadlines.due(second(6)), [Tag(2)], "until it is set anew");
        deadlines.set(Tag(2), 0);
        deadlines.set(Tag(1), 0);
        assert_eq!(deadlines.due(second(9)), []);
        assert_eq!(deadlines.next(second(6)), None);
    }

    #[test]
    fn words_survive_being_cut() {
        let mut bytes = Vec::new();
        for n in 1..=3_u64 {
            bytes.extend(n.to_ne_bytes());
            bytes.extend((n * 10).to_ne_bytes());
        }
        for cut in 0..bytes.len() {
            let (mut words, mut read) = (Words::default(), Vec::new());
            for part in [&bytes[..cut], &bytes[cut..]] {
                words.read(part, |tag, until| read.push((tag.0, until)));
            }
            assert_eq!(read, [(1, 10), (2, 20), (3, 30)], "{cut}");
        }
    }
}
