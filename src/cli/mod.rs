//! The command line: one file a command, and the only place where adapters are chosen.
//!
//! Data goes to standard output, everything else to standard error. What an operator can ask or do
//! lives in `ops/`; here are arguments, formats and exit codes.

mod batch;
mod beat;
mod bench;
mod check;
mod cluster;
mod connect;
mod dead;
pub mod diff;
pub mod doctor;
mod error;
mod events;
mod explain;
mod gate;
pub mod globals;
mod guardian;
mod import;
mod init;
mod jobs;
mod keys;
mod lock;
mod logs;
mod manual;
mod named;
mod nats;
mod next;
mod nkey;
pub mod output;
mod pause;
mod run;
mod runs;
mod schedules;
mod schema;
mod service;
mod signing;
mod simulate;
mod snapshots;
mod state;
pub mod terminal;
mod up;
mod worker;

use std::{future::Future, process::ExitCode};

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
    Init(init::InitArgs),
    Up(up::UpArgs),
    Beat(beat::BeatArgs),
    Worker(worker::WorkerArgs),
    Check(check::CheckArgs),
    Schema(schema::SchemaArgs),
    Next(next::NextArgs),
    Import(import::ImportArgs),
    Simulate(simulate::SimulateArgs),
    Diff(diff::DiffArgs),
    Doctor(doctor::DoctorArgs),
    Nkey(nkey::NkeyArgs),
    Jobs(jobs::JobsArgs),
    Run(run::RunArgs),
    Runs(runs::RunsArgs),
    Show(runs::ShowArgs),
    Logs(logs::LogsArgs),
    Cancel(runs::CancelArgs),
    Explain(explain::ExplainArgs),
    Pause(pause::PauseArgs),
    Resume(pause::ResumeArgs),
    /// The queues: what waits, what is running, who serves them
    Queues,
    /// The workers that were heard of in the last minute
    Workers,
    Retry(dead::RetryArgs),
    Lock(lock::LockArgs),
    Locks(lock::LocksArgs),
    Dead(dead::DeadArgs),
    State(state::StateArgs),
    Keys(keys::KeysArgs),
    Bench(bench::BenchArgs),
    Man(manual::ManArgs),
    Completions(manual::CompletionsArgs),
    #[command(hide = true)]
    Guardian(guardian::GuardianArgs),
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return error::report_usage(&error),
    };
    output::set_color(cli.globals.color);
    if let Err(error) = crate::exec::keep_to_itself() {
        return CliError::from(error).report();
    }
    #[cfg(feature = "failpoints")]
    let _points = fail::FailScenario::setup();
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    let globals = cli.globals;
    match cli.command {
        Command::Check(args) => check::run(args, &globals),
        Command::Schema(args) => schema::run(args, &globals),
        Command::Next(args) => next::run(args, &globals),
        Command::Init(args) => init::run(&args, &globals),
        Command::Import(args) => import::run(args, &globals),
        Command::Nkey(args) => nkey::run(&args),
        Command::Keys(args) => keys::run(args, &globals),
        Command::Guardian(args) => guardian::run(&args),
        Command::Man(args) => manual::man(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Simulate(args) => simulate::run(args, &globals),
        Command::Up(args) => serve(up::run(args, &globals)),
        Command::Beat(args) => serve(beat::run(args, &globals)),
        Command::Worker(args) => serve(worker::run(args, &globals)),
        Command::Bench(args) => serve(bench::run(args, &globals)),
        Command::Jobs(args) => ask(jobs::run(args, &globals)),
        Command::Run(args) => ask(run::run(args, &globals)),
        Command::Runs(args) => ask(runs::run(args, &globals)),
        Command::Show(args) => ask(runs::show(args, &globals)),
        Command::Logs(args) => ask(logs::run(args, &globals)),
        Command::Cancel(args) => ask(runs::cancel(args, &globals)),
        Command::Doctor(args) => ask(doctor::run(args, &globals)),
        Command::Diff(args) => ask(diff::run(args, &globals)),
        Command::Explain(args) => ask(explain::run(args, &globals)),
        Command::Pause(args) => ask(pause::pause(args, &globals)),
        Command::Resume(args) => ask(pause::resume(args, &globals)),
        Command::Queues => ask(cluster::queues(&globals)),
        Command::Workers => ask(cluster::workers(&globals)),
        Command::Dead(args) => ask(dead::dead(args, &globals)),
        Command::Lock(args) => ask(lock::lock(args, &globals)),
        Command::Locks(args) => ask(lock::locks(args, &globals)),
        Command::Retry(args) => ask(dead::retry(args, &globals)),
        Command::State(args) => ask(state::run(args, &globals)),
    }
}

/// A service uses every core.
fn serve(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// A question needs one.
fn ask(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}
