//! `orchestrator pause` and `resume`

use chrono::SecondsFormat;
use clap::Args;

use super::{CliError, Exit, Globals, connect, globals::Format, output};
use crate::{
    clock,
    job::JobName,
    ops::{self, PausedJob, Skipped},
    schedules::moment,
};

/// Skip the ticks of a job until it is resumed; runs by hand are not concerned
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// The job
    #[arg(value_name = "JOB")]
    job: JobName,

    /// Why, for people
    #[arg(long, value_name = "R")]
    reason: Option<String>,

    /// Go on after this by itself: RFC 3339, or local time in the job's zone
    #[arg(long, value_name = "T")]
    until: Option<String>,
}

pub(super) async fn pause(args: PauseArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let now = clock::now();
    let until = match &args.until {
        None => None,
        Some(text) => {
            let zone = ops::find_job(broker.as_ref(), &args.job).await?.timezone;
            let until = moment(text, zone).map_err(|error| {
                let message = format!("--until: {}", error.message);
                CliError::new(Exit::Usage, message).with_help(error.help)
            })?;
            if until <= now {
                return Err(CliError::new(Exit::Usage, "--until lies in the past"));
            }
            Some(until)
        }
    };
    let paused = ops::pause(broker.as_ref(), &args.job, until, args.reason, now).await?;
    print(&paused, globals, |paused| match paused.pause.until {
        Some(until) => {
            let until = until.to_rfc3339_opts(SecondsFormat::Secs, true);
            format!("{} is paused until {until}", paused.job)
        }
        None => format!("{} is paused until it is resumed", paused.job),
    })
}

/// End the pause of a job: it goes on from now, skipped ticks stay skipped
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// The job
    #[arg(value_name = "JOB")]
    job: JobName,

    /// Make up for the ticks that the pause skipped, as the job's `catch_up` and `catch_up_window`
    /// have it
    #[arg(long)]
    catch_up: bool,
}

pub(super) async fn resume(args: ResumeArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let skipped = match args.catch_up {
        true => Skipped::MadeUpFor,
        false => Skipped::Stay,
    };
    let resumed = ops::resume(broker.as_ref(), &args.job, skipped, clock::now()).await?;
    print(&resumed, globals, |resumed| match skipped {
        Skipped::MadeUpFor => format!("{} goes on, with what it has skipped", resumed.job),
        Skipped::Stay => format!("{} goes on with its next tick", resumed.job),
    })
}

fn print(
    paused: &PausedJob,
    globals: &Globals,
    text: impl Fn(&PausedJob) -> String,
) -> Result<(), CliError> {
    match globals.output {
        Format::Json => output::json(paused),
        Format::Name => output::to_stdout(paused.job.as_str()),
        Format::Table => output::to_stdout(&text(paused)),
    }
}
