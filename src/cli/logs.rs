//! `orchestrator logs RUN`

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use anstream::adapter::StripBytes;
use clap::Args;

use super::{
    CliError, Globals, connect,
    globals::{Color, Format},
    output,
};
use crate::{
    broker::{Broker, LogStream},
    ops::{self, LogLine, Position},
    run::RunId,
};

/// How often new output is looked for under `-f`.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The output of a run, as the job wrote it; `--color never` takes colours out
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
    let mut plain = Plain::new(globals.color);
    loop {
        let ended = record.state.is_final();
        drain(
            broker,
            &args,
            globals,
            &mut position,
            (&mut all, &mut plain),
        )
        .await?;
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
    (all, plain): (&mut Vec<LogLine>, &mut Plain),
) -> Result<(), CliError> {
    loop {
        let lines = ops::read_logs(broker, &args.run, position).await?;
        if lines.is_empty() {
            return Ok(());
        }
        match globals.output {
            Format::Json => all.extend(lines),
            Format::Table | Format::Name => {
                for line in lines {
                    print(&plain.strip(line), args.timestamps)?;
                }
            }
        }
    }
}

/// Takes colours and other control sequences out, if that is wanted. A sequence may be cut by the pieces of
/// the output; each stream has its own.
struct Plain(Option<[StripBytes; 2]>);

impl Plain {
    fn new(color: Color) -> Self {
        let wanted = match color {
            Color::Never => true,
            // What goes into a file is to be what the job wrote.
            Color::Auto => io::stdout().is_terminal() && !output::stdout_is_colored(),
            Color::Always => false,
        };
        Self(wanted.then(|| [StripBytes::new(), StripBytes::new()]))
    }

    fn strip(&mut self, line: LogLine) -> LogLine {
        let Some([out, other]) = &mut self.0 else {
            return line;
        };
        let stripper = match line.stream {
            LogStream::Stdout => out,
            LogStream::Stderr | LogStream::Worker => other,
        };
        let bytes: Vec<u8> = stripper
            .strip_next(&line.bytes)
            .flatten()
            .copied()
            .collect();
        LogLine {
            text: String::from_utf8_lossy(&bytes).into_owned(),
            bytes,
            ..line
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
