//! `[blackout.NAME]`, and the jobs of all files that name one.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use toml::de::{DeTable, DeValue};

use super::{
    diagnostic::Findings,
    moment::moment,
    reader::{Item, Located, Reader, narrow},
    source::Source,
    values,
};
use crate::job::{
    Blackout, BlackoutName, Job, JobName, Seconds, blackout::When, cron::CronTrigger,
};

/// So many ticks in a row in a blackout are no accident.
const LOOK_AHEAD: usize = 100;

/// The keys of a blackout.
pub(super) const BLACKOUT_KEYS: [&str; 6] =
    ["cron", "description", "duration", "from", "timezone", "to"];

/// The blackouts of all files so far, and who names them.
#[derive(Default)]
pub(super) struct Blackouts {
    /// By name; those with mistakes are there without a value.
    known: BTreeMap<BlackoutName, Option<Blackout>>,
    /// `FILE:LINE` of each.
    places: HashMap<BlackoutName, String>,
    named: Vec<Named>,
}

/// A job that names blackouts.
struct Named {
    job: JobName,
    names: Vec<Located<BlackoutName>>,
    source: Source,
}

impl Blackouts {
    /// Reads the blackouts of a file.
    pub(super) fn read(
        &mut self,
        reader: &mut Reader<'_>,
        table: &DeTable<'_>,
        default_zone: Option<Tz>,
        now: DateTime<Utc>,
    ) {
        for (key, item) in table {
            let text: &str = key.get_ref();
            let name = match text.parse::<BlackoutName>() {
                Ok(name) => name,
                Err(error) => {
                    let help = format!("write [blackout.{}]", narrow(text));
                    let message = format!("blackout name: {error}");
                    reader.error_with_help(key.span(), message, Some(help));
                    continue;
                }
            };
            let here = reader.line_of(key.span().start);
            if let Some(there) = self.places.get(&name) {
                let message =
                    format!("the blackout `{name}` is defined twice: at {there} and at {here}");
                let help = "blackout names are unique over all files: rename or remove one";
                reader.error_with_help(key.span(), message, Some(help.to_owned()));
                continue;
            }
            self.places.insert(name.clone(), here);
            let place = format!("[blackout.{text}]");
            let when = reader
                .table(&format!("blackout.{text}"), item)
                .and_then(|table| {
                    Fields::read(reader, &place, table).when(reader, &key.span(), default_zone, now)
                });
            let blackout = when.map(|when| Blackout {
                name: name.clone(),
                when,
            });
            self.known.insert(name, blackout);
        }
    }

    /// Notes that a job names blackouts, perhaps of files that are yet to be read.
    pub(super) fn named_by(
        &mut self,
        job: &JobName,
        names: &[Located<BlackoutName>],
        source: &Source,
    ) {
        if !names.is_empty() {
            self.named.push(Named {
                job: job.clone(),
                names: names.to_vec(),
                source: source.clone(),
            });
        }
    }

    /// Gives the jobs the blackouts that they name.
    pub(super) fn resolve(
        self,
        jobs: &mut BTreeMap<JobName, Arc<Job>>,
        findings: &mut Findings,
        now: DateTime<Utc>,
    ) {
        for Named { job, names, source } in self.named {
            let mut reader = Reader::new(&source, findings);
            let mut found = Vec::with_capacity(names.len());
            let place = names.first().map(|name| name.span.clone());
            for Located { value: name, span } in names {
                match self.known.get(&name) {
                    Some(blackout) => found.extend(blackout.clone()),
                    None => {
                        let known = self.known.keys().map(BlackoutName::as_str);
                        let help = reader
                            .did_you_mean(name.as_str(), known)
                            .unwrap_or_else(|| format!("define it: [blackout.{name}]"));
                        let message = format!("there is no blackout `{name}`");
                        reader.error_with_help(span, message, Some(help));
                    }
                }
            }
            if let Some(job) = jobs.get_mut(&job) {
                Arc::make_mut(job).policy.blackouts = found;
                if let (true, Some(place)) = (always(job, now), place) {
                    let help = "give the job another time, or take the blackout from it";
                    let message = format!(
                        "the next {LOOK_AHEAD} ticks of `{}` all lie in a blackout",
                        job.name
                    );
                    reader.warn(place, message, help);
                }
            }
        }
    }
}

/// Whether a job that has ticks has none outside of its blackouts, as far as one looks.
fn always(job: &Job, now: DateTime<Utc>) -> bool {
    let ticks = std::iter::successors(job.next_after(now), |&tick| job.next_after(tick));
    let mut ahead = ticks.take(LOOK_AHEAD).peekable();
    job.enabled && ahead.peek().is_some() && ahead.all(|tick| job.blackout_of(tick).is_some())
}

/// What a table says, key by key.
#[derive(Default)]
struct Fields {
    cron: Option<Vec<Located<String>>>,
    duration: Option<Located<Seconds>>,
    from: Option<Located<String>>,
    to: Option<Located<String>>,
    timezone: Option<Tz>,
    /// Whether something could not be read, so that nothing is missing.
    broken: bool,
}

impl Fields {
    fn read(reader: &mut Reader<'_>, place: &str, table: &DeTable<'_>) -> Self {
        let mut fields = Self::default();
        for (key, item) in table {
            let name: &str = key.get_ref();
            let good = match name {
                "cron" => {
                    fields.cron = reader.one_or_more(name, item, |reader, item| {
                        values::located(reader, name, item)
                    });
                    fields.cron.is_some()
                }
                "duration" => {
                    fields.duration = reader.positive(name, item).map(|value| Located {
                        value,
                        span: item.span(),
                    });
                    fields.duration.is_some()
                }
                "from" => {
                    fields.from = date_or_moment(reader, name, item);
                    fields.from.is_some()
                }
                "to" => {
                    fields.to = date_or_moment(reader, name, item);
                    fields.to.is_some()
                }
                "timezone" => {
                    fields.timezone = values::timezone(reader, name, item);
                    fields.timezone.is_some()
                }
                "description" => reader.text(name, item).is_some(),
                _ => {
                    reader.unknown_key(key.span(), name, place, &BLACKOUT_KEYS);
                    false
                }
            };
            fields.broken |= !good;
        }
        fields
    }

    fn when(
        self,
        reader: &mut Reader<'_>,
        header: &Range<usize>,
        default_zone: Option<Tz>,
        now: DateTime<Utc>,
    ) -> Option<When> {
        let zone = self.timezone.or(default_zone).unwrap_or(Tz::UTC);
        match (self.cron, self.duration, self.from, self.to) {
            (Some(cron), Some(duration), None, None) => {
                let cron = expressions(reader, &cron, zone)?;
                let duration = duration.value;
                Some(When::Repeated { cron, duration })
            }
            (None, None, Some(from), Some(to)) => range(reader, &from, &to, zone, now),
            _ if self.broken || reader.is_broken() => None,
            _ => {
                let message = "a blackout has either `cron` and `duration`, or `from` and `to`";
                let help = "for example cron = \"0 2 * * *\" with duration = \"1h\", or from = 2026-12-24 with to = 2026-12-26";
                reader.error_with_help(header.clone(), message, Some(help.to_owned()));
                None
            }
        }
    }
}

/// A date, or a date with a time, as TOML has them or as text.
fn date_or_moment(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<Located<String>> {
    match item.get_ref() {
        DeValue::String(_) | DeValue::Datetime(_) => values::moment(reader, key, item),
        _ => {
            let help = "for example 2026-12-24, or 2026-12-24T18:00:00";
            reader.mismatch(key, item, "a date", Some(help));
            None
        }
    }
}

fn expressions(
    reader: &mut Reader<'_>,
    expressions: &[Located<String>],
    zone: Tz,
) -> Option<CronTrigger> {
    let read = |texts| CronTrigger::new(texts, zone, Default::default(), Default::default());
    let texts = expressions.iter().map(|one| one.value.clone()).collect();
    if let Ok(cron) = read(texts) {
        return Some(cron);
    }
    for Located { value, span } in expressions {
        if let Err(error) = read(vec![value.clone()]) {
            let span = reader.within(span, value, error.span.clone());
            reader.error_with_help(span, &error, error.hint());
        }
    }
    None
}

/// From the beginning of the first to the end of the last; a date is the whole day.
fn range(
    reader: &mut Reader<'_>,
    from: &Located<String>,
    to: &Located<String>,
    zone: Tz,
    now: DateTime<Utc>,
) -> Option<When> {
    let mut read = |located: &Located<String>, days: u64| {
        let text = located.value.trim();
        let read = match text.parse::<NaiveDate>() {
            Ok(date) => {
                let day = date.checked_add_days(chrono::Days::new(days));
                first_instant(day.unwrap_or(date), zone)
            }
            Err(_) => match moment(text, zone) {
                Ok(at) => Some(at),
                Err(error) => {
                    let help = Some(error.help);
                    reader.error_with_help(located.span.clone(), error.message, help);
                    return None;
                }
            },
        };
        if read.is_none() {
            let message = format!("`{text}` does not exist in {zone}");
            reader.error(located.span.clone(), message);
        }
        read
    };
    let begins = read(from, 0);
    let ends = read(to, 1);
    let (from, ends) = (begins?, ends?);
    if ends <= from {
        let help = "a date as `to` is the whole day".to_owned();
        reader.error_with_help(
            to.span.clone(),
            "`to` does not lie after `from`",
            Some(help),
        );
        return None;
    }
    if ends <= now {
        let help = "remove it when it is no longer needed";
        reader.warn(to.span.clone(), "this blackout is over", help);
    }
    Some(When::Range { from, to: ends })
}

/// The first instant of a day in a zone: not midnight where the clock is set forward then.
fn first_instant(day: NaiveDate, zone: Tz) -> Option<DateTime<Utc>> {
    let minutes = (0..24 * 60).step_by(15);
    let mut times = minutes.filter_map(|minute| day.and_hms_opt(minute / 60, minute % 60, 0));
    let at = times.find_map(|time| time.and_local_timezone(zone).earliest())?;
    Some(at.to_utc())
}
