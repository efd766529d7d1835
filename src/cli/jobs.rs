//! `orchestrator jobs`

use chrono::{DateTime, Utc};
use clap::Args;

use super::{CliError, Globals, connect, globals::Format, output};
use crate::{
    clock,
    ops::{self, JobsView},
};

/// The jobs: schedule, queue, last run and its state, next tick
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// Only jobs with this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
}

pub(super) async fn run(args: JobsArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let now = clock::now();
    let mut view = ops::jobs(broker.as_ref(), now).await?;
    if let Some(tag) = &args.tag {
        view.jobs.retain(|job| job.tags.contains(tag));
    }
    warn(&view, now);
    if globals.output == Format::Json {
        // The reload status is part of each listing only where it matters: a broken edit.
        return output::json(&view.jobs);
    }
    let header = [
        "job", "schedule", "queue", "next", "last", "ended", "missed", "skipped",
    ];
    output::list(
        globals.output,
        &view.jobs,
        &header,
        |job| job.name.to_string(),
        |job| {
            let next = match (&job.next, &job.paused, job.enabled) {
                (_, _, false) => "disabled".to_owned(),
                (_, Some(_), true) => "paused".to_owned(),
                (Some(next), None, true) => output::relative(next.to_utc(), now),
                (None, None, true) => "-".to_owned(),
            };
            let last = job.last.as_ref();
            vec![
                job.name.to_string(),
                job.schedule.clone(),
                job.queue.to_string(),
                next,
                last.map_or_else(|| "-".to_owned(), |last| last.state.to_string()),
                last.and_then(|last| last.finished_at)
                    .map_or_else(|| "-".to_owned(), |at| output::relative(at, now)),
                job.missed.to_string(),
                job.skipped.to_string(),
            ]
        },
    )
}

/// Tells of what keeps jobs from running as they should: beat, those that are overdue, schedules with errors.
fn warn(view: &JobsView, now: DateTime<Utc>) {
    if let Some(beat) = &view.beat {
        // By the clocks of two machines, perhaps.
        let silent = (now - beat.renewed_at).to_std().unwrap_or_default();
        if let Some(stall) = beat.stall(silent) {
            output::to_stderr(&format!(
                "warning: {stall}; start `orchestrator beat`, or read the log of the one that runs"
            ));
        } else if let Some(held_up) = &beat.held_up {
            output::to_stderr(&format!("warning: {held_up}; {}", held_up.promise()));
        }
    }
    for job in &view.jobs {
        if let Some(since) = job.overdue_since {
            let since = output::relative(since, now);
            output::to_stderr(&format!(
                "warning: `{}` should have succeeded by {since}; `orchestrator runs --job {}` shows its runs",
                job.name, job.name
            ));
        }
    }
    let differing = view.reload.as_ref();
    let differing = differing.and_then(|reload| Some((reload, reload.differing.as_ref()?)));
    if let Some((reload, differing)) = differing {
        let named: Vec<_> = differing.jobs.iter().map(|job| job.as_str()).collect();
        output::to_stderr(&format!(
            "warning: beat {} took over from {} with other schedules; {} jobs differ: {}; give all beats the same files",
            reload.beat,
            differing.before,
            differing.count,
            named.join(", ")
        ));
    }
    if let Some(reload) = view
        .reload
        .as_ref()
        .filter(|reload| !reload.errors.is_empty())
    {
        output::to_stderr(&format!(
            "warning: the schedules have had errors since {}; the set read before is in force:",
            reload.at.format("%F %T UTC")
        ));
        for error in &reload.errors {
            output::to_stderr(&format!("  {error}"));
        }
    }
}
