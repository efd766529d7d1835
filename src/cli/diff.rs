//! `orchestrator diff`

use std::path::PathBuf;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use serde_json::Value;

use super::{CliError, Exit, Globals, connect, globals::Format, output, schedules::SchedulesArgs};
use crate::{
    clock,
    ops::{self, JobChange, JobDiff, ValueChange},
};

/// What would change if beat read the schedules now, compared with the set in force
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The schedules to compare with those in force
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// End with 1 if anything differs
    #[arg(long)]
    exit_code: bool,
}

pub(super) async fn run(args: DiffArgs, globals: &Globals) -> Result<(), CliError> {
    let schedules = SchedulesArgs {
        schedules: args.dir,
    };
    let wanted = schedules.load()?.set;
    let broker = connect::any_broker(globals).await?;
    let found = ops::diff(broker.as_ref(), wanted.iter(), clock::now()).await?;
    match globals.output {
        Format::Json => output::json(&found)?,
        Format::Name => {
            for job in &found {
                output::to_stdout(job.job.as_str())?;
            }
        }
        Format::Table if found.is_empty() => output::to_stdout("no difference")?,
        Format::Table => {
            for job in &found {
                for line in lines(job) {
                    output::to_stdout(&line)?;
                }
            }
        }
    }
    match args.exit_code && !found.is_empty() {
        true => Err(CliError::silent(Exit::Failed)),
        false => Ok(()),
    }
}

fn lines(diff: &JobDiff) -> Vec<String> {
    let at = |at: Option<DateTime<Utc>>| {
        at.map_or_else(
            || "none".to_owned(),
            |at| at.to_rfc3339_opts(SecondsFormat::Secs, true),
        )
    };
    let (before, after) = (at(diff.next_before), at(diff.next_after));
    match &diff.change {
        JobChange::Added => vec![format!("+ {}, next tick {after}", diff.job)],
        JobChange::Removed => vec![format!("- {}, its next tick was {before}", diff.job)],
        JobChange::Changed {
            values,
            counts_from_now,
        } => {
            let mut lines = vec![format!("~ {}", diff.job)];
            lines.extend(values.iter().map(value));
            if *counts_from_now {
                lines
                    .push("    its schedule starts from the reload: nothing is back-filled".into());
            }
            if before != after {
                lines.push(format!("    next tick: {before} -> {after}"));
            }
            lines
        }
    }
}

fn value(change: &ValueChange) -> String {
    let text = |value: &Option<Value>| match value {
        Some(value) => value.to_string(),
        None => "(not given)".to_owned(),
    };
    format!(
        "    {}: {} -> {}",
        change.path,
        text(&change.before),
        text(&change.after)
    )
}
