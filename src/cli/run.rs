//! `orchestrator run JOB`

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{CliError, Exit, Globals, batch, connect, globals::Format, output, signing::Signing};
use crate::{
    clock,
    job::{Holds, JobName, Seconds, Unique},
    ops::{self, Same, Submission},
    run::{RunId, RunRecord, RunState},
};

/// What workers that demand signatures do with a run without one.
const UNSIGNED: &str = "warning: beat signs here, and this run is not signed: a worker that demands signatures takes it to \
    the dead letters instead of executing it; sign with --signing-key FILE or ORCHESTRATOR_SIGNING_KEY";

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

    /// A run for each line of a file, or of standard input (`-`): JSON objects with arguments. Their ids
    /// are printed as they are accepted
    #[arg(long, value_name = "FILE", conflicts_with = "wait")]
    batch: Option<String>,

    /// The same as another run with this key: that one is given in place of a new one
    #[arg(
        long,
        value_name = "KEY",
        requires = "unique_for",
        conflicts_with = "batch"
    )]
    unique_key: Option<String>,

    /// How long after the first run with this key, at most 31 days
    #[arg(long, value_name = "D", requires = "unique_key")]
    unique_for: Option<Seconds>,

    /// Wait for the end; exit 1 unless it succeeded
    #[arg(long)]
    wait: bool,

    /// Give up waiting after so long (exit 8); the run goes on
    #[arg(long, value_name = "D", requires = "wait")]
    wait_timeout: Option<Seconds>,

    #[command(flatten)]
    signing: Signing,

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
    let broker = connect::publishing_broker(globals, &args.signing).await?;
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
        args: arguments,
        not_before,
        parent: parent(),
        same: same(args.unique_key, args.unique_for)?,
        id: Uuid::now_v7(),
        now,
    };
    if broker.authority().is_none()
        && !globals.quiet
        && ops::is_signed(broker.as_ref(), &args.job).await?
    {
        output::to_stderr(UNSIGNED);
    }
    if let Some(source) = args.batch.as_deref() {
        return batch::run(broker.as_ref(), &args.job, source.into(), &wish, globals).await;
    }
    let submitted = ops::submit(broker.as_ref(), &args.job, wish).await?;
    if submitted.existing && !globals.quiet {
        output::to_stderr("it was there already: no new run was made");
    }
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

fn same(key: Option<String>, lasts: Option<Seconds>) -> Result<Option<Same>, CliError> {
    let (Some(key), Some(lasts)) = (key, lasts) else {
        return Ok(None);
    };
    if lasts > Unique::LONGEST {
        return Err(CliError::new(
            Exit::Usage,
            "--unique-for is longer than 31 days",
        ));
    }
    Ok(Some(Same {
        key,
        lasts: lasts.get(),
        holds: Holds::Finished,
    }))
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
        (_, Some(_) | None) => Err(CliError::silent(Exit::Failed)),
    }
}
