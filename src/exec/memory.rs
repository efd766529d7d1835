//! Whether the machine ran out of memory, as far as a process without rights can tell.

use std::{
    fs,
    sync::{Mutex, PoisonError},
};

/// How often the kernel had killed for lack of memory at the last two looks.
static LOOKS: Mutex<[Option<u64>; 2]> = Mutex::new([None; 2]);

/// Looks how often the kernel has killed so far.
pub(super) fn look() {
    let mut looks = LOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    *looks = [looks[1], kills()];
}

/// Whether the kernel has killed since the last look but one.
pub(super) fn has_been_short() -> bool {
    let before = LOOKS.lock().unwrap_or_else(PoisonError::into_inner)[0];
    before
        .zip(kills())
        .is_some_and(|(before, now)| now > before)
}

fn kills() -> Option<u64> {
    let counters = fs::read_to_string("/proc/vmstat").ok()?;
    let kills = counters
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    kills?.parse().ok()
}
