//! Settings with defaults → a validated job. Here are the rules that concern more than one key.

use std::{collections::HashMap, ops::Range};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{
    checks::{
        check_arguments, check_credentials, check_lease_loss, check_limits, check_run_as,
        check_size,
    },
    moment::{moment, whole},
    policy::policy,
    reader::{Located, Reader},
    settings::Settings,
};
use crate::job::{
    Anchor, Execute, Job, JobName, RunSpec, Trigger,
    cron::{CronTrigger, DstGap, DstRepeat},
    interval::{Interval, IntervalError},
};

/// Equal cron triggers are read once and shared.
pub(super) type CronCache = HashMap<(Vec<String>, Tz, DstGap, DstRepeat), CronTrigger>;

/// What is needed to build the jobs of one file.
pub(super) struct Builder<'b> {
    pub(super) defaults: &'b Settings,
    pub(super) cache: &'b mut CronCache,
    pub(super) now: DateTime<Utc>,
}

/// The table of one job.
pub(super) struct Table {
    pub(super) name: JobName,
    pub(super) name_span: Range<usize>,
    pub(super) settings: Settings,
}

impl Builder<'_> {
    /// The job, if nothing is wrong with it.
    pub(super) fn build(&mut self, reader: &mut Reader<'_>, table: Table) -> Option<Job> {
        let Table {
            name,
            name_span,
            settings: own,
        } = table;
        let defaults = self.defaults;
        let timezone = own.timezone.or(defaults.timezone).unwrap_or(Tz::UTC);
        // Each is read even if another one failed, so that all errors are found.
        let execute = execute(reader, &own, defaults, &name_span);
        let enabled = own.enabled.or(defaults.enabled).unwrap_or(true);
        let trigger = self.trigger(reader, &own, timezone, enabled);
        let policy = policy(
            reader,
            (&own, defaults),
            trigger.as_ref(),
            timezone,
            self.now,
        );
        let (execute, trigger, policy) = (execute?, trigger?, policy?);
        let job = Job {
            description: own
                .description
                .clone()
                .or_else(|| defaults.description.clone()),
            tags: own
                .tags
                .clone()
                .or_else(|| defaults.tags.clone())
                .unwrap_or_default(),
            enabled,
            timezone,
            queue: own
                .queue
                .clone()
                .or_else(|| defaults.queue.clone())
                .unwrap_or_default(),
            policy,
            unique: either(&own.unique, &defaults.unique),
            spec: spec(execute, &own, defaults),
            trigger,
            name,
        };
        check_arguments(reader, &job, &name_span);
        check_lease_loss(reader, &job, &own);
        check_limits(reader, &job, &own);
        check_run_as(reader, &job, &own);
        check_credentials(reader, &job, &name_span);
        check_size(reader, &job, name_span, self.now)?;
        Some(job)
    }

    fn trigger(
        &mut self,
        reader: &mut Reader<'_>,
        own: &Settings,
        timezone: Tz,
        enabled: bool,
    ) -> Option<Trigger> {
        let keys = ["cron", "every", "at"];
        let present = |settings: &Settings| keys.iter().any(|key| settings.place(key).is_some());
        // A job that says when it is due says all of it; otherwise the defaults do.
        let from = if present(own) || !present(self.defaults) {
            own
        } else {
            self.defaults
        };
        let mut places = keys
            .iter()
            .filter_map(|key| from.place(key).map(|place| (key, place)));
        let first = places.next();
        if let (Some((first, _)), Some((second, place))) = (first, places.next()) {
            let message = format!("`{first}` and `{second}` exclude each other");
            let help = "a job has one trigger: `cron`, `every` or `at`".to_owned();
            reader.error_with_help(place.clone(), message, Some(help));
            return None;
        }
        if let (Some(place), None) = (own.place("offset"), from.place("every")) {
            let help = "remove it, or give the interval with `every`".to_owned();
            reader.error_with_help(place.clone(), "`offset` goes with `every` only", Some(help));
            return None;
        }
        if let (Some(place), None) = (own.place("anchor"), from.place("every")) {
            let help = "remove it, or give the interval with `every`".to_owned();
            reader.error_with_help(place.clone(), "`anchor` goes with `every` only", Some(help));
            return None;
        }
        match first {
            None => Some(Trigger::OnDemand),
            Some((&"cron", _)) => {
                let expressions = from.cron.as_ref()?;
                self.cron(reader, own, expressions, timezone)
                    .map(Trigger::Cron)
            }
            Some((&"every", _)) => {
                let offset = own.offset.as_ref().or(from.offset.as_ref());
                let interval = interval(reader, from.every.as_ref()?, offset)?;
                let anchor = match (&own.anchor, &own.offset) {
                    (None, Some(_)) => None,
                    (anchor, _) => anchor.as_ref().or(self.defaults.anchor.as_ref()),
                };
                anchored(reader, interval, anchor, offset).map(Trigger::Every)
            }
            Some(_) => {
                let moments = instants(reader, from.at.as_ref()?, timezone)?;
                if enabled && moments.iter().all(|&at| at <= self.now) {
                    let place = from.place("at").cloned().unwrap_or_default();
                    let help = "it can still be run by hand; remove it when it is no longer needed";
                    reader.warn(
                        place,
                        "`at` lies in the past, so this job never comes due",
                        help,
                    );
                }
                Some(Trigger::At(moments))
            }
        }
    }

    fn cron(
        &mut self,
        reader: &mut Reader<'_>,
        own: &Settings,
        expressions: &[Located<String>],
        timezone: Tz,
    ) -> Option<CronTrigger> {
        let gap = own.dst_gap.or(self.defaults.dst_gap).unwrap_or_default();
        let repeat = own
            .dst_repeat
            .or(self.defaults.dst_repeat)
            .unwrap_or_default();
        let texts: Vec<_> = expressions.iter().map(|one| one.value.clone()).collect();
        let key = (texts, timezone, gap, repeat);
        if let Some(known) = self.cache.get(&key) {
            return Some(known.clone());
        }
        if let Ok(trigger) = CronTrigger::new(key.0.clone(), timezone, gap, repeat) {
            self.cache.insert(key, trigger.clone());
            return Some(trigger);
        }
        for Located { value, span } in expressions {
            if let Err(error) = CronTrigger::new(vec![value.clone()], timezone, gap, repeat) {
                let span = reader.within(span, value, error.span.clone());
                reader.error_with_help(span, &error, error.hint());
            }
        }
        None
    }
}

fn execute(
    reader: &mut Reader<'_>,
    own: &Settings,
    defaults: &Settings,
    name_span: &Range<usize>,
) -> Option<Execute> {
    const PROGRAMS: [&str; 3] = ["command", "shell", "http"];
    let present = |settings: &Settings| PROGRAMS.iter().any(|key| settings.place(key).is_some());
    let from = if present(own) { own } else { defaults };
    let mut given = PROGRAMS
        .iter()
        .filter_map(|key| from.place(key).map(|place| (key, place)));
    match (given.next(), given.next()) {
        (Some((first, _)), Some((second, place))) => {
            let message = format!("`{first}` and `{second}` exclude each other");
            let help = "keep the one that the job is to execute".to_owned();
            reader.error_with_help(place.clone(), message, Some(help));
            None
        }
        (Some(_), None) => {
            let command = from.command.clone().map(Execute::Command);
            let shell = from.shell.clone().map(Execute::Shell);
            let http = from.http.clone().map(Box::new).map(Execute::Http);
            command.or(shell).or(http)
        }
        (None, _) => {
            let misspelt = own.has_misspelt_program() || defaults.has_misspelt_program();
            if !reader.is_broken() && !misspelt {
                let help = "write for example command = [\"python3\", \"crawl.py\"]".to_owned();
                let message = "this job has neither `command` nor `shell` nor `http`";
                reader.error_with_help(name_span.clone(), message, Some(help));
            }
            None
        }
    }
}

fn interval(
    reader: &mut Reader<'_>,
    every: &Located<crate::job::Seconds>,
    offset: Option<&Located<crate::job::Seconds>>,
) -> Option<Interval> {
    let whole = |reader: &mut Reader<'_>, key: &str, at: &Located<crate::job::Seconds>| {
        let duration = at.value.get();
        if duration.subsec_nanos() == 0 {
            return Some(duration.as_secs());
        }
        reader.error(at.span.clone(), format!("`{key}` takes whole seconds"));
        None
    };
    let seconds = whole(reader, "every", every)?;
    let shift = match offset {
        Some(offset) => whole(reader, "offset", offset)?,
        None => 0,
    };
    match Interval::new(seconds, shift) {
        Ok(interval) => Some(interval),
        Err(error) => {
            let place = match (&error, offset) {
                (IntervalError::Offset, Some(offset)) => offset.span.clone(),
                (IntervalError::Offset, None) | (IntervalError::Length, _) => every.span.clone(),
            };
            reader.error(place, error);
            None
        }
    }
}

/// The interval, counted from where `anchor` says.
fn anchored(
    reader: &mut Reader<'_>,
    interval: Interval,
    anchor: Option<&Located<Anchor>>,
    offset: Option<&Located<crate::job::Seconds>>,
) -> Option<Interval> {
    let Some(Located { value, span }) = anchor else {
        return Some(interval);
    };
    if let (false, Some(_)) = (value.is_epoch(), offset) {
        let help = "an interval that starts at a run has no other offset: remove one of the two";
        let message = "`anchor` and `offset` exclude each other";
        reader.error_with_help(span.clone(), message, Some(help.to_owned()));
        return None;
    }
    Some(interval.with_anchor(*value))
}

/// The instants, sorted, each once.
fn instants(
    reader: &mut Reader<'_>,
    moments: &[Located<String>],
    timezone: Tz,
) -> Option<Vec<DateTime<Utc>>> {
    let mut all = Vec::with_capacity(moments.len());
    for Located { value, span } in moments {
        match moment(value, timezone).and_then(|at| whole(value, at)) {
            Ok(at) => all.push(Some(at)),
            Err(error) => {
                reader.error_with_help(span.clone(), error.message, Some(error.help));
                all.push(None);
            }
        }
    }
    let mut all: Vec<_> = all.into_iter().collect::<Option<_>>()?;
    all.sort_unstable();
    all.dedup();
    Some(all)
}

fn spec(execute: Execute, own: &Settings, defaults: &Settings) -> RunSpec {
    let standard = RunSpec::new(execute);
    // Arguments and environment are laid over the defaults key by key.
    let mut args = defaults.args.clone().unwrap_or_default();
    args.extend(own.args.clone().unwrap_or_default());
    let mut env = defaults.env.clone().unwrap_or_default();
    env.extend(own.env.clone().unwrap_or_default());
    RunSpec {
        args,
        env,
        env_files: own
            .env_files
            .clone()
            .or_else(|| defaults.env_files.clone())
            .unwrap_or_default(),
        credentials: own
            .credentials
            .clone()
            .or_else(|| defaults.credentials.clone())
            .unwrap_or_default(),
        working_dir: own
            .working_dir
            .clone()
            .or_else(|| defaults.working_dir.clone()),
        run_as: own
            .run_as
            .as_ref()
            .or(defaults.run_as.as_ref())
            // The worker itself sends a request, whatever the defaults say of programs.
            .filter(|_| !matches!(standard.execute, Execute::Http(_)))
            .map(|user| user.value.clone()),
        timeout: own.timeout.or(defaults.timeout),
        kill: own.kill.or(defaults.kill).unwrap_or(standard.kill),
        retry: own
            .retry
            .clone()
            .or_else(|| defaults.retry.clone())
            .unwrap_or(standard.retry),
        lock: either(&own.lock, &defaults.lock),
        concurrency: either(&own.concurrency, &defaults.concurrency),
        rate: either(&own.rate, &defaults.rate),
        limits: own
            .limits
            .as_ref()
            .or(defaults.limits.as_ref())
            .map(|limits| limits.value),
        lease_loss: own
            .lease_loss
            .as_ref()
            .or(defaults.lease_loss.as_ref())
            .map_or(standard.lease_loss, |loss| loss.value),
        success_exit: own
            .success_exit
            .clone()
            .or_else(|| defaults.success_exit.clone())
            .unwrap_or(standard.success_exit),
        ping: own.ping.clone().or_else(|| defaults.ping.clone()),
        output_limit: own
            .output_limit
            .or(defaults.output_limit)
            .unwrap_or(standard.output_limit),
        execute: standard.execute,
    }
}

fn either<T: Clone>(own: &Option<T>, default: &Option<T>) -> Option<Box<T>> {
    own.clone().or_else(|| default.clone()).map(Box::new)
}
