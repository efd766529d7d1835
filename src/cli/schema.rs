//! `orchestrator schema`: the JSON Schema of schedule files.

use clap::Args;

use super::{CliError, Globals, output};
use crate::schedules;

/// Prints the JSON Schema of schedule files, for editors.
#[derive(Debug, Args)]
pub struct SchemaArgs {}

/// Always JSON, whatever `--output` says.
pub fn run(_args: SchemaArgs, _globals: &Globals) -> Result<(), CliError> {
    output::json(&schedules::schema())
}
