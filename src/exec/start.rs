//! Starts one child. Unsafe code is here and below here only.
//!
//! A plain fork copies the page tables of this process and makes each of its threads fault on the
//! next write, which costs more than the rest of a short run together. So a child is started as the C
//! library's `posix_spawn` does it: it borrows this process's memory until it executes its program,
//! and the thread that starts it stands still meanwhile (`CLONE_VM | CLONE_VFORK`). What `posix_spawn`
//! cannot do, and the reason to do it here, is the parent-death signal.
//!
//! A child that becomes another user's gets a copy of the memory after all: nobody else's process may share ours, nor hold
//! a thread of ours by stopping itself. It tells through a pipe what it tells otherwise in the memory that is shared; the
//! thread waits for its first word alone, which comes before it is another user's.

mod account;
mod child;
mod clone3;
mod failure;
mod identity;

use std::{
    ffi::{CStr, c_char},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::ExitStatus,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{Gid, Mode, Uid, fchmod, fchown},
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
};
use tokio::io::{Interest, unix::AsyncFd};

pub(super) use account::Account;
use child::Plan;
pub(super) use failure::{Failure, Step, heard};
pub(super) use identity::Identity;

use super::{cgroup::Group, command::Prepared, tree::Tag};

/// The stack on which the child runs until it executes its program: it calls nothing deep.
const STACK: usize = 64 * 1024;
/// A stack for children, one after the other.
#[derive(Debug)]
pub(super) struct Stack(Box<[u128]>);

impl Default for Stack {
    fn default() -> Self {
        Self(vec![0; STACK / size_of::<u128>()].into())
    }
}

/// A child that was started and not reaped yet.
#[derive(Debug)]
pub(super) struct Spawned {
    pid: Pid,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// Where it tells why its program is not executed, if it shares no memory.
    pub(super) told: Option<OwnedFd>,
    /// The control group that it was started in.
    pub(super) group: Option<Group>,
    ended: Option<ExitStatus>,
}

impl Spawned {
    /// Its id, and that of its process group, which it leads already.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for its end and reaps it. Called again it gives the same answer.
    pub(super) fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        loop {
            match waitpid(Some(self.pid), WaitOptions::empty()) {
                Ok(Some((_, status))) => {
                    let status = ExitStatus::from_raw(status.as_raw());
                    self.ended = Some(status);
                    return Ok(status);
                }
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Starts the program as the leader of a process group of its own, and of a session without a terminal unless it has our
/// streams. The kernel kills it when the calling thread ends. In `group` if there is one. Blocks until the program is being
/// executed, unless the child is another user's: then until it leads its group, and [`heard`] has what becomes of it.
pub(super) fn start(
    prepared: &Prepared,
    tag: Tag,
    group: Option<Group>,
    stack: &mut Stack,
) -> Result<Spawned, Failure> {
    let (pipes, ends) = match &prepared.outputs {
        Some(_) => (None, None),
        None => {
            let (stdout, child_stdout) = io::pipe()?;
            let (stderr, child_stderr) = io::pipe()?;
            (Some((stdout, stderr)), Some((child_stdout, child_stderr)))
        }
    };
    let outputs = match (&prepared.outputs, &ends) {
        (Some([stdout, stderr]), _) => [stdout.as_raw_fd(), stderr.as_raw_fd()],
        (None, Some((stdout, stderr))) => [stdout.as_raw_fd(), stderr.as_raw_fd()],
        (None, None) => [-1, -1],
    };
    if let Some(owner) = prepared.identity.as_ref().and_then(Identity::owner) {
        hand_over(&prepared.stdin, owner)?;
        if let Some((stdout, stderr)) = &ends {
            hand_over(stdout, owner)?;
            hand_over(stderr, owner)?;
        }
    }
    let (stdout, stderr) = pipes.unzip();
    let report = prepared.identity.as_ref().map(|_| io::pipe()).transpose()?;
    let (told, tell) = report.unzip();
    let mut plan = Plan {
        candidates: &prepared.candidates,
        arguments: pointers(prepared.arguments.iter().map(|text| text.as_c_str())),
        environment: pointers(prepared.environment.iter().map(AsRef::as_ref)),
        working_dir: prepared.working_dir.as_deref(),
        identity: prepared.identity.as_ref(),
        report: tell.as_ref().map(AsRawFd::as_raw_fd),
        umask: prepared.umask,
        streams_only: prepared.streams_only,
        streams: [prepared.stdin.as_raw_fd(), outputs[0], outputs[1]],
        parent: libc::pid_t::try_from(std::process::id()).unwrap_or(0),
        tag,
        failure: AtomicU64::new(0),
    };
    let pid = clone(&mut plan, group.as_ref().and_then(Group::descriptor), stack)?;
    let mut child = Spawned {
        pid,
        stdout: stdout.map(OwnedFd::from),
        stderr: stderr.map(OwnedFd::from),
        told: told.map(OwnedFd::from),
        group,
        ended: None,
    };
    drop(tell);
    let told = match &child.told {
        None => plan.failure.load(Ordering::Acquire),
        Some(told) => failure::first(told),
    };
    match Failure::told(told) {
        None => Ok(child),
        Some(failure) => {
            // It has ended already, if it was the child that told: only its entry in the process table is left.
            let _ = kill_process(pid, Signal::KILL);
            child.wait()?;
            Err(failure)
        }
    }
}

/// Makes a stream the user's, and nobody else's: by its name in `/dev` it is opened anew.
fn hand_over(stream: impl AsFd, (uid, gid): (Uid, Gid)) -> io::Result<()> {
    fchmod(&stream, Mode::RUSR | Mode::WUSR)?;
    fchown(&stream, Some(uid), Some(gid))?;
    Ok(())
}

/// Whether children may be started in a group: the user may lack the right to, or the kernel the call.
pub(super) fn may_start_in(group: Group, tag: Tag) -> io::Result<()> {
    let nothing = Prepared {
        candidates: Vec::new(),
        arguments: Vec::new(),
        environment: Vec::new(),
        working_dir: None,
        stdin: File::open("/dev/null")?,
        outputs: None,
        identity: None,
        umask: None,
        streams_only: true,
    };
    match start(&nothing, tag, Some(group), &mut Stack::default()) {
        // There is nothing to execute.
        Err(Failure { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(Failure { error, .. }) => Err(error),
        Ok(child) => Err(io::Error::other(format!("{child:?} was started"))),
    }
}

/// A vector as the kernel wants it: pointers, then null.
fn pointers<'a>(texts: impl Iterator<Item = &'a CStr>) -> Vec<*const c_char> {
    let texts = texts.map(CStr::as_ptr);
    texts.chain([ptr::null()]).collect()
}

/// Starts the child and returns once it has given the memory back, or at once if it has a copy.
#[allow(
    unsafe_code,
    reason = "the standard library offers no vfork with a parent-death signal"
)]
fn clone(
    plan: &mut Plan<'_>,
    group: Option<BorrowedFd<'_>>,
    Stack(stack): &mut Stack,
) -> io::Result<Pid> {
    // SAFETY: the child runs on `stack`, which grows downwards from its aligned end and outlives it,
    // because with CLONE_VFORK this call returns only after the child has executed its program or
    // has ended; so does `plan`. Without CLONE_VM it has copies of both. All signals are blocked
    // meanwhile, so that no handler of this process runs in the child.
    let started = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let memory = match plan.identity {
            None => libc::CLONE_VM | libc::CLONE_VFORK,
            Some(_) => 0,
        };
        let shared = ptr::from_mut(plan).cast();
        let started = match clone3::clone(memory, stack, group, child::execute, shared) {
            // An old kernel, or one that a sandbox hides.
            Err(error) if group.is_none() && is_refused(&error) => {
                let flags = memory | libc::SIGCHLD;
                let end = stack.as_mut_ptr_range().end.cast();
                match libc::clone(child::execute, end, flags, ptr::from_mut(plan).cast()) {
                    ..0 => Err(io::Error::last_os_error()),
                    started => Ok(started),
                }
            }
            started => started,
        };
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        started
    };
    Pid::from_raw(started?).ok_or_else(|| io::Error::other("the kernel gave no process id"))
}

/// Whether there is no `clone3`, or none that clears handlers (before Linux 5.5).
fn is_refused(error: &io::Error) -> bool {
    let refusals = [libc::ENOSYS, libc::EPERM, libc::EINVAL];
    error
        .raw_os_error()
        .is_some_and(|code| refusals.contains(&code))
}

/// Registers a descriptor of our own with the runtime.
#[allow(
    unsafe_code,
    reason = "tokio asks for a promise that an owned descriptor keeps: it stays open and the same \
              while it is registered"
)]
pub(super) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: see the reason above.
    unsafe {
        Ok(AsyncFd::register_with_interest(
            descriptor,
            Interest::READABLE,
        )?)
    }
}
