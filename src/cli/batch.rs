//! `orchestrator run JOB --batch`

use std::{
    cell::Cell,
    fs::File,
    io::{self, BufRead, BufReader},
    path::PathBuf,
    time::Duration,
};

use futures::{Stream, StreamExt, future};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{CliError, Exit, Globals, globals::Format, output};
use crate::{
    broker::Broker,
    clock,
    job::JobName,
    ops::{OpsError, Submission, Submitted, Submitter},
};

/// How many runs are on their way to the broker at once.
const AT_ONCE: usize = 512;
/// How many lines are read ahead.
const AHEAD: usize = 1024;
/// How often a run is published before it is given up, if the broker is away.
const TRIES: u32 = 8;
/// The first pause between two tries; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// How many lines that went wrong are told.
const TOLD: u64 = 20;

/// Where the lines come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    StandardInput,
    File(PathBuf),
}

impl From<&str> for Source {
    fn from(text: &str) -> Self {
        match text {
            "-" => Self::StandardInput,
            path => Self::File(path.into()),
        }
    }
}

/// How many lines became what.
#[derive(Debug, Default)]
struct Count {
    accepted: u64,
    existing: u64,
    failed: u64,
}

/// Why a line did not become a run.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("not a JSON object: {0}")]
    Json(#[from] serde_json::Error),
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("is not UTF-8: {0}")]
    Text(#[from] std::string::FromUtf8Error),
    #[error(transparent)]
    Refused(#[from] OpsError),
}

/// One run for each line, each a JSON object with arguments that are laid over those of `wish`. A line that is
/// wrong is told, and the others go on.
pub(super) async fn run(
    broker: &dyn Broker,
    job: &JobName,
    source: Source,
    wish: &Submission,
    globals: &Globals,
) -> Result<(), CliError> {
    let submitter = Submitter::prepare(broker, job).await?;
    submitter.check_many()?;
    // Set as soon as the broker takes no more: what is on its way is waited for, and nothing else is begun.
    let (refused, left) = (Cell::new(false), Cell::new(None));
    let begun = lines(source)?.take_while(|(number, _)| {
        if refused.get() {
            left.set(Some(*number));
        }
        future::ready(!refused.get())
    });
    let submitted = begun.map(|(number, line)| {
        let submitter = &submitter;
        async move { (number, submit(submitter, line, wish).await) }
    });
    let mut submitted = std::pin::pin!(submitted.buffered(AT_ONCE));
    let mut count = Count::default();
    let (mut ended_by, mut not_taken) = (None, Vec::new());
    while let Some((number, done)) = submitted.next().await {
        match done {
            Ok(run) => {
                match run.existing {
                    true => count.existing += 1,
                    false => count.accepted += 1,
                }
                tell(&run, globals)?;
            }
            Err(error) => {
                count.failed += 1;
                if count.failed <= TOLD {
                    output::to_stderr(&format!("line {number}: {error}"));
                }
                match error {
                    Failure::Refused(OpsError::Broker(error)) => {
                        // What follows would fare no better.
                        refused.set(true);
                        ended_by.get_or_insert(error);
                        not_taken.push(number);
                    }
                    // Nor can anything behind it be read.
                    Failure::Read(_) => left.set(Some(number)),
                    Failure::Text(_) | Failure::Json(_) | Failure::Refused(_) => {}
                }
            }
        }
    }
    count.tell(globals);
    tell_left(&not_taken, left.get());
    if let Some(error) = ended_by {
        return Err(CliError::from(error).with_help(
            "send the lines that were not taken or not tried once more, when `orchestrator doctor` has nothing to mend. \
             `unique` in the job keeps a line from becoming two runs whose answer alone was lost",
        ));
    }
    match count.failed {
        0 => Ok(()),
        failed => {
            let message = format!("{failed} lines did not become runs");
            Err(CliError::new(Exit::Failed, message))
        }
    }
}

async fn submit(
    submitter: &Submitter<'_>,
    line: io::Result<Vec<u8>>,
    wish: &Submission,
) -> Result<Submitted, Failure> {
    let own: Map<String, Value> = serde_json::from_str(&String::from_utf8(line?)?)?;
    let mut args = wish.args.clone();
    args.extend(own);
    let wish = Submission {
        args,
        id: Uuid::now_v7(),
        now: clock::now(),
        ..wish.clone()
    };
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match submitter.submit(wish.clone()).await {
            // The same id: the broker takes it once.
            Err(OpsError::Broker(error)) if error.is_transient() => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            done => return Ok(done?),
        }
    }
    Ok(submitter.submit(wish).await?)
}

fn tell(run: &Submitted, globals: &Globals) -> Result<(), CliError> {
    match globals.output {
        // One line each: nobody is to wait for the last one.
        Format::Json => output::json_line(run),
        Format::Table | Format::Name => output::to_stdout(&run.run_id.to_string()),
    }
}

/// Tells which lines have to be sent once more.
fn tell_left(not_taken: &[u64], not_tried: Option<u64>) {
    if !not_taken.is_empty() {
        output::to_stderr(&format!("not taken: {}", ranges(not_taken)));
    }
    if let Some(number) = not_tried {
        output::to_stderr(&format!("line {number} and all after it were not tried"));
    }
}

/// Numbers that ascend, as people write them: `3, 5-9`.
fn ranges(numbers: &[u64]) -> String {
    let ranges = numbers.chunk_by(|a, b| a + 1 == *b);
    let words = ranges.map(|range| match range {
        [first, .., last] => format!("{first}-{last}"),
        _ => range.iter().map(u64::to_string).collect(),
    });
    format!("lines {}", words.collect::<Vec<_>>().join(", "))
}

impl Count {
    fn tell(&self, globals: &Globals) {
        if !globals.quiet {
            output::to_stderr(&format!(
                "accepted {}, there already {}, failed {}",
                self.accepted, self.existing, self.failed
            ));
        }
    }
}

/// The lines that are not empty, with their numbers. Read by a thread of its own: standard input cannot be
/// waited for otherwise.
fn lines(source: Source) -> Result<impl Stream<Item = (u64, io::Result<Vec<u8>>)>, CliError> {
    let reader: Box<dyn BufRead + Send> = match source {
        Source::StandardInput => Box::new(BufReader::new(io::stdin())),
        Source::File(path) => {
            let file = File::open(&path).map_err(|error| {
                let message = format!("{} cannot be read: {error}", path.display());
                CliError::new(Exit::Usage, message)
            })?;
            Box::new(BufReader::new(file))
        }
    };
    let (sender, receiver) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        for (number, line) in (1..).zip(reader.split(b'\n')) {
            let is_last = line.is_err();
            let is_blank = line.as_ref().is_ok_and(|line| line.trim_ascii().is_empty());
            if !is_blank && sender.blocking_send((number, line)).is_err() || is_last {
                return;
            }
        }
    });
    Ok(futures::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|line| (line, receiver))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_as_ranges() {
        assert_eq!(ranges(&[3]), "lines 3");
        assert_eq!(ranges(&[1, 2, 4, 7, 8, 9]), "lines 1-2, 4, 7-9");
    }
}
