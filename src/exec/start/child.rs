//! The child, from its first instruction to its program.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    os::fd::RawFd,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{
    failure::{LEADS, Step},
    identity::{self, Identity},
};
use crate::exec::tree::Tag;

/// The first descriptor that is none of the standard streams.
const FIRST_DESCRIPTOR: libc::c_uint = 3;
/// The exit code of a child that could not execute its program; nobody sees it.
const NOT_EXECUTED: c_int = 127;

/// What the child needs, in memory that it shares with the thread that waits for it, or has a copy of.
pub(super) struct Plan<'a> {
    pub(super) candidates: &'a [CString],
    pub(super) arguments: Vec<*const c_char>,
    pub(super) environment: Vec<*const c_char>,
    pub(super) working_dir: Option<&'a CStr>,
    /// Whose it becomes.
    pub(super) identity: Option<&'a Identity>,
    /// Where it tells that it leads its group and what goes wrong, if it shares no memory.
    pub(super) report: Option<RawFd>,
    pub(super) umask: Option<libc::mode_t>,
    pub(super) streams_only: bool,
    pub(super) streams: [RawFd; 3],
    pub(super) parent: libc::pid_t,
    pub(super) tag: Tag,
    /// What went wrong, as [`Step::failed`] has it; 0 if the program is being executed.
    pub(super) failure: AtomicU64,
}

/// The child, until it executes its program. It may share its parent's memory, and has no thread but this one: it must
/// not allocate, take a lock, panic or return.
#[allow(
    unsafe_code,
    reason = "only system calls, on values that the plan holds"
)]
pub(super) extern "C" fn execute(plan: *mut c_void) -> c_int {
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
            tell(plan, Step::Program, failure);
        }
        libc::_exit(NOT_EXECUTED)
    }
}

/// Session or process group, parent-death signal, streams, mark, user, directory, other descriptors, mask of modes,
/// signals. False: it was told why.
///
/// # Safety
///
/// Only for a child of [`super::clone`].
#[allow(unsafe_code, reason = "system calls on plain values")]
unsafe fn prepare(plan: &Plan<'_>) -> bool {
    // SAFETY: the caller keeps to the contract; every argument is a value or lives in the plan.
    unsafe {
        let leads = match plan.streams_only {
            // A terminal that this process was started at stays behind.
            true => libc::setsid() != -1,
            false => libc::setpgid(0, 0) == 0,
        };
        if !leads {
            return tell(plan, Step::Preparation, errno());
        }
        report(plan, LEADS);
        let done = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && plan
                .streams
                .iter()
                .zip(0..)
                .all(|(&from, to)| from != to && libc::dup2(from, to) == to);
        if !done {
            return tell(plan, Step::Preparation, errno());
        }
        // Before it is another user's, who may be allowed to do anything with it but to take this off.
        mark(plan.tag);
        if let Some(identity) = plan.identity {
            if plan.streams_only {
                close_others(plan);
            }
            if let Err(error) = identity::assume(identity) {
                return tell(plan, Step::User, error.raw_os_error());
            }
            // The kernel has forgotten it with the user.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        }
        if let Some(directory) = plan.working_dir
            && libc::chdir(directory.as_ptr()) != 0
        {
            return tell(plan, Step::Directory, errno());
        }
        // The parent may have died before the death signal was asked for: then none will come.
        if libc::getppid() != plan.parent {
            return tell(plan, Step::Preparation, libc::EINTR);
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
        default_signals();
        true
    }
}

/// Closes what the child has of its parent, before another user may hold it: others wait for the end of such pipes.
/// Kernels before 5.9 cannot: then all is closed by the execution.
///
/// # Safety
///
/// Only for a child of [`super::clone`] that has a copy of the memory.
#[allow(unsafe_code, reason = "system calls on plain values")]
unsafe fn close_others(plan: &Plan<'_>) {
    let Some(report) = plan.report.and_then(|report| u32::try_from(report).ok()) else {
        return;
    };
    for (first, last) in [
        (FIRST_DESCRIPTOR, report.saturating_sub(1)),
        (report.saturating_add(1), libc::c_uint::MAX),
    ] {
        if first <= last {
            // SAFETY: the descriptors are this child's own; it uses none of them.
            unsafe {
                libc::syscall(libc::SYS_close_range, first, last, 0);
            }
        }
    }
}

/// Says what went wrong; false, for the caller to return.
///
/// # Safety
///
/// Only for a child of [`super::clone`].
#[allow(unsafe_code, reason = "system calls on plain values")]
unsafe fn tell(plan: &Plan<'_>, step: Step, error: c_int) -> bool {
    let failure = step.failed(error);
    plan.failure.store(failure, Ordering::Release);
    // SAFETY: the caller keeps to the contract.
    unsafe { report(plan, failure) };
    false
}

/// Writes a word into the pipe, if there is one.
///
/// # Safety
///
/// Only for a child of [`super::clone`].
#[allow(unsafe_code, reason = "a system call on plain values")]
unsafe fn report(plan: &Plan<'_>, word: u64) {
    if let Some(report) = plan.report {
        let word = word.to_ne_bytes();
        // SAFETY: `word` is as long as is said; the descriptor is open until the execution.
        unsafe {
            libc::write(report, word.as_ptr().cast(), word.len());
        }
    }
}

/// Marks the child and what comes of it; see [`Tag`]. A limit that is lower already stays: then daemons
/// of the job are not found, which is no reason not to run it.
///
/// # Safety
///
/// Only for a child of [`super::clone`], which has limits of its own.
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
/// Only for a child of [`super::clone`], which has a table of handlers of its own.
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
