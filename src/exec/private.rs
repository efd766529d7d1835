//! What this process keeps to itself.

use std::io;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Keeps the memory and the environment of this process, where passwords may be, from other processes of its user:
/// jobs are such. Root may still look. A program that is executed later is not concerned.
///
/// # Errors
///
/// The kernel's, which has none for this on Linux.
pub fn keep_to_itself() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
