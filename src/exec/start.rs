//! Starts one child. Unsafe code is here and below here only.
//!
//! A plain fork copies the page tables of this process and makes each of its threads fault on the
//! next write, which costs more than the rest of a short run together. So a child is started as the C
//! library's `posix_spawn` does it: it borrows this process's memory until it executes its program,
//! and the thread that starts it stands still meanwhile (`CLONE_VM | CLONE_VFORK`). What `posix_spawn`
//! cannot do, and the reason to do it here, is the parent-death signal.

mod clone3;

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    fs::File,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::process::ExitStatusExt,
    },
    process::ExitStatus,
    ptr,
    sync::atomic::{AtomicI32, Ordering},
};

use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::io::{Interest, unix::AsyncFd};

use super::{cgroup::Group, command::Prepared, tree::Tag};

/// The stack on which the child runs until it executes its program: it calls nothing deep.
const STACK: usize = 64 * 1024;
/// The first descriptor that is none of the standard streams.
const FIRST_DESCRIPTOR: libc::c_uint = 3;
/// The exit code of a child that could not execute its program; nobody sees it.
const NOT_EXECUTED: c_int = 127;

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
    /// The control group that it was started in.
    pub(super) group: Option<Group>,
    ended: Option<ExitStatus>,
}

impl Spawned {
    /// Its id, and that of its process group.
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

/// What the child needs, in memory that it shares with the thread that waits for it.
struct Plan<'a> {
    candidates: &'a [CString],
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    working_dir: Option<&'a CStr>,
    umask: Option<libc::mode_t>,
    streams_only: bool,
    streams: [RawFd; 3],
    parent: libc::pid_t,
    tag: Tag,
    /// What went wrong; 0 if the program is being executed.
    error: AtomicI32,
}

/// Starts the program as the leader of a process group of its own, which the kernel kills when the
/// calling thread ends, in `group` if there is one. Blocks until the program is being executed.
pub(super) fn start(
    prepared: &Prepared,
    tag: Tag,
    group: Option<Group>,
    stack: &mut Stack,
) -> io::Result<Spawned> {
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
    let (stdout, stderr) = pipes.unzip();
    let mut plan = Plan {
        candidates: &prepared.candidates,
        arguments: pointers(prepared.arguments.iter().map(|text| text.as_c_str())),
        environment: pointers(prepared.environment.iter().map(AsRef::as_ref)),
        working_dir: prepared.working_dir.as_deref(),
        umask: prepared.umask,
        streams_only: prepared.streams_only,
        streams: [prepared.stdin.as_raw_fd(), outputs[0], outputs[1]],
        parent: libc::pid_t::try_from(std::process::id()).unwrap_or(0),
        tag,
        error: AtomicI32::new(0),
    };
    let pid = clone(&mut plan, group.as_ref().and_then(Group::descriptor), stack)?;
    let mut child = Spawned {
        pid,
        stdout: stdout.map(OwnedFd::from),
        stderr: stderr.map(OwnedFd::from),
        group,
        ended: None,
    };
    match plan.error.load(Ordering::Acquire) {
        0 => Ok(child),
        error => {
            // It has ended already: only its entry in the process table is left.
            child.wait()?;
            Err(io::Error::from_raw_os_error(error))
        }
    }
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
        umask: None,
        streams_only: true,
    };
    match start(&nothing, tag, Some(group), &mut Stack::default()) {
        // There is nothing to execute.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(child) => Err(io::Error::other(format!("{child:?} was started"))),
    }
}

/// A vector as the kernel wants it: pointers, then null.
fn pointers<'a>(texts: impl Iterator<Item = &'a CStr>) -> Vec<*const c_char> {
    let texts = texts.map(CStr::as_ptr);
    texts.chain([ptr::null()]).collect()
}

/// Starts the child and returns once it has given the memory back.
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
    // has ended; so does `plan`. All signals are blocked meanwhile, so that no handler of this
    // process runs in the child.
    let started = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let shared = ptr::from_mut(plan).cast();
        let started = match clone3::clone(stack, group, execute, shared) {
            // An old kernel, or one that a sandbox hides.
            Err(error) if group.is_none() && is_refused(&error) => {
                let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
                let end = stack.as_mut_ptr_range().end.cast();
                match libc::clone(execute, end, flags, ptr::from_mut(plan).cast()) {
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

/// The child, until it executes its program. It shares this process's memory: it must not allocate,
/// take a lock, panic or return.
#[allow(
    unsafe_code,
    reason = "only system calls, on values that the plan holds"
)]
extern "C" fn execute(plan: *mut c_void) -> c_int {
    // SAFETY: `clone` passes a plan that outlives this call; the pointers in it end with null and
    // point to texts that live as long.
    unsafe {
        let plan = &*plan.cast::<Plan<'_>>();
        if prepare(plan) {
            // Only told once nothing could be executed: this memory is the parent's, too.
            let mut failure = libc::ENOENT;
            for candidate in plan.candidates {
                libc::execve(
                    candidate.as_ptr(),
                    plan.arguments.as_ptr(),
                    plan.environment.as_ptr(),
                );
                match errno() {
                    libc::ENOENT | libc::ENOTDIR => {}
                    // Worth more than what is not there; a candidate further on may do.
                    libc::EACCES => failure = libc::EACCES,
                    error => {
                        failure = error;
                        break;
                    }
                }
            }
            plan.error.store(failure, Ordering::Release);
        }
        libc::_exit(NOT_EXECUTED)
    }
}

/// Process group, parent-death signal, streams, directory, other descriptors, mask of modes, signals. False: `plan.error` says why.
///
/// # Safety
///
/// Only for a child of [`clone`].
#[allow(unsafe_code, reason = "system calls on plain values")]
unsafe fn prepare(plan: &Plan<'_>) -> bool {
    // SAFETY: the caller keeps to the contract; every argument is a value or lives in the plan.
    unsafe {
        let done = libc::setpgid(0, 0) == 0
            && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && plan
                .streams
                .iter()
                .zip(0..)
                .all(|(&from, to)| from != to && libc::dup2(from, to) == to)
            && plan
                .working_dir
                .is_none_or(|directory| libc::chdir(directory.as_ptr()) == 0);
        if !done {
            plan.error.store(errno(), Ordering::Release);
            return false;
        }
        // The parent may have died before the death signal was asked for: then none will come.
        if libc::getppid() != plan.parent {
            plan.error.store(libc::EINTR, Ordering::Release);
            return false;
        }
        if plan.streams_only {
            // What whoever started this process left open. Kernels before 5.11 cannot: then it stays.
            libc::syscall(
                libc::SYS_close_range,
                FIRST_DESCRIPTOR,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
        }
        if let Some(mask) = plan.umask {
            libc::umask(mask);
        }
        mark(plan.tag);
        default_signals();
        true
    }
}

/// Marks the child and what comes of it; see [`Tag`]. A limit that is lower already stays: then daemons
/// of the job are not found, which is no reason not to run it.
///
/// # Safety
///
/// Only for a child of [`clone`], which has limits of its own.
#[allow(unsafe_code, reason = "system calls on plain values")]
unsafe fn mark(tag: Tag) {
    // SAFETY: a zeroed limit is valid; the calls change only this child.
    unsafe {
        let mut limit: libc::rlimit64 = std::mem::zeroed();
        if libc::getrlimit64(libc::RLIMIT_LOCKS, &mut limit) == 0 && tag.0 <= limit.rlim_max {
            limit.rlim_cur = tag.0;
            libc::setrlimit64(libc::RLIMIT_LOCKS, &limit);
        }
    }
}

/// Gives every signal its default again, also what this process was started with: a shell that starts it in the background
/// has SIGINT ignored, and a program that finds a signal ignored at its start cannot trap it. Then lets signals in.
///
/// # Safety
///
/// Only for a child of [`clone`], which has a table of handlers of its own.
#[allow(unsafe_code, reason = "system calls on plain values")]
unsafe fn default_signals() {
    // SAFETY: zeroed signal sets and actions are valid; the calls change only this child.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            let mut default: libc::sigaction = std::mem::zeroed();
            default.sa_sigaction = libc::SIG_DFL;
            // Refused for SIGKILL, SIGSTOP and those that the C library keeps to itself.
            libc::sigaction(signal, &default, ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    }
}

#[allow(unsafe_code, reason = "the C library's variable")]
fn errno() -> c_int {
    // SAFETY: the C library gives a valid pointer to this thread's variable.
    unsafe { *libc::__errno_location() }
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
