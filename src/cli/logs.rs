//! `orchestrator logs RUN`

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::Args;

use super::{CliError, Globals, connect, globals::Format, output};
use crate::{
    broker::{Broker, LogStream},
    ops::{self, LogLine, Position},
    run::RunId,
};

/// How often new output is looked for under `-f`.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The output of a run
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The run
    #[arg(value_name = "RUN")]
    run: RunId,

    /// Go on until the run has ended
    #[arg(short, long)]
    follow: bool,

    /// Show when each piece was read and where it came from
    #[arg(short, long)]
    timestamps: bool,
}

pub(super) async fn run(args: LogsArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let broker = broker.as_ref();
    let mut record = ops::find_run(broker, &args.run).await?;
    let mut position = Position::default();
    let mut all = Vec::new();
    loop {
        let ended = record.state.is_final();
        drain(broker, &args, globals, &mut position, &mut all).await?;
        if ended || !args.follow {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        record = ops::find_run(broker, &args.run).await?;
    }
    match globals.output {
        Format::Json => output::json(&all),
        Format::Table | Format::Name => Ok(()),
    }
}

async fn drain(
    broker: &dyn Broker,
    args: &LogsArgs,
    globals: &Globals,
    position: &mut Position,
    all: &mut Vec<LogLine>,
) -> Result<(), CliError> {
    loop {
        let lines = ops::read_logs(broker, &args.run, position).await?;
        if lines.is_empty() {
            return Ok(());
        }
        match globals.output {
            Format::Json => all.extend(lines),
            Format::Table | Format::Name => {
                for line in &lines {
                    print(line, args.timestamps)?;
                }
            }
        }
    }
}

/// The job's standard output goes to ours, everything else to standard error.
fn print(line: &LogLine, timestamps: bool) -> Result<(), CliError> {
    if line.dropped_bytes > 0 {
        output::to_stderr(&format!(
            "[{} bytes of output were dropped here]",
            line.dropped_bytes
        ));
    }
    if timestamps {
        let stream = match line.stream {
            LogStream::Stdout => "out",
            LogStream::Stderr => "err",
            LogStream::Worker => "---",
        };
        let at = line.at.format("%F %T%.3f");
        for text in line.text.lines() {
            output::to_stdout(&format!("{at} #{} {stream} {text}", line.attempt))?;
        }
        return Ok(());
    }
    match line.stream {
        LogStream::Stdout => io::stdout().lock().write_all(&line.bytes)?,
        LogStream::Stderr => io::stderr().lock().write_all(&line.bytes)?,
        LogStream::Worker => output::to_stderr(&format!("[{}]", line.text.trim_end())),
    }
    Ok(io::stdout().lock().flush()?)
}
