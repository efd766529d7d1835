//! `orchestrator simulate`

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, BufWriter, Write},
    str::FromStr,
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use serde::Serialize;

use super::{CliError, Exit, Globals, globals::Format, schedules::SchedulesArgs};
use crate::{
    job::{JobName, QueueName, Seconds},
    plan::{Downtime, Load, LoadRow, Scenario, SimulatedTick, SkipReason, Verdict, simulate},
    schedules::moment,
};

/// Every tick of a stretch of time with its verdict, and how many runs start when; nothing is run
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// Only these jobs
    #[arg(value_name = "JOB")]
    jobs: Vec<JobName>,

    /// From when: RFC 3339, or without an offset in UTC
    #[arg(long, value_name = "T", value_parser = utc)]
    from: DateTime<Utc>,

    /// Until when
    #[arg(long, value_name = "T", value_parser = utc)]
    to: DateTime<Utc>,

    /// Beat is down in this time; may be repeated
    #[arg(long, value_name = "FROM..TO")]
    down: Vec<Down>,

    /// How long runs take, all or those of a job; may be repeated [default: 0s]
    #[arg(long, value_name = "[JOB=]D")]
    duration: Vec<Takes>,

    /// Without the single ticks
    #[arg(long)]
    summary: bool,

    #[command(flatten)]
    schedules: SchedulesArgs,
}

fn utc(text: &str) -> Result<DateTime<Utc>, String> {
    moment(text, chrono_tz::UTC).map_err(|error| error.to_string())
}

#[derive(Debug, Clone, Copy)]
struct Down(Downtime);

impl FromStr for Down {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text
            .split_once("..")
            .ok_or("a downtime is written FROM..TO")?;
        let (from, to) = (utc(from)?, utc(to)?);
        if to <= from {
            return Err("a downtime ends after it begins".to_owned());
        }
        Ok(Self(Downtime { from, to }))
    }
}

#[derive(Debug, Clone)]
struct Takes {
    job: Option<JobName>,
    duration: Duration,
}

impl FromStr for Takes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (job, duration) = match text.split_once('=') {
            Some((job, duration)) => {
                let job = job.parse::<JobName>().map_err(|error| error.to_string())?;
                (Some(job), duration)
            }
            None => (None, text),
        };
        let duration = duration.parse::<Seconds>();
        let duration = duration.map_err(|error| error.to_string())?.get();
        Ok(Self { job, duration })
    }
}

/// How many ticks had which verdict.
#[derive(Debug, Default, Serialize)]
struct Totals {
    fired: u64,
    coalesced: u64,
    skipped: u64,
    missed: u64,
}

impl Totals {
    fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Fired => self.fired += 1,
            Verdict::Coalesced => self.coalesced += 1,
            Verdict::Skipped => self.skipped += 1,
            Verdict::Missed => self.missed += 1,
        }
    }
}

/// A tick as it is printed.
#[derive(Serialize)]
struct Shown<'a> {
    job: &'a JobName,
    queue: &'a QueueName,
    at: String,
    utc: String,
    verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<SkipReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    starts_at: Option<String>,
}

impl<'a> Shown<'a> {
    fn new(tick: &SimulatedTick<'a>) -> Self {
        let local = |at: DateTime<Utc>| {
            let local = at.with_timezone(&tick.job.timezone);
            local.to_rfc3339_opts(SecondsFormat::AutoSi, false)
        };
        Self {
            job: &tick.job.name,
            queue: &tick.job.queue,
            at: local(tick.tick),
            utc: tick.tick.to_rfc3339_opts(SecondsFormat::Secs, true),
            verdict: tick.verdict,
            reason: tick.reason,
            starts_at: tick.starts_at.map(local),
        }
    }

    fn line(&self) -> String {
        let verdict = match (self.verdict, self.reason) {
            (Verdict::Fired, _) => "fired",
            (Verdict::Coalesced, _) => "coalesced",
            (Verdict::Skipped, Some(SkipReason::Overlap)) => "skipped (overlap)",
            (Verdict::Skipped, Some(SkipReason::Paused)) => "skipped (paused)",
            (Verdict::Skipped, Some(SkipReason::Blackout)) => "skipped (blackout)",
            (Verdict::Skipped, None) => "skipped",
            (Verdict::Missed, _) => "missed",
        };
        let late = self.starts_at.as_ref().filter(|start| **start != self.at);
        let late = late.map_or(String::new(), |start| format!("  starts {start}"));
        format!("{}  {}  {verdict}{late}", self.at, self.job)
    }
}

pub(super) fn run(args: SimulateArgs, globals: &Globals) -> Result<(), CliError> {
    if args.to <= args.from {
        return Err(CliError::new(Exit::Usage, "--to lies before --from"));
    }
    let scenario = scenario(&args)?;
    let mut sink = Sink {
        out: BufWriter::new(io::stdout().lock()),
        format: globals.output,
        with_ticks: !args.summary,
        printed: 0,
        failed: None,
    };
    let (mut totals, mut load) = (Totals::default(), Load::default());
    sink.begin()?;
    simulate(&scenario, |tick| {
        totals.count(tick.verdict);
        load.count(tick);
        sink.tick(tick);
    });
    sink.end(&totals, &load.rows())
}

fn scenario(args: &SimulateArgs) -> Result<Scenario, CliError> {
    let set = args.schedules.load()?.set;
    let named = args.jobs.iter();
    for name in named.chain(args.duration.iter().filter_map(|takes| takes.job.as_ref())) {
        if set.get(name).is_none() {
            let error = CliError::new(Exit::NotFound, format!("there is no job `{name}`"));
            return Err(match set.nearest(name.as_str()) {
                Some(near) => error.with_help(format!("did you mean `{near}`?")),
                None => error,
            });
        }
    }
    let wanted = set
        .iter()
        .filter(|job| args.jobs.is_empty() || args.jobs.contains(&job.name));
    let of_all = args.duration.iter().rev().find(|takes| takes.job.is_none());
    let of_jobs = args.duration.iter().filter_map(|takes| {
        let job = takes.job.clone()?;
        Some((job, takes.duration))
    });
    Ok(Scenario {
        jobs: wanted.cloned().collect(),
        from: args.from,
        to: args.to,
        down: args.down.iter().map(|down| down.0).collect(),
        duration: of_all.map_or(Duration::ZERO, |takes| takes.duration),
        durations: of_jobs.collect::<HashMap<_, _>>(),
    })
}

/// Prints as it comes: a year of ticks is not kept.
struct Sink<W: Write> {
    out: W,
    format: Format,
    with_ticks: bool,
    printed: u64,
    failed: Option<io::Error>,
}

impl<W: Write> Sink<W> {
    fn begin(&mut self) -> io::Result<()> {
        match (self.format, self.with_ticks) {
            (Format::Json, true) => self.out.write_all(b"{\"ticks\":["),
            (Format::Json, false) => self.out.write_all(b"{"),
            (Format::Table | Format::Name, _) => Ok(()),
        }
    }

    fn tick(&mut self, tick: &SimulatedTick<'_>) {
        if !self.with_ticks || self.failed.is_some() {
            return;
        }
        let shown = Shown::new(tick);
        let done = match self.format {
            Format::Json => {
                let comma = if self.printed == 0 { "\n" } else { ",\n" };
                self.out
                    .write_all(comma.as_bytes())
                    .and_then(|()| Ok(serde_json::to_writer(&mut self.out, &shown)?))
            }
            Format::Table => writeln!(self.out, "{}", shown.line()),
            Format::Name => writeln!(self.out, "{} {}", shown.job, shown.at),
        };
        self.printed += 1;
        self.failed = done.err();
    }

    fn end(mut self, totals: &Totals, load: &[LoadRow]) -> Result<(), CliError> {
        if let Some(error) = self.failed.take() {
            return Err(error.into());
        }
        match self.format {
            Format::Json => {
                let separator = if self.with_ticks { "\n]," } else { "" };
                write!(self.out, "{separator}\"totals\":")?;
                serde_json::to_writer(&mut self.out, totals).map_err(io::Error::from)?;
                write!(self.out, ",\"load\":")?;
                serde_json::to_writer(&mut self.out, load).map_err(io::Error::from)?;
                writeln!(self.out, "}}")?;
            }
            Format::Table => {
                if self.printed > 0 {
                    writeln!(self.out)?;
                }
                writeln!(
                    self.out,
                    "fired {}, coalesced {}, skipped {}, missed {}",
                    totals.fired, totals.coalesced, totals.skipped, totals.missed
                )?;
                self.histogram(load)?;
            }
            Format::Name => {}
        }
        self.out.flush()?;
        Ok(())
    }

    /// Starts by hour of the day (UTC), a block for each queue.
    fn histogram(&mut self, load: &[LoadRow]) -> io::Result<()> {
        let mut queues: BTreeMap<&QueueName, Vec<&LoadRow>> = BTreeMap::new();
        for row in load {
            queues.entry(&row.queue).or_default().push(row);
        }
        for (queue, rows) in queues {
            writeln!(
                self.out,
                "\nqueue {queue}: starts by hour (UTC), most in one second"
            )?;
            let most = rows.iter().map(|row| row.starts).max().unwrap_or(1).max(1);
            for row in rows {
                let width = usize::try_from(row.starts * BAR / most).unwrap_or(0).max(1);
                writeln!(
                    self.out,
                    "  {:02}:00 {:>9} {:>6}  {}",
                    row.hour,
                    row.starts,
                    row.at_once,
                    "#".repeat(width)
                )?;
            }
        }
        Ok(())
    }
}

/// The longest bar of the histogram.
const BAR: u64 = 40;
