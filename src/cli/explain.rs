//! `orchestrator explain`

use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use clap::Args;

use super::{CliError, Exit, Globals, connect, globals::Format, output};
use crate::{
    clock,
    job::JobName,
    ops::{self, Account, Explanation, Obstacle},
    plan::{SkipReason, Undecided},
    run::RunRecord,
    schedules::moment,
};

/// Why a tick of a job ran, did not run, or ran late; and what the next one waits for
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The job
    #[arg(value_name = "JOB")]
    job: JobName,

    /// The tick: RFC 3339, or local time in the job's zone; the last one if not given
    #[arg(long, value_name = "T")]
    at: Option<String>,
}

pub(super) async fn run(args: ExplainArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let now = clock::now();
    let zone = ops::find_job(broker.as_ref(), &args.job).await?.timezone;
    let at = match &args.at {
        None => None,
        Some(text) => Some(moment(text, zone).map_err(|error| {
            let message = format!("--at: {}", error.message);
            CliError::new(Exit::Usage, message).with_help(error.help)
        })?),
    };
    let explanation = ops::explain(broker.as_ref(), &args.job, at, now).await?;
    match globals.output {
        Format::Json => output::json(&explanation),
        Format::Name => match &explanation.account {
            Some(account) => output::to_stdout(verdict(account)),
            None => Ok(()),
        },
        Format::Table => output::to_stdout(&Story { zone, now }.tell(&explanation)),
    }
}

fn verdict(account: &Account) -> &'static str {
    match account {
        Account::Fired { .. } | Account::Forgotten => "fired",
        Account::Coalesced { .. } => "coalesced",
        Account::Skipped { .. } => "skipped",
        Account::Missed { .. } => "missed",
        Account::Pending { .. } => "pending",
        Account::BeforeItCounted { .. } => "before_it_counted",
        Account::Undecided { .. } => "undecided",
        Account::Disabled { .. } => "disabled",
        Account::Unknown => "unknown",
    }
}

/// An explanation in sentences.
struct Story {
    zone: Tz,
    now: DateTime<Utc>,
}

impl Story {
    fn at(&self, at: DateTime<Utc>) -> String {
        let local = at.with_timezone(&self.zone);
        local.to_rfc3339_opts(SecondsFormat::AutoSi, true)
    }

    fn maybe(&self, at: Option<DateTime<Utc>>) -> String {
        at.map_or_else(|| "an unknown time".to_owned(), |at| self.at(at))
    }

    fn tell(&self, explanation: &Explanation) -> String {
        let mut lines = Vec::new();
        match (explanation.tick, &explanation.account) {
            (Some(tick), Some(account)) => {
                lines.push(format!("{} at {}", explanation.job, self.at(tick)));
                lines.extend(self.account(account));
            }
            _ => lines.push(format!("{} has had no tick yet", explanation.job)),
        }
        if let (Some(next), Some(starts_at)) = (explanation.next, explanation.next_starts_at) {
            let jitter = if starts_at == next {
                String::new()
            } else {
                format!(", its run starts at {} (jitter)", self.at(starts_at))
            };
            let due = output::relative(next, self.now);
            lines.push(format!("next: {} ({due}){jitter}", self.at(next)));
        } else {
            lines.push("next: none".to_owned());
        }
        let obstacles = explanation.in_the_way.iter();
        lines.extend(obstacles.map(|obstacle| format!("  but {}", self.obstacle(obstacle))));
        lines.join("\n")
    }

    fn account(&self, account: &Account) -> Vec<String> {
        let line = match account {
            Account::Fired { run, late_seconds } => return self.fired(run, *late_seconds),
            Account::Coalesced { into } => match into {
                Some(into) => format!("coalesced: {into} was run in its place"),
                None => "coalesced into a later tick".to_owned(),
            },
            Account::Skipped {
                reason,
                live,
                blackout,
            } => match (reason, live) {
                (SkipReason::Paused, _) => "skipped: the job was paused".to_owned(),
                (SkipReason::Blackout, _) => match blackout {
                    Some(blackout) => format!("skipped: the blackout `{blackout}` was in force"),
                    None => "skipped: a blackout was in force".to_owned(),
                },
                (SkipReason::Overlap, Some(live)) => format!("skipped: {live} was still live"),
                (SkipReason::Overlap, None) => "skipped: a run was still live".to_owned(),
            },
            Account::Missed { down_from, down_to } if down_to.is_some_and(|to| to > self.now) => {
                format!(
                    "missed: beat's clock went from {} to {}, which is still to come: it was ahead",
                    self.maybe(*down_from),
                    self.maybe(*down_to)
                )
            }
            Account::Missed { down_from, down_to } => format!(
                "missed: beat was down from {} to {}, and it was too late then",
                self.maybe(*down_from),
                self.maybe(*down_to)
            ),
            Account::Pending { watermark } => match watermark {
                Some(watermark) => format!(
                    "not decided yet: beat has decided on everything up to {}",
                    self.at(*watermark)
                ),
                None => "not decided yet: no beat has run".to_owned(),
            },
            Account::BeforeItCounted { counts_from } => format!(
                "not run: the job was new, edited, enabled or anchored anew at {}, and counts from then",
                self.at(*counts_from)
            ),
            Account::Undecided { from, until, why } => {
                let (from, until) = (self.at(*from), self.at(*until));
                match why {
                    Undecided::Removed => format!(
                        "not decided: the job was not in the schedules from {from} to {until}"
                    ),
                    Undecided::Lost => format!(
                        "not decided: what was known of the job was lost from {from} to {until}, and it was paused or \
                         not in the schedules then"
                    ),
                }
            }
            Account::Disabled { since } => {
                format!("skipped: the job is disabled since {}", self.at(*since))
            }
            Account::Forgotten => {
                "fired, as no other verdict is noted; its record is not kept any more".to_owned()
            }
            Account::Unknown => {
                "not known: neither a run nor a verdict of that time is kept any more".to_owned()
            }
        };
        vec![line]
    }

    fn fired(&self, run: &RunRecord, late_seconds: Option<f64>) -> Vec<String> {
        let mut lines = vec![
            format!("fired: {} is {}", run.run_id, run.state),
            format!("  published {}", self.at(run.published_at)),
        ];
        if let Some(started) = run.started_at {
            let late = late_seconds.unwrap_or_default();
            lines.push(format!("  started {}, {late:.3} s late", self.at(started)));
        }
        if let Some(finished) = run.finished_at {
            lines.push(format!("  ended {}", self.at(finished)));
        }
        lines.extend(run.reason.iter().map(|reason| format!("  {reason}")));
        lines
    }

    fn obstacle(&self, obstacle: &Obstacle) -> String {
        match obstacle {
            Obstacle::OnDemand => "it has no trigger: it is run by hand".to_owned(),
            Obstacle::Disabled => "it is disabled".to_owned(),
            Obstacle::Over => "its trigger has no further tick".to_owned(),
            Obstacle::Paused(pause) => {
                let reason = pause.reason.as_ref();
                let reason = reason.map_or(String::new(), |reason| format!(" ({reason})"));
                match pause.until {
                    Some(until) => format!("it is paused until {}{reason}", self.at(until)),
                    None => format!("it is paused{reason}: `orchestrator resume` ends that"),
                }
            }
            Obstacle::Blackout { blackout } => {
                format!("the blackout `{blackout}` is in force then: it will be skipped")
            }
            Obstacle::Live { run } => format!("{run} is live, and its runs may not overlap"),
            Obstacle::NoWorker => "no worker serves its queue at present".to_owned(),
            Obstacle::BeatIsHeldUp(held_up) => format!("{held_up}; {}", held_up.promise()),
            Obstacle::BeatIsDown { watermark } => match watermark {
                Some(watermark) => format!(
                    "beat is silent: it had decided on everything up to {}",
                    self.at(*watermark)
                ),
                None => "no beat has run yet".to_owned(),
            },
        }
    }
}
