//! `orchestrator run JOB`

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{CliError, Exit, Globals, connect, globals::Format, output};
use crate::{
    clock,
    job::{JobName, Seconds},
    ops::{self, Submission},
    run::{RunId, RunRecord, RunState},
};

/// Run a job now, or later
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The job
    #[arg(value_name = "JOB")]
    job: JobName,

    /// An argument of the job, as text; may be repeated
    #[arg(long = "arg", value_name = "K=V", value_parser = key_value)]
    arg: Vec<(String, String)>,

    /// Arguments of the job as a JSON object; --arg wins over it
    #[arg(long, value_name = "JSON", value_parser = object)]
    args: Option<Map<String, Value>>,

    /// Not before this instant (RFC 3339)
    #[arg(long, value_name = "T", conflicts_with = "in")]
    at: Option<DateTime<Utc>>,

    /// Not before so long from now
    #[arg(long, value_name = "D")]
    r#in: Option<Seconds>,

    /// Wait for the end; exit 1 unless it succeeded
    #[arg(long)]
    wait: bool,

    /// Give up waiting after so long (exit 8); the run goes on
    #[arg(long, value_name = "D", requires = "wait")]
    wait_timeout: Option<Seconds>,

    /// End with the job's own exit code
    #[arg(long, requires = "wait")]
    propagate_exit: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("write it as NAME=VALUE".to_owned()),
    }
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

pub(super) async fn run(args: RunArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let now = clock::now();
    let mut arguments = args.args.unwrap_or_default();
    let given = args.arg.into_iter();
    arguments.extend(given.map(|(key, value)| (key, Value::String(value))));
    let not_before = match (args.at, args.r#in) {
        (Some(at), _) => Some(at),
        (None, Some(delay)) => Some(later(now, delay.get())?),
        (None, None) => None,
    };
    let wish = Submission {
        job: args.job,
        args: arguments,
        not_before,
        parent: parent(),
        unique: Uuid::now_v7(),
        now,
    };
    let submitted = ops::submit(broker.as_ref(), wish).await?;
    if !args.wait {
        return match globals.output {
            Format::Json => output::json(&submitted),
            Format::Table | Format::Name => output::to_stdout(&submitted.run_id.to_string()),
        };
    }
    if !globals.quiet {
        output::to_stderr(&format!("waiting for {}", submitted.run_id));
    }
    let limit = args.wait_timeout.map(Seconds::get);
    let record = ops::wait_for(
        broker.as_ref(),
        &submitted.run_id,
        limit,
        output::tell_outage,
    )
    .await?;
    match globals.output {
        Format::Json => output::json(&record)?,
        Format::Name => output::to_stdout(&record.run_id.to_string())?,
        Format::Table => output::to_stdout(&format!("{} {}", record.run_id, record.state))?,
    }
    if args.propagate_exit {
        return propagate(&record);
    }
    match record.state {
        RunState::Succeeded => Ok(()),
        _ => Err(CliError::silent(Exit::Failed)),
    }
}

/// Runs that a job starts belong to the run that starts them.
pub(super) fn parent() -> Option<RunId> {
    let text = std::env::var("ORCHESTRATOR_RUN_ID").ok()?;
    text.parse().ok()
}

fn later(now: DateTime<Utc>, delay: Duration) -> Result<DateTime<Utc>, CliError> {
    chrono::Duration::from_std(delay)
        .ok()
        .and_then(|delay| now.checked_add_signed(delay))
        .ok_or_else(|| CliError::new(Exit::Usage, "--in lies beyond the end of time"))
}

fn propagate(record: &RunRecord) -> Result<(), CliError> {
    let exit = record
        .attempts
        .last()
        .and_then(|attempt| attempt.exit.clone());
    match (record.state, exit) {
        (RunState::Succeeded, _) => Ok(()),
        (_, Some(crate::run::Exit::Code(code))) => {
            let code = u8::try_from(code).unwrap_or(1);
            Err(CliError::silent(Exit::Propagated(code)))
        }
        (_, Some(crate::run::Exit::Signal(signal))) => {
            let code = u8::try_from(128 + signal).unwrap_or(1);
            Err(CliError::silent(Exit::Propagated(code)))
        }
        (_, Some(crate::run::Exit::NotStarted(_)) | None) => Err(CliError::silent(Exit::Failed)),
    }
}
