//! `clone3`, which does what `libc::clone` cannot: it starts a child in a control group, and without our handlers of
//! signals. To move the child afterwards would stop the whole machine for some milliseconds; to ask for each handler
//! takes more than a hundred system calls.

use std::{
    ffi::{c_int, c_void},
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// `CLONE_INTO_CGROUP`
const INTO_CGROUP: u64 = 0x2_0000_0000;
/// `CLONE_CLEAR_SIGHAND`
const CLEAR_HANDLERS: u64 = 0x1_0000_0000;

/// As `libc::clone` with `SIGCHLD` and these flags about memory, in the control group if there is one, with the default of
/// every signal that is handled here.
///
/// # Safety
///
/// Signals are blocked, `entry` never returns, and what it is given outlives it.
#[allow(
    unsafe_code,
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    reason = "the C library has no function for it; the numbers are the kernel's"
)]
pub(super) unsafe fn clone(
    memory: c_int,
    stack: &mut [u128],
    group: Option<BorrowedFd<'_>>,
    entry: extern "C" fn(*mut c_void) -> c_int,
    plan: *mut c_void,
) -> io::Result<libc::pid_t> {
    // SAFETY: all zeroes are valid arguments.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = memory as u64 | CLEAR_HANDLERS;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.stack = stack.as_mut_ptr() as u64;
    arguments.stack_size = size_of_val(stack) as u64;
    if let Some(group) = group {
        arguments.flags |= INTO_CGROUP;
        arguments.cgroup = group.as_raw_fd() as u64;
    }
    let size = size_of::<libc::clone_args>();
    let result: i64;
    // SAFETY: the child goes on after the system call on a stack of its own, of which it knows nothing, and only
    // calls `entry`, which does not return. It changes no register of the parent; without `CLONE_VM` that stack is a copy.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r8",
            "call r9",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw const arguments,
            in("rsi") size,
            in("r8") plan,
            in("r9") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x3",
            "blr x4",
            "brk 0",
            "2:",
            inlateout("x0") &raw const arguments => result,
            in("x1") size,
            in("x3") plan,
            in("x4") entry,
            in("x8") libc::SYS_clone3,
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = (size, entry, plan);
        result = -i64::from(libc::ENOSYS);
    }
    match result {
        ..0 => Err(io::Error::from_raw_os_error(-result as i32)),
        _ => Ok(result as libc::pid_t),
    }
}
