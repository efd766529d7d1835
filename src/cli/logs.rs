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
    terminal::Shown,
};
use crate::{
    broker::{Broker, LogStream},
    ops::{self, LogLine, Position},
    run::RunId,
};

/// How often new output is looked for under `-f`.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The output of a run: on a terminal its text and colours, elsewhere all that the job wrote; `--color never`: text alone
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
    let mut shown = Fits::new(globals.color, args.timestamps);
    loop {
        let ended = record.state.is_final();
        drain(
            broker,
            &args,
            globals,
            &mut position,
            (&mut all, &mut shown),
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
        Format::Table | Format::Name => Ok(shown.end()?),
    }
}

async fn drain(
    broker: &dyn Broker,
    args: &LogsArgs,
    globals: &Globals,
    position: &mut Position,
    (all, shown): (&mut Vec<LogLine>, &mut Fits),
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
                    print(&shown.line(line), args.timestamps)?;
                }
            }
        }
    }
}

/// Makes the output fit for where it goes. A file or a program gets what the job wrote; a terminal gets text and colours;
/// with `--color never` nobody gets more than text. A sequence may be cut by the pieces of the output, so each stream has
/// a state of its own.
struct Fits {
    out: Fit,
    error: Fit,
    /// Whether both go to standard output, as they do with timestamps.
    together: bool,
}

/// What is done to one stream: sequences taken out, then what a terminal would obey.
struct Fit {
    stripped: Option<StripBytes>,
    shown: Option<Shown>,
}

impl Fit {
    fn new(color: Color, is_terminal: bool, is_colored: bool) -> Self {
        let without = match color {
            Color::Never => true,
            Color::Auto => is_terminal && !is_colored,
            Color::Always => false,
        };
        Self {
            stripped: without.then(StripBytes::new),
            shown: is_terminal.then(|| Shown::new(!without)),
        }
    }

    fn piece(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        let bytes = match &mut self.stripped {
            Some(strip) => strip.strip_next(&bytes).flatten().copied().collect(),
            None => bytes,
        };
        match &mut self.shown {
            Some(shown) => shown.piece(&bytes),
            None => bytes,
        }
    }

    fn end(&mut self) -> Vec<u8> {
        self.shown.as_mut().map(Shown::end).unwrap_or_default()
    }
}

impl Fits {
    fn new(color: Color, timestamps: bool) -> Self {
        let (out, error) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let colored = (output::stdout_is_colored(), output::stderr_is_colored());
        Self {
            out: Fit::new(color, out, colored.0),
            error: match timestamps {
                true => Fit::new(color, out, colored.0),
                false => Fit::new(color, error, colored.1),
            },
            together: timestamps,
        }
    }

    fn line(&mut self, line: LogLine) -> LogLine {
        let fit = match line.stream {
            LogStream::Stdout => &mut self.out,
            LogStream::Stderr | LogStream::Worker => &mut self.error,
        };
        let bytes = fit.piece(line.bytes);
        LogLine {
            text: String::from_utf8_lossy(&bytes).into_owned(),
            bytes,
            ..line
        }
    }

    /// What follows is not to have the colours of the job.
    fn end(&mut self) -> io::Result<()> {
        let (to_out, to_error) = self.ends();
        io::stdout().lock().write_all(&to_out)?;
        io::stderr().lock().write_all(&to_error)
    }

    /// What ends that which went to standard output, and to standard error.
    fn ends(&mut self) -> (Vec<u8>, Vec<u8>) {
        let (mut out, error) = (self.out.end(), self.error.end());
        match self.together {
            true => {
                out.extend(error);
                (out, Vec::new())
            }
            false => (out, error),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_end_where_they_were_shown() {
        let fit = || {
            let mut fit = Fit::new(Color::Always, true, true);
            fit.piece(b"\x1b[31mred".to_vec());
            fit
        };
        let reset = b"\x1b[0m".as_slice();
        for (together, expected) in [(false, [reset, reset]), (true, [b"\x1b[0m\x1b[0m", b""])] {
            let mut fits = Fits {
                out: fit(),
                error: fit(),
                together,
            };
            let (out, error) = fits.ends();
            assert_eq!([out.as_slice(), error.as_slice()], expected, "{together}");
        }
    }
}
