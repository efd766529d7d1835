//! One file: `[defaults]`, `[job.NAME]` for each job, `[blackout.NAME]`, `[notify.NAME]`.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use chrono::{DateTime, Utc};
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    JobSet, LoadError, Loaded,
    blackout::Blackouts,
    build::{Builder, CronCache, Table},
    diagnostic::Findings,
    notify::Webhooks,
    reader::{Item, Reader, narrow},
    settings::{Scope, Settings, dotted_name},
    source::Source,
};
use crate::job::{Job, JobName, NameError};

/// The jobs of all files so far.
#[derive(Default)]
pub(super) struct Collected {
    pub(super) jobs: BTreeMap<JobName, Arc<Job>>,
    pub(super) findings: Findings,
    /// How messages call the files so far.
    files: Vec<Arc<str>>,
    /// Where each name was first used, good job or not.
    first_use: BTreeMap<JobName, FirstUse>,
    cron_cache: CronCache,
    pub(super) blackouts: Blackouts,
    pub(super) webhooks: Webhooks,
}

impl Collected {
    pub(super) fn new(findings: Findings) -> Self {
        Self {
            findings,
            ..Self::default()
        }
    }

    /// The jobs, if there is nothing wrong with any of them.
    pub(super) fn finish(mut self, now: DateTime<Utc>) -> Result<Loaded, LoadError> {
        self.blackouts
            .resolve(&mut self.jobs, &mut self.findings, now);
        let is_complete = self.jobs.len() == self.first_use.len();
        let webhooks = self
            .webhooks
            .resolve(&self.jobs, is_complete, &mut self.findings);
        let warnings = self.findings.finish()?;
        let set = JobSet {
            jobs: Arc::new(self.jobs),
            webhooks: Arc::new(webhooks),
        };
        Ok(Loaded {
            set,
            files: self.files.len(),
            warnings,
        })
    }
}

/// A place, small: there may be a million.
struct FirstUse {
    /// Its index among the files.
    file: usize,
    line: u32,
}

/// Reads one file into the collection.
pub(super) fn read(collected: &mut Collected, source: &Source, now: DateTime<Utc>) {
    let Collected {
        jobs,
        findings,
        first_use,
        files,
        cron_cache,
        blackouts,
        webhooks,
    } = collected;
    files.push(Arc::clone(&source.name));
    let (document, errors) = DeTable::parse_recoverable(&source.text);
    let mut reader = Reader::new(source, findings);
    for error in errors {
        reader.syntax(error.span().unwrap_or(0..0), error.message());
    }
    let document = document.into_inner();
    let sections = sections(&mut reader, &document);
    let defaults = match sections.defaults {
        Some(table) => Settings::read(&mut reader, table, Scope::Defaults),
        None => Settings::default(),
    };
    if let Some(table) = sections.blackouts {
        blackouts.read(&mut reader, table, defaults.timezone, now);
    }
    if let Some(table) = sections.webhooks {
        webhooks.read(&mut reader, table);
    }
    let mut builder = Builder {
        defaults: &defaults,
        cache: cron_cache,
        now,
    };
    for (key, item) in sections.jobs.into_iter().flatten() {
        let Some((name, settings)) = job(&mut reader, key, item) else {
            continue;
        };
        if let Some(first) = first_use.get(&name) {
            let file = files.get(first.file).map_or("", |file| file);
            let there = format!("{file}:{}", first.line);
            duplicate(&mut reader, &name, key.span(), &there);
            continue;
        }
        let first = FirstUse {
            file: files.len() - 1,
            line: reader.line(key.span().start),
        };
        first_use.insert(name.clone(), first);
        let named = settings.blackout.as_ref().or(defaults.blackout.as_ref());
        blackouts.named_by(&name, named.map_or(&[], Vec::as_slice), source);
        let table = Table {
            name: name.clone(),
            name_span: key.span(),
            settings,
        };
        if let Some(job) = builder.build(&mut reader, table) {
            jobs.insert(name, Arc::new(job));
        }
    }
}

/// The tables at the top of a file.
#[derive(Default)]
struct Sections<'d, 'i> {
    defaults: Option<&'d DeTable<'i>>,
    jobs: Option<&'d DeTable<'i>>,
    blackouts: Option<&'d DeTable<'i>>,
    webhooks: Option<&'d DeTable<'i>>,
}

fn sections<'d, 'i>(reader: &mut Reader<'_>, document: &'d DeTable<'i>) -> Sections<'d, 'i> {
    let mut sections = Sections::default();
    for (key, item) in document {
        let name: &str = key.get_ref();
        match name {
            "defaults" => sections.defaults = reader.table("defaults", item),
            "job" => match item.get_ref() {
                DeValue::Table(jobs) => sections.jobs = Some(jobs),
                _ => {
                    let message = "`job` takes tables with a name each";
                    let help = "write [job.NAME]".to_owned();
                    reader.error_with_help(key.span(), message, Some(help));
                }
            },
            "blackout" => match item.get_ref() {
                DeValue::Table(blackouts) => sections.blackouts = Some(blackouts),
                _ => {
                    let message = "`blackout` at the top of the file takes tables with a name each";
                    let help = "write [blackout.NAME], and name it in a job: blackout = \"NAME\"";
                    reader.error_with_help(key.span(), message, Some(help.to_owned()));
                }
            },
            "notify" => match item.get_ref() {
                DeValue::Table(webhooks) => sections.webhooks = Some(webhooks),
                _ => {
                    let message = "`notify` takes tables with a name each";
                    let help = "write [notify.NAME]".to_owned();
                    reader.error_with_help(key.span(), message, Some(help));
                }
            },
            _ => unknown_section(reader, name, key.span()),
        }
    }
    sections
}

fn unknown_section(reader: &mut Reader<'_>, name: &str, span: Range<usize>) {
    let known_key = super::settings::keys().any(|key| key == name);
    if known_key && reader.is_broken() {
        // Most likely its header is what the syntax error has cost.
        return;
    }
    let help = match known_key {
        true => Some(format!("`{name}` belongs below [defaults] or [job.NAME]")),
        false => reader
            .did_you_mean(name, ["defaults", "job", "blackout", "notify"])
            .or_else(|| {
                Some(
                    "a file has [defaults], [job.NAME], [blackout.NAME] and [notify.NAME]"
                        .to_owned(),
                )
            }),
    };
    reader.error_with_help(
        span,
        format!("unknown key `{name}` at the top of the file"),
        help,
    );
}

fn job(
    reader: &mut Reader<'_>,
    key: &Spanned<DeString<'_>>,
    item: &Item<'_>,
) -> Option<(JobName, Settings)> {
    let text: &str = key.get_ref();
    let name = match text.parse::<JobName>() {
        Ok(name) => Some(name),
        Err(NameError::Character { found: '.', .. }) => {
            dotted_name(reader, key.span(), text);
            None
        }
        Err(error) => {
            let help = format!("write [job.{}]", narrow(text));
            reader.error_with_help(key.span(), format!("job name: {error}"), Some(help));
            None
        }
    };
    let DeValue::Table(table) = item.get_ref() else {
        let known = super::settings::keys().any(|known| known == text);
        let help = match known {
            true => format!("`{text}` belongs below [job.NAME]; this table has no name"),
            false => format!("write [job.{}]", narrow(text)),
        };
        let message = format!("`job.{text}` must be a table");
        reader.error_with_help(key.span(), message, Some(help));
        return None;
    };
    let settings = Settings::read(reader, table, Scope::Job(text));
    if settings.is_prefix_of_a_dotted_name() {
        return None;
    }
    Some((name?, settings))
}

fn duplicate(reader: &mut Reader<'_>, name: &JobName, span: Range<usize>, there: &str) {
    let here = reader.line_of(span.start);
    let message = format!("the job `{name}` is defined twice: at {there} and at {here}");
    let help = "job names are unique over all files: rename or remove one".to_owned();
    reader.error_with_help(span, message, Some(help));
}
