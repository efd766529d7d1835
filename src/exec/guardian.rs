//! Ends the processes of a worker's jobs after the worker itself was killed.
//!
//! The kernel ends the program of a job together with its worker (the parent-death signal), but not
//! what that program started. So each worker has a small process beside it that holds one end of a
//! pipe: when the worker is gone, however it went, the pipe is closed, and the guardian kills every
//! process that carries the worker's tag.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{
    Pid, PidfdFlags, Signal, getrlimit, pidfd_open, pidfd_send_signal, setrlimit, setsid,
};
use rustix::process::{Resource, Rlimit};
use tracing::warn;

use super::tree::Family;
use crate::clock;

/// How long a guardian goes on killing what does not end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at all processes.
const PAUSE: Duration = Duration::from_millis(20);

/// The worker's side: the guardian that runs now.
#[derive(Debug)]
pub(super) struct Guardian {
    executable: PathBuf,
    child: Child,
}

impl Guardian {
    /// Starts `executable` as `executable guardian FAMILY`.
    pub(super) fn start(executable: &Path) -> io::Result<Self> {
        Ok(Self {
            executable: executable.to_owned(),
            child: spawn(executable)?,
        })
    }

    /// Starts another one if it was killed.
    pub(super) fn keep(&mut self) {
        match self.child.try_wait() {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => match spawn(&self.executable) {
                Ok(child) => self.child = child,
                Err(error) => warn!(target: "orchestrator::exec", %error,
                    "no guardian: if this worker is killed, processes of its jobs may stay"),
            },
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

fn spawn(executable: &Path) -> io::Result<Child> {
    Command::new(executable)
        .args(["guardian", &Family::own().to_string()])
        .current_dir("/")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// The guardian's side: waits until standard input is closed, then kills the family until nobody of
/// it is left.
pub fn guard(family: Family) -> io::Result<()> {
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
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    let start = clock::monotonic();
    loop {
        let members = family.members();
        if members.is_empty() || clock::monotonic() - start > PATIENCE {
            return Ok(());
        }
        for member in members {
            kill(family, member);
        }
        clock::pause(PAUSE);
    }
}

/// By a descriptor, so that a process that was given the id meanwhile is spared.
fn kill(family: Family, member: Pid) {
    let Ok(process) = pidfd_open(member, PidfdFlags::empty()) else {
        return;
    };
    if family.has(member) {
        // Whoever changed its user is beyond our rights; it is looked at again in vain.
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}
