//! `orchestrator dead` and `retry`

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::{
    CliError, Exit, Globals, connect, globals::Format, output, signing::Signing, terminal::one_line,
};
use crate::{
    broker::Broker,
    clock,
    job::{JobName, QueueName},
    ops::{self, DeadFilter, DeadView, Decided, LetterRef, Position},
    run::RunId,
};

/// The dead letters: runs that a person has to decide on
#[derive(Debug, Args)]
pub struct DeadArgs {
    #[command(subcommand)]
    what: Option<Dead>,
}

#[derive(Debug, Subcommand)]
enum Dead {
    /// List them, newest first
    List(ListArgs),
    /// Show one: why it was given up, the end of its output, its message
    Show {
        /// The run, or the number of the letter
        #[arg(value_name = "RUN")]
        letter: LetterRef,
    },
    /// Run them again, as their jobs are defined now, and remove them
    Retry {
        #[command(flatten)]
        which: Selection,

        #[command(flatten)]
        signing: Signing,
    },
    /// Remove them
    Discard(Selection),
}

#[derive(Debug, Args, Default)]
struct ListArgs {
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, conflicts_with = "group")]
    limit: usize,

    /// Count them by job and reason
    #[arg(long)]
    group: bool,

    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, Args, Default)]
struct Filter {
    /// Those of this job
    #[arg(long, value_name = "JOB")]
    job: Option<JobName>,

    /// Those from this queue
    #[arg(long, value_name = "Q")]
    queue: Option<QueueName>,

    /// Those with this text in their reason
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = true, args = ["letters", "job", "queue", "reason", "all"])]
struct Selection {
    /// The runs, or the numbers of the letters
    #[arg(value_name = "RUN", conflicts_with = "all")]
    letters: Vec<LetterRef>,

    #[command(flatten)]
    filter: Filter,

    /// All of them
    #[arg(long, conflicts_with_all = ["job", "queue", "reason"])]
    all: bool,
}

impl Filter {
    fn about(self, letters: Vec<LetterRef>) -> DeadFilter {
        DeadFilter {
            letters,
            job: self.job,
            queue: self.queue,
            reason: self.reason,
        }
    }
}

pub(super) async fn dead(args: DeadArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = match &args.what {
        Some(Dead::Retry { signing, .. }) => connect::publishing_broker(globals, signing).await?,
        Some(Dead::List(_) | Dead::Show { .. } | Dead::Discard(_)) | None => {
            connect::any_broker(globals).await?
        }
    };
    let broker = broker.as_ref();
    let default = || {
        Dead::List(ListArgs {
            limit: 50,
            ..ListArgs::default()
        })
    };
    match args.what.unwrap_or_else(default) {
        Dead::List(args) if args.group => groups(broker, args.filter, globals).await,
        Dead::List(args) => list(broker, args, globals).await,
        Dead::Show { letter } => show(broker, letter, globals).await,
        Dead::Retry {
            which: Selection {
                letters, filter, ..
            },
            ..
        } => {
            let filter = filter.about(letters);
            let decided = ops::retry_dead(broker, &filter, clock::now()).await?;
            tell(&decided, &filter, globals)
        }
        Dead::Discard(Selection {
            letters, filter, ..
        }) => {
            let filter = filter.about(letters);
            let decided = ops::discard_dead(broker, &filter).await?;
            tell(&decided, &filter, globals)
        }
    }
}

fn name(sequence: u64, run: Option<&RunId>) -> String {
    run.map_or_else(|| format!("#{sequence}"), ToString::to_string)
}

async fn list(broker: &dyn Broker, args: ListArgs, globals: &Globals) -> Result<(), CliError> {
    let filter = args.filter.about(Vec::new());
    let letters = ops::dead_letters(broker, &filter, args.limit).await?;
    let now = clock::now();
    let header = ["#", "run", "queue", "given up", "reason"];
    output::list(
        globals.output,
        &letters,
        &header,
        |letter| name(letter.sequence, letter.run_id.as_ref()),
        |letter| {
            let run = letter.run_id.as_ref();
            vec![
                letter.sequence.to_string(),
                run.map_or_else(|| "-".to_owned(), ToString::to_string),
                letter.queue.to_string(),
                output::relative(letter.at, now),
                letter.reason.clone(),
            ]
        },
    )
}

async fn groups(broker: &dyn Broker, filter: Filter, globals: &Globals) -> Result<(), CliError> {
    let groups = ops::dead_groups(broker, &filter.about(Vec::new())).await?;
    let now = clock::now();
    let job = |job: &Option<JobName>| {
        job.as_ref()
            .map_or_else(|| "-".to_owned(), ToString::to_string)
    };
    output::list(
        globals.output,
        &groups,
        &["job", "letters", "last", "reason"],
        |group| job(&group.job),
        |group| {
            vec![
                job(&group.job),
                group.count.to_string(),
                output::relative(group.last_at, now),
                group.reason.clone(),
            ]
        },
    )
}

async fn show(broker: &dyn Broker, letter: LetterRef, globals: &Globals) -> Result<(), CliError> {
    let filter = Filter::default().about(vec![letter]);
    let found = ops::whole_dead_letters(broker, &filter).await?;
    if found.is_empty() {
        return Err(none(&filter));
    }
    match globals.output {
        Format::Json => output::json(&found),
        Format::Name => found.iter().try_for_each(|letter| {
            output::to_stdout(&name(letter.sequence, letter.run_id.as_ref()))
        }),
        Format::Table => {
            for letter in &found {
                describe(broker, letter).await?;
            }
            Ok(())
        }
    }
}

/// How many lines of output are shown.
const TAIL: usize = 20;

async fn describe(broker: &dyn Broker, letter: &DeadView) -> Result<(), CliError> {
    let run = letter.run_id.as_ref();
    let rows = [
        ("letter", format!("#{}", letter.sequence)),
        (
            "run",
            run.map_or_else(|| "-".to_owned(), ToString::to_string),
        ),
        ("queue", letter.queue.to_string()),
        (
            "signed",
            letter.signed_by.as_ref().map_or_else(
                || "no".to_owned(),
                |key| format!("by the key {key}, as it says"),
            ),
        ),
        ("given up", letter.at.format("%F %T%.3f UTC").to_string()),
        ("reason", letter.reason.clone()),
    ];
    for (name, value) in rows {
        output::to_stdout(&format!("{name:<17}{}", one_line(&value)))?;
    }
    let mut tail = std::collections::VecDeque::new();
    if let Some(run) = run {
        let mut position = Position::default();
        loop {
            let pieces = ops::read_logs(broker, run, &mut position).await?;
            if pieces.is_empty() {
                break;
            }
            for line in pieces.iter().flat_map(|piece| piece.text.lines()) {
                tail.push_back(line.to_owned());
                if tail.len() > TAIL {
                    tail.pop_front();
                }
            }
        }
    }
    if !tail.is_empty() {
        output::to_stdout("\nthe end of its output:")?;
        for line in tail {
            output::to_stdout(&format!("  {line}"))?;
        }
    }
    let of = letter.message_of.as_ref().map(ToString::to_string);
    let queue = letter.message_for.as_ref().map(ToString::to_string);
    for (what, other) in [("run", of), ("queue", queue)] {
        if let Some(other) = other {
            output::to_stdout(&format!("\nits message is for another {what}: {other}"))?;
        }
    }
    output::to_stdout("\nits message:")?;
    // With one member a line there is nothing to be overlooked.
    match serde_json::from_str::<serde_json::Value>(&letter.message) {
        Ok(message) => output::json(&message),
        Err(_) => output::to_stdout(&letter.message),
    }
}

fn tell(decided: &[Decided], filter: &DeadFilter, globals: &Globals) -> Result<(), CliError> {
    if decided.is_empty() && !filter.letters.is_empty() {
        return Err(none(filter));
    }
    match globals.output {
        Format::Json => output::json(&decided)?,
        Format::Name | Format::Table => {
            for one in decided {
                let letter = name(one.sequence, one.run_id.as_ref());
                match (&one.retried_as, &one.error) {
                    (Some(run), _) => output::to_stdout(&run.to_string())?,
                    (None, Some(error)) => output::to_stderr(&format!("{letter}: {error}")),
                    (None, None) => output::to_stdout(&letter)?,
                }
            }
        }
    }
    match decided.iter().filter(|one| one.error.is_some()).count() {
        0 => Ok(()),
        left => {
            let message = format!(
                "{left} of {} dead letters could not be retried",
                decided.len()
            );
            Err(CliError::new(Exit::Conflict, message))
        }
    }
}

fn none(filter: &DeadFilter) -> CliError {
    let wanted: Vec<_> = filter.letters.iter().map(ToString::to_string).collect();
    let message = format!("there is no dead letter of `{}`", wanted.join("`, `"));
    CliError::new(Exit::NotFound, message).with_help("`orchestrator dead list` has them all")
}

/// Run again what has ended: as its job is defined now, with the arguments of then
#[derive(Debug, Args)]
pub struct RetryArgs {
    /// The runs
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<RunId>,

    #[command(flatten)]
    signing: Signing,
}

pub(super) async fn retry(args: RetryArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = connect::publishing_broker(globals, &args.signing).await?;
    let mut new = Vec::new();
    for run in &args.runs {
        let again = ops::retry(broker.as_ref(), run, Uuid::now_v7(), clock::now()).await?;
        if globals.output != Format::Json {
            output::to_stdout(&again.to_string())?;
        }
        new.push(serde_json::json!({ "run_id": again, "retry_of": run }));
    }
    match globals.output {
        Format::Json => output::json(&new),
        Format::Table | Format::Name => Ok(()),
    }
}
