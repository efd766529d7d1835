//! The command line: one file a command, and the only place where adapters are chosen.
//!
//! Data goes to standard output, everything else to standard error. What an operator can ask or do
//! lives in `ops/`; here are arguments, formats and exit codes.

pub mod check;
pub mod error;
pub mod globals;
pub mod next;
pub mod output;
pub mod schedules;
pub mod schema;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use error::{CliError, Exit};
pub use globals::Globals;

/// Schedules jobs, carries them over NATS JetStream or an embedded broker, and executes them.
#[derive(Debug, Parser)]
#[command(name = "orchestrator", version, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 invalid schedules, 4 not found, \
    5 broker unreachable, 6 not permitted, 7 conflict, 8 timed out waiting"
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::CheckArgs),
    Schema(schema::SchemaArgs),
    Next(next::NextArgs),
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return error::report_usage(&error),
    };
    output::set_color(cli.globals.color);
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    let globals = &cli.globals;
    match cli.command {
        Command::Check(args) => check::run(args, globals),
        Command::Schema(args) => schema::run(args, globals),
        Command::Next(args) => next::run(args, globals),
    }
}
