//! `orchestrator queues`, `workers` and `dead`

use clap::{Args, Subcommand};

use super::{CliError, Exit, Globals, connect, globals::Format, output};
use crate::{clock, ops, run::RunId};

pub(super) async fn queues(globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let queues = ops::queues(broker.as_ref()).await?;
    let header = ["queue", "waiting", "running", "workers"];
    output::list(
        globals.output,
        &queues,
        &header,
        |queue| queue.queue.to_string(),
        |queue| {
            vec![
                queue.queue.to_string(),
                queue.waiting.to_string(),
                queue.running.to_string(),
                queue.workers.len().to_string(),
            ]
        },
    )
}

pub(super) async fn workers(globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let workers = ops::workers(broker.as_ref()).await?;
    let now = clock::now();
    let header = [
        "worker", "host", "queues", "running", "slots", "up since", "seen", "state",
    ];
    output::list(
        globals.output,
        &workers,
        &header,
        |worker| worker.id.clone(),
        |worker| {
            let queues: Vec<_> = worker.queues.iter().map(ToString::to_string).collect();
            vec![
                worker.id.clone(),
                worker.host.clone(),
                queues.join(" "),
                worker.running.len().to_string(),
                worker.concurrency.to_string(),
                output::relative(worker.started_at, now),
                output::relative(worker.seen_at, now),
                if worker.draining {
                    "draining"
                } else {
                    "taking"
                }
                .to_owned(),
            ]
        },
    )
}

/// The dead letters: runs that a person has to decide on
#[derive(Debug, Args)]
pub struct DeadArgs {
    #[command(subcommand)]
    what: Option<Dead>,
}

#[derive(Debug, Subcommand)]
enum Dead {
    /// List them, newest first
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Show those of one run
    Show {
        /// The run
        #[arg(value_name = "RUN")]
        run: RunId,
    },
}

/// How far back `dead show` looks.
const LOOK_BACK: usize = 10_000;

pub(super) async fn dead(args: DeadArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let broker = broker.as_ref();
    match args.what.unwrap_or(Dead::List { limit: 50 }) {
        Dead::List { limit } => {
            let letters = ops::dead_letters(broker, limit).await?;
            let now = clock::now();
            let header = ["#", "run", "queue", "given up", "reason"];
            let name = |letter: &ops::DeadView| match &letter.run_id {
                Some(run) => run.to_string(),
                None => format!("#{}", letter.sequence),
            };
            output::list(globals.output, &letters, &header, name, |letter| {
                vec![
                    letter.sequence.to_string(),
                    letter
                        .run_id
                        .as_ref()
                        .map_or_else(|| "-".to_owned(), ToString::to_string),
                    letter.queue.to_string(),
                    output::relative(letter.at, now),
                    letter.reason.clone(),
                ]
            })
        }
        Dead::Show { run } => {
            let letters = ops::dead_letters(broker, LOOK_BACK).await?;
            let of_run: Vec<_> = letters
                .into_iter()
                .filter(|letter| letter.run_id.as_ref() == Some(&run))
                .collect();
            if of_run.is_empty() {
                let message = format!("there is no dead letter of `{run}`");
                return Err(CliError::new(Exit::NotFound, message));
            }
            match globals.output {
                Format::Json => output::json(&of_run),
                Format::Name => output::to_stdout(&run.to_string()),
                Format::Table => of_run.iter().try_for_each(|letter| {
                    output::to_stdout(&format!("#{} {}", letter.sequence, letter.reason))?;
                    output::to_stdout(&letter.message)
                }),
            }
        }
    }
}
