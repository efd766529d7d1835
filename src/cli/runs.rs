//! `orchestrator runs`, `show` and `cancel`

use std::collections::BTreeSet;

use clap::Args;

use super::{CliError, Exit, Globals, connect, globals::Format, output, terminal::one_line};
use crate::{
    broker::Broker,
    clock,
    job::{JobName, QueueName, Seconds},
    ops::{self, RunFilter},
    run::{RunId, RunRecord, RunState},
};

/// The runs, newest first
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// Only of this job
    #[arg(long, value_name = "J")]
    job: Option<JobName>,

    /// Only those that this run asked for
    #[arg(long, value_name = "RUN")]
    parent: Option<RunId>,

    /// Only in this state; may be repeated
    #[arg(long, value_name = "S")]
    state: Vec<RunState>,

    /// Only on this queue
    #[arg(long, value_name = "Q")]
    queue: Option<QueueName>,

    /// Only published within so long before now
    #[arg(long, value_name = "D")]
    since: Option<Seconds>,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

pub(super) async fn run(args: RunsArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let now = clock::now();
    let since = args.since.and_then(|since| {
        let span = chrono::Duration::from_std(since.get()).ok()?;
        now.checked_sub_signed(span)
    });
    let filter = RunFilter {
        job: args.job,
        parent: args.parent,
        states: args.state,
        queue: args.queue,
        since,
        limit: args.limit,
    };
    let runs = ops::runs(broker.as_ref(), &filter).await?;
    let header = [
        "run", "state", "queue", "attempts", "started", "took", "exit",
    ];
    let name = |run: &RunRecord| run.run_id.to_string();
    output::list(globals.output, &runs, &header, name, |run| {
        vec![
            run.run_id.to_string(),
            run.state.to_string(),
            run.queue.to_string(),
            attempts(run).to_string(),
            run.started_at
                .map_or_else(|| "-".to_owned(), |at| output::relative(at, now)),
            took(run).unwrap_or_else(|| "-".to_owned()),
            exit(run).unwrap_or_else(|| "-".to_owned()),
        ]
    })?;
    if globals.quiet {
        return Ok(());
    }
    let listed = runs.iter().map(|run| run.run_id.job());
    let jobs: BTreeSet<_> = listed.chain(&filter.job).collect();
    for (job, ledger) in ops::ledgers(broker.as_ref(), jobs).await? {
        output::to_stderr(&format!(
            "ticks of {job} that were not run: missed {}, skipped {}, coalesced {} \
             (`orchestrator explain {job}` says why)",
            ledger.missed, ledger.skipped, ledger.coalesced
        ));
    }
    Ok(())
}

/// Everything that is known of a run
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The run
    #[arg(value_name = "RUN")]
    run: RunId,
}

pub(super) async fn show(args: ShowArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let record = ops::find_run(broker.as_ref(), &args.run).await?;
    match globals.output {
        Format::Json => output::json(&record),
        Format::Name => output::to_stdout(&record.run_id.to_string()),
        Format::Table => print(&record),
    }
}

/// Cancel a run that has not ended
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The run
    #[arg(value_name = "RUN")]
    run: RunId,

    /// And all runs that it asked for, and those that they asked for
    #[arg(long, conflicts_with_all = ["wait", "wait_timeout"])]
    tree: bool,

    /// Wait until it has ended
    #[arg(long)]
    wait: bool,

    /// Give up waiting after so long (exit 8)
    #[arg(long, value_name = "D", requires = "wait")]
    wait_timeout: Option<Seconds>,
}

pub(super) async fn cancel(args: CancelArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    if args.tree {
        return cancel_tree(broker.as_ref(), &args.run, globals).await;
    }
    let mut record = ops::cancel(broker.as_ref(), &args.run).await?;
    if args.wait && !record.state.is_final() {
        let limit = args.wait_timeout.map(Seconds::get);
        record = ops::wait_for(broker.as_ref(), &args.run, limit, output::tell_outage).await?;
    }
    match globals.output {
        Format::Json => output::json(&record)?,
        Format::Name => output::to_stdout(&record.run_id.to_string())?,
        Format::Table if record.state.is_final() => {
            output::to_stdout(&format!("{} {}", record.run_id, record.state))?;
        }
        Format::Table => output::to_stdout(&format!(
            "{} is being cancelled by its worker",
            record.run_id
        ))?,
    }
    match record.state {
        RunState::Succeeded | RunState::Failed | RunState::Dead => Err(CliError::new(
            Exit::Conflict,
            format!("it ended as {} before it could be cancelled", record.state),
        )),
        _ => Ok(()),
    }
}

async fn cancel_tree(broker: &dyn Broker, run: &RunId, globals: &Globals) -> Result<(), CliError> {
    let cancelled = ops::cancel_tree(broker, run).await?;
    match globals.output {
        Format::Json => output::json(&cancelled),
        Format::Name => cancelled
            .iter()
            .try_for_each(|record| output::to_stdout(&record.run_id.to_string())),
        Format::Table => cancelled.iter().try_for_each(|record| {
            let state = match record.state.is_final() {
                true => record.state.to_string(),
                false => "is being cancelled by its worker".to_owned(),
            };
            output::to_stdout(&format!("{} {state}", record.run_id))
        }),
    }
}

fn attempts(run: &RunRecord) -> u32 {
    let last = run.attempts.last();
    last.map_or(0, |attempt| attempt.number)
}

fn took(run: &RunRecord) -> Option<String> {
    let took = (run.finished_at? - run.started_at?).to_std().ok()?;
    Some(format!("{:.1}s", took.as_secs_f64()))
}

fn exit(run: &RunRecord) -> Option<String> {
    let exit = run.attempts.last()?.exit.as_ref()?;
    Some(exit.summary())
}

fn print(run: &RunRecord) -> Result<(), CliError> {
    let time = |at: chrono::DateTime<chrono::Utc>| at.format("%F %T%.3f UTC").to_string();
    let mut rows = vec![
        ("run", Some(run.run_id.to_string())),
        ("state", Some(run.state.to_string())),
        ("reason", run.reason.clone()),
        ("queue", Some(run.queue.to_string())),
        ("parent", run.parent.as_ref().map(ToString::to_string)),
        ("retry of", run.retry_of.as_ref().map(ToString::to_string)),
        ("scheduled for", Some(time(run.scheduled_for))),
        ("published", Some(time(run.published_at))),
        ("started", run.started_at.map(time)),
        ("finished", run.finished_at.map(time)),
        ("next attempt", run.next_attempt_at.map(time)),
        ("cancel requested", run.cancel_requested_at.map(time)),
    ];
    if !run.args.is_empty() {
        rows.push(("args", serde_json::to_string(&run.args).ok()));
    }
    if let Some(result) = &run.result {
        rows.push(("result", Some(result.to_string())));
    }
    if let Some(waiting) = &run.waiting {
        let until = waiting
            .until
            .map(|until| format!(", starts {}", time(until)));
        let text = format!(
            "{} {} since {}{}",
            waiting.what,
            waiting.name,
            time(waiting.since),
            until.unwrap_or_default()
        );
        rows.push(("waiting for", Some(text)));
    }
    for (name, value) in rows {
        if let Some(value) = value {
            output::to_stdout(&format!("{name:<17}{}", one_line(&value)))?;
        }
    }
    if run.attempts.is_empty() {
        return Ok(());
    }
    output::to_stdout("")?;
    let header = ["attempt", "worker", "started", "took", "end", "exit"];
    let rows = run.attempts.iter().map(|attempt| {
        let took = attempt
            .finished_at
            .and_then(|end| (end - attempt.started_at).to_std().ok());
        let end = attempt.end.map(|end| format!("{end:?}").to_lowercase());
        vec![
            attempt.number.to_string(),
            attempt.worker.clone(),
            time(attempt.started_at),
            took.map_or_else(
                || "-".to_owned(),
                |took| format!("{:.1}s", took.as_secs_f64()),
            ),
            end.unwrap_or_else(|| "-".to_owned()),
            attempt
                .exit
                .as_ref()
                .map_or_else(|| "-".to_owned(), crate::run::Exit::summary),
        ]
    });
    output::table(&header, rows.collect())
}
