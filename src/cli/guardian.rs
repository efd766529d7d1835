//! `orchestrator guardian`, which workers start for themselves.

use std::path::PathBuf;

use clap::Args;

use super::CliError;
use crate::exec::{self, Family};

/// This program, even after its file was replaced.
pub(super) const EXECUTABLE: &str = "/proc/self/exe";

/// Kill the processes of a worker's jobs once standard input is closed (started by workers)
#[derive(Debug, Args)]
pub struct GuardianArgs {
    /// What the processes have in common
    family: Family,

    /// The control group of the worker
    group: Option<PathBuf>,
}

pub(super) fn run(args: &GuardianArgs) -> Result<(), CliError> {
    Ok(exec::guard(args.family, args.group.as_deref())?)
}
