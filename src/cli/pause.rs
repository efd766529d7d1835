//! `orchestrator pause` and `resume`

use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use clap::Args;
use serde::Serialize;

use super::{CliError, Exit, Globals, connect, globals::Format, output};
use crate::{
    clock,
    job::{JobName, QueueName},
    ops::{self, NewPause, Skipped},
    plan::Pause,
    schedules::moment,
};

/// Skip the ticks of a job until it is resumed, or take nothing from a queue; runs by hand of a paused
/// job are not concerned
#[derive(Debug, Args)]
#[group(id = "what", required = true, args = ["job", "queue"])]
pub struct PauseArgs {
    /// The job
    #[arg(value_name = "JOB")]
    job: Option<JobName>,

    /// A queue instead: what is running goes on, what comes waits
    #[arg(long, value_name = "Q")]
    queue: Option<QueueName>,

    /// Why, for people
    #[arg(long, value_name = "R")]
    reason: Option<String>,

    /// Go on after this by itself: RFC 3339, or local time in the job's zone (of a queue: UTC)
    #[arg(long, value_name = "T")]
    until: Option<String>,
}

pub(super) async fn pause(args: PauseArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let broker = broker.as_ref();
    let zone = match &args.job {
        Some(job) if args.until.is_some() => ops::find_job(broker, job).await?.timezone,
        Some(_) | None => Tz::UTC,
    };
    let now = clock::now();
    let until = args.until.as_deref().map(|text| end(text, zone, now));
    let new = NewPause {
        until: until.transpose()?,
        reason: args.reason,
        now,
    };
    match (args.job, args.queue) {
        (Some(job), _) => {
            let paused = ops::pause(broker, &job, new).await?;
            let text = is_paused(paused.job.as_str(), &paused.pause);
            print(&paused, paused.job.as_str(), &text, globals)
        }
        (None, Some(queue)) => {
            let paused = ops::pause_queue(broker, &queue, new).await?;
            let text = is_paused(&format!("queue {queue}"), &paused.pause);
            print(&paused, queue.as_str(), &text, globals)
        }
        (None, None) => Err(CliError::new(Exit::Usage, "give a job or a queue")),
    }
}

fn end(text: &str, zone: Tz, now: DateTime<Utc>) -> Result<DateTime<Utc>, CliError> {
    let until = moment(text, zone).map_err(|error| {
        let message = format!("--until: {}", error.message);
        CliError::new(Exit::Usage, message).with_help(error.help)
    })?;
    match until > now {
        true => Ok(until),
        false => Err(CliError::new(Exit::Usage, "--until lies in the past")),
    }
}

fn is_paused(what: &str, pause: &Pause) -> String {
    match pause.until {
        Some(until) => {
            let until = until.to_rfc3339_opts(SecondsFormat::Secs, true);
            format!("{what} is paused until {until}")
        }
        None => format!("{what} is paused until it is resumed"),
    }
}

/// End the pause of a job or a queue: a job goes on from now, skipped ticks stay skipped
#[derive(Debug, Args)]
#[group(id = "what", required = true, args = ["job", "queue"])]
pub struct ResumeArgs {
    /// The job
    #[arg(value_name = "JOB")]
    job: Option<JobName>,

    /// A queue instead
    #[arg(long, value_name = "Q")]
    queue: Option<QueueName>,

    /// Make up for the ticks that the pause skipped, as the job's `catch_up` and `catch_up_window`
    /// have it
    #[arg(long, conflicts_with = "queue")]
    catch_up: bool,
}

pub(super) async fn resume(args: ResumeArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let broker = broker.as_ref();
    let skipped = match args.catch_up {
        true => Skipped::MadeUpFor,
        false => Skipped::Stay,
    };
    match (args.job, args.queue) {
        (Some(job), _) => {
            let resumed = ops::resume(broker, &job, skipped, clock::now()).await?;
            let text = match skipped {
                Skipped::MadeUpFor => format!("{job} goes on, with what it has skipped"),
                Skipped::Stay => format!("{job} goes on with its next tick"),
            };
            print(&resumed, job.as_str(), &text, globals)
        }
        (None, Some(queue)) => {
            let resumed = ops::resume_queue(broker, &queue, clock::now()).await?;
            let text = format!("queue {queue} goes on");
            print(&resumed, queue.as_str(), &text, globals)
        }
        (None, None) => Err(CliError::new(Exit::Usage, "give a job or a queue")),
    }
}

fn print(
    paused: &impl Serialize,
    name: &str,
    text: &str,
    globals: &Globals,
) -> Result<(), CliError> {
    match globals.output {
        Format::Json => output::json(paused),
        Format::Name => output::to_stdout(name),
        Format::Table => output::to_stdout(text),
    }
}
