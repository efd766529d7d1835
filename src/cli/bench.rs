//! `orchestrator bench`

use std::{path::PathBuf, sync::Arc};

use clap::Args;

use super::{CliError, Exit, Globals, connect, globals::Format, guardian, nats, output};
use crate::{
    bench::{self, BenchError, BenchOptions, Compared, Delays, Report},
    broker::{
        SharedBroker,
        embedded::{EmbeddedBroker, EmbeddedOptions},
    },
    exec::Cgroup,
};

/// Measure this machine and its broker: throughput and delays, beside what would be possible
///
/// On NATS in a namespace of its own if --nats or NATS_URL names a server, else on an embedded broker in a new directory
/// below --data-dir. Both are removed afterwards; an installation that runs there is not touched, but takes its share
/// of the machine.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// How often everything is measured; the medians are shown
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,

    /// Programs to execute a round
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    programs: u32,

    /// How many programs are executed at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    concurrency: u32,

    /// Runs a round that execute nothing
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    noops: u32,

    /// How many of those are executed at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    noop_concurrency: u32,

    /// Runs of which the delay from publish to start is taken
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    delays: u32,

    /// Where programs get control groups, as for a worker
    #[arg(
        long,
        env = "ORCHESTRATOR_CGROUP",
        value_name = "auto|off|PATH",
        default_value = "auto"
    )]
    cgroup: Cgroup,
}

impl From<BenchError> for CliError {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::Broker(error) => error.into(),
            other => Self::new(Exit::Failed, other),
        }
    }
}

pub(super) async fn run(args: BenchArgs, globals: &Globals) -> Result<(), CliError> {
    let options = BenchOptions {
        rounds: usize::from(args.rounds),
        programs: args.programs as usize,
        concurrency: args.concurrency as usize,
        noops: args.noops as usize,
        noop_concurrency: args.noop_concurrency as usize,
        delays: args.delays as usize,
        cgroup: args.cgroup,
        guardian: Some(guardian::EXECUTABLE.into()),
    };
    let tell = |what: String| {
        if !globals.quiet {
            output::to_stderr(&what);
        }
    };
    let name = format!("bench-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    let report = match nats::is_named(globals) {
        true => {
            let own = Globals {
                namespace: name,
                ..globals.clone()
            };
            let broker = connect::nats_for_a_while(&own).await?;
            let shared: SharedBroker = Arc::clone(&broker) as SharedBroker;
            let report = interruptible(bench::run(&shared, &options, tell)).await;
            broker.remove_namespace().await?;
            report?
        }
        false => {
            let directory = Removed(globals.data_dir.join(name));
            let broker = EmbeddedBroker::open(&directory.0, EmbeddedOptions::default())?;
            let shared: SharedBroker = Arc::clone(&broker) as SharedBroker;
            let report = interruptible(bench::run(&shared, &options, tell)).await;
            broker.shutdown().await;
            report?
        }
    };
    show(&report, globals)
}

/// What was made for the measurement is removed even if somebody has seen enough.
async fn interruptible(
    report: impl Future<Output = Result<Report, BenchError>>,
) -> Result<Report, CliError> {
    tokio::select! {
        report = report => Ok(report?),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Err(CliError::new(Exit::Failed, "interrupted: nothing can be told"))
        }
    }
}

/// A directory that goes with the command.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        // Only if the command has made it.
        if let Some(parent) = self.0.parent() {
            let _ = std::fs::remove_dir(parent);
        }
    }
}

fn show(report: &Report, globals: &Globals) -> Result<(), CliError> {
    if globals.output == Format::Json {
        return output::json(report);
    }
    let row = |what: &str, against: &str, compared: &Compared| {
        let what = match what {
            "" => String::new(),
            what => format!("{what}, {} at once", compared.concurrency),
        };
        vec![
            what,
            format!("{:.0}", compared.rate),
            format!("{:.0}", compared.limit),
            format!("{:.2}", compared.ratio),
            against.to_owned(),
        ]
    };
    output::to_stdout(&format!(
        "{}, {} processors; medians of {} rounds",
        report.broker, report.processors, report.rounds
    ))?;
    let header = ["runs", "a second", "limit", "ratio", "the limit is"];
    output::table(
        &header,
        vec![
            row(
                "/bin/true",
                "one task that spawns it without us",
                &report.programs,
            ),
            row(
                "",
                "threads that only spawn it and wait",
                &report.programs_by_threads,
            ),
            row(
                "nothing",
                "the broker's operations for a run",
                &report.noops,
            ),
        ],
    )?;
    let delay = |delays: &Delays| {
        vec![
            format!("{:.2}", delays.p50),
            format!("{:.2}", delays.p90),
            format!("{:.2}", delays.p99),
            format!("{:.2}", delays.max),
        ]
    };
    let named = |what: &str, delays: &Delays| [vec![what.to_owned()], delay(delays)].concat();
    output::to_stdout("")?;
    let header = ["milliseconds, one at a time", "p50", "p90", "p99", "max"];
    output::table(
        &header,
        vec![
            named(
                "from publish to the first output of a shell",
                &report.delay_ms,
            ),
            named("of which the shell itself takes", &report.shell_ms),
        ],
    )
}
