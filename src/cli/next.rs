//! `orchestrator next`: when jobs come due, before anything runs.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use clap::Args;
use serde::Serialize;

use super::{CliError, Exit, Globals, output, schedules::SchedulesArgs};
use crate::{
    clock,
    job::{BlackoutName, Job, JobName, Seconds, Trigger, cron::CronTrigger, interval::Interval},
    schedules::{JobSet, moment, nearest},
};

/// Shows the next instants of a job, of all jobs, or of a trigger that is only thought of.
#[derive(Debug, Args)]
pub struct NextArgs {
    /// A job; without it the ticks of all jobs in the order of time
    #[arg(value_name = "JOB", conflicts_with_all = ["cron", "every"])]
    pub job: Option<String>,

    /// A crontab expression to try; several are united
    #[arg(
        long,
        value_name = "EXPR",
        allow_hyphen_values = true,
        conflicts_with = "every"
    )]
    pub cron: Vec<String>,

    /// An interval to try, for example 20h
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub every: Option<String>,

    /// Zone in which --cron and --after are read and times are shown; the job's own, or UTC
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    pub timezone: Option<Tz>,

    /// Start later than this: RFC 3339, or local time in the zone; now if not given
    #[arg(long, value_name = "TIME")]
    pub after: Option<String>,

    /// How many instants
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub count: u32,

    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help of the command")]
    pub schedules: SchedulesArgs,
}

fn zone(text: &str) -> Result<Tz, String> {
    text.parse().map_err(|_| {
        let names = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        match nearest(text, names) {
            Some(name) => format!("there is no time zone `{text}`; did you mean `{name}`?"),
            None => format!("there is no time zone `{text}`"),
        }
    })
}

/// One coming instant.
#[derive(Serialize)]
struct Instant {
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<JobName>,
    /// The tick, in the zone.
    at: String,
    utc: String,
    /// When its run starts: the tick and its jitter, in the zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    starts_at: Option<String>,
    /// The blackout in which it lies: it will be skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    blackout: Option<BlackoutName>,
    #[serde(skip)]
    instant: DateTime<Utc>,
    #[serde(skip)]
    jittered: bool,
}

/// A trigger whose instants are asked for.
struct Asked {
    what: What,
    shown_in: Tz,
}

enum What {
    Job(Arc<Job>),
    Trigger(Trigger),
}

impl What {
    fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Job(job) => job.next_after(after),
            Self::Trigger(trigger) => trigger.next_after(after),
        }
    }

    fn starts_at(&self, tick: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::Job(job) => job.starts_at(tick),
            Self::Trigger(_) => tick,
        }
    }

    fn blackout(&self, tick: DateTime<Utc>) -> Option<BlackoutName> {
        match self {
            Self::Job(job) => job.blackout_of(tick).map(|one| one.name.clone()),
            Self::Trigger(_) => None,
        }
    }

    fn name(&self) -> Option<JobName> {
        match self {
            Self::Job(job) => Some(job.name.clone()),
            Self::Trigger(_) => None,
        }
    }
}

/// The instants on standard output; nothing at all is no error.
pub fn run(args: NextArgs, globals: &Globals) -> Result<(), CliError> {
    let asked = asked(&args)?;
    let now = clock::now();
    let after = match &args.after {
        Some(text) => {
            let read_in = match asked.as_slice() {
                [only] => only.shown_in,
                _ => args.timezone.unwrap_or(Tz::UTC),
            };
            moment(text, read_in).map_err(|error| {
                let message = format!("--after: {}", error.message);
                CliError::new(Exit::Usage, message).with_help(error.help)
            })?
        }
        None => now,
    };
    let instants = upcoming(asked, after, args.count);
    let mut header = vec!["local", "utc", "in"];
    let with_jobs = instants.iter().any(|instant| instant.job.is_some());
    if with_jobs {
        header.insert(0, "job");
    }
    let with_starts = instants.iter().any(|instant| instant.jittered);
    if with_starts {
        header.push("starts");
    }
    let with_blackouts = instants.iter().any(|instant| instant.blackout.is_some());
    if with_blackouts {
        header.push("blackout");
    }
    output::list(
        globals.output,
        &instants,
        &header,
        |instant| match (&instant.job, &args.job) {
            (Some(job), None) => format!("{job} {}", instant.at),
            _ => instant.at.clone(),
        },
        |instant| {
            let job = instant.job.iter().map(ToString::to_string);
            let times = [
                instant.at.clone(),
                instant.utc.clone(),
                output::relative(instant.instant, now),
            ];
            let starts = with_starts.then(|| instant.starts_at.clone().unwrap_or_default());
            let blackout = instant.blackout.as_ref().map_or("", BlackoutName::as_str);
            let blackout = with_blackouts.then(|| blackout.to_owned());
            job.chain(times).chain(starts).chain(blackout).collect()
        },
    )
}

fn asked(args: &NextArgs) -> Result<Vec<Asked>, CliError> {
    let shown_in = args.timezone.unwrap_or(Tz::UTC);
    let alone = |trigger| Asked {
        what: What::Trigger(trigger),
        shown_in,
    };
    if !args.cron.is_empty() {
        let expressions = args.cron.clone();
        let read = CronTrigger::new(
            expressions,
            shown_in,
            Default::default(),
            Default::default(),
        );
        return match read {
            Ok(cron) => Ok(vec![alone(Trigger::Cron(cron))]),
            Err(error) => Err(invalid(&error, error.hint())),
        };
    }
    if let Some(text) = &args.every {
        let duration: Seconds = text.parse().map_err(|error| invalid(&error, None))?;
        let duration = duration.get();
        let interval = match duration.subsec_nanos() {
            0 => Interval::new(duration.as_secs(), 0).map_err(|error| invalid(&error, None))?,
            _ => return Err(invalid(&"an interval has whole seconds", None)),
        };
        return Ok(vec![alone(Trigger::Every(interval))]);
    }
    let set = args.schedules.load()?.set;
    match &args.job {
        Some(name) => one(&set, name, args.timezone).map(|asked| vec![asked]),
        None => Ok(set
            .iter()
            .filter(|job| job.enabled)
            .map(|job| Asked {
                what: What::Job(Arc::clone(job)),
                shown_in: args.timezone.unwrap_or(job.timezone),
            })
            .collect()),
    }
}

fn one(set: &JobSet, name: &str, timezone: Option<Tz>) -> Result<Asked, CliError> {
    let found = name.parse::<JobName>().ok();
    let Some(job) = found.and_then(|name| set.get(&name)) else {
        let error = CliError::new(Exit::NotFound, format!("there is no job `{name}`"));
        return Err(match set.nearest(name) {
            Some(near) => error.with_help(format!("did you mean `{near}`?")),
            None => error,
        });
    };
    if job.trigger == Trigger::OnDemand {
        output::to_stderr(&format!("`{name}` has no trigger: it is run by hand"));
    } else if !job.enabled {
        output::to_stderr(&format!(
            "`{name}` is disabled: it would come due at these times"
        ));
    } else if !job.trigger.anchor().is_epoch() {
        output::to_stderr(&format!(
            "`{name}` counts from its runs: these are its ticks before there is one; \
             `orchestrator jobs` shows when it is due"
        ));
    }
    Ok(Asked {
        what: What::Job(Arc::clone(job)),
        shown_in: timezone.unwrap_or(job.timezone),
    })
}

fn invalid(error: &dyn std::fmt::Display, hint: Option<String>) -> CliError {
    let error = CliError::new(Exit::InvalidSchedules, error);
    match hint {
        Some(hint) => error.with_help(hint),
        None => error,
    }
}

/// The first `count` instants of all, in the order of time.
fn upcoming(asked: Vec<Asked>, after: DateTime<Utc>, count: u32) -> Vec<Instant> {
    let mut heap: BinaryHeap<_> = asked
        .iter()
        .enumerate()
        .filter_map(|(index, one)| Some(Reverse((one.what.next_after(after)?, index))))
        .collect();
    let mut instants = Vec::new();
    while instants.len() < count as usize
        && let Some(Reverse((instant, index))) = heap.pop()
    {
        let Some(one) = asked.get(index) else {
            continue;
        };
        let local = |at: DateTime<Utc>| at.with_timezone(&one.shown_in);
        let starts_at = one.what.starts_at(instant);
        instants.push(Instant {
            job: one.what.name(),
            at: local(instant).to_rfc3339_opts(SecondsFormat::Secs, false),
            starts_at: one
                .what
                .name()
                .map(|_| local(starts_at).to_rfc3339_opts(SecondsFormat::AutoSi, false)),
            jittered: starts_at != instant,
            blackout: one.what.blackout(instant),
            utc: instant.to_rfc3339_opts(SecondsFormat::Secs, true),
            instant,
        });
        if let Some(next) = one.what.next_after(instant) {
            heap.push(Reverse((next, index)));
        }
    }
    instants
}
