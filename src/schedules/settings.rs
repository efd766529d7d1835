//! The keys of `[defaults]` and `[job.NAME]`, each with what reads it.

use std::{collections::BTreeMap, ops::Range, path::PathBuf};

use chrono_tz::Tz;
use toml::de::{DeTable, DeValue};

use super::{
    checks::credential,
    choices,
    nearest::nearest,
    reader::{Item, Located, Reader, narrow},
    users::user,
    values,
};
use crate::job::{
    Anchor, BlackoutName, CatchUp, Concurrency, CredentialName, FirstRun, HttpRequest, Kill,
    LeaseLoss, Lock, Overlap, QueueName, Rate, ResourceLimits, RetryPolicy, Seconds, SuccessExit,
    Template, Unique, UserName,
    cron::{DstGap, DstRepeat},
};

/// What a table says, key by key; nothing is filled in yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    /// The keys that are present, whether their values are good or not, with their places.
    seen: Vec<(&'static str, Range<usize>)>,
    pub(super) description: Option<String>,
    pub(super) tags: Option<Vec<String>>,
    pub(super) enabled: Option<bool>,
    pub(super) cron: Option<Vec<Located<String>>>,
    pub(super) every: Option<Located<Seconds>>,
    pub(super) offset: Option<Located<Seconds>>,
    pub(super) at: Option<Vec<Located<String>>>,
    pub(super) timezone: Option<Tz>,
    pub(super) dst_gap: Option<DstGap>,
    pub(super) dst_repeat: Option<DstRepeat>,
    pub(super) queue: Option<QueueName>,
    pub(super) command: Option<Vec<Template>>,
    pub(super) shell: Option<String>,
    pub(super) http: Option<HttpRequest>,
    pub(super) args: Option<serde_json::Map<String, serde_json::Value>>,
    pub(super) env: Option<BTreeMap<String, String>>,
    pub(super) env_files: Option<Vec<PathBuf>>,
    pub(super) credentials: Option<Vec<CredentialName>>,
    pub(super) working_dir: Option<PathBuf>,
    pub(super) run_as: Option<Located<UserName>>,
    pub(super) timeout: Option<Seconds>,
    pub(super) kill: Option<Kill>,
    pub(super) retry: Option<RetryPolicy>,
    pub(super) lease_loss: Option<Located<LeaseLoss>>,
    pub(super) lock: Option<Lock>,
    pub(super) concurrency: Option<Concurrency>,
    pub(super) rate: Option<Rate>,
    pub(super) limits: Option<Located<ResourceLimits>>,
    pub(super) unique: Option<Unique>,
    pub(super) success_exit: Option<SuccessExit>,
    pub(super) ping: Option<Box<str>>,
    pub(super) output_limit: Option<u64>,
    pub(super) expires: Option<Seconds>,
    pub(super) alert_if_no_success_for: Option<Located<Seconds>>,
    pub(super) first_run: Option<FirstRun>,
    pub(super) catch_up: Option<CatchUp>,
    pub(super) catch_up_window: Option<Seconds>,
    pub(super) max_catch_up: Option<u32>,
    pub(super) overlap: Option<Overlap>,
    pub(super) jitter: Option<Located<Seconds>>,
    pub(super) start: Option<Located<String>>,
    pub(super) end: Option<Located<String>>,
    pub(super) anchor: Option<Located<Anchor>>,
    pub(super) blackout: Option<Vec<Located<BlackoutName>>>,
}

/// Whose settings are read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope<'a> {
    /// `[defaults]`
    Defaults,
    /// `[job.NAME]`
    Job(&'a str),
}

type Read = fn(&mut Settings, &mut Reader<'_>, &str, &Item<'_>);

/// Every key, with what reads it.
const KEYS: [(&str, Read); 44] = [
    ("description", |s, r, k, v| {
        s.description = r.text(k, v).map(str::to_owned);
    }),
    ("tags", |s, r, k, v| {
        s.tags = r.list(k, v, "a list of texts", |r, v| {
            r.text(k, v).map(str::to_owned)
        });
    }),
    ("enabled", |s, r, k, v| s.enabled = r.boolean(k, v)),
    ("cron", |s, r, k, v| {
        s.cron = r.one_or_more(k, v, |r, v| values::located(r, k, v));
    }),
    ("every", |s, r, k, v| {
        s.every = r.duration(k, v).map(|value| located(value, v));
    }),
    ("offset", |s, r, k, v| {
        s.offset = r.duration(k, v).map(|value| located(value, v));
    }),
    ("at", |s, r, k, v| {
        s.at = r.one_or_more(k, v, |r, v| values::moment(r, k, v));
    }),
    ("timezone", |s, r, k, v| {
        s.timezone = values::timezone(r, k, v)
    }),
    ("dst_gap", |s, r, k, v| {
        s.dst_gap = r.choice(k, v, &choices::DST_GAP);
    }),
    ("dst_repeat", |s, r, k, v| {
        s.dst_repeat = r.choice(k, v, &choices::DST_REPEAT);
    }),
    ("queue", |s, r, k, v| s.queue = r.name(k, v)),
    ("command", |s, r, k, v| s.command = values::command(r, k, v)),
    ("shell", |s, r, k, v| s.shell = values::shell(r, k, v)),
    ("http", |s, r, k, v| s.http = values::http(r, k, v)),
    ("args", |s, r, k, v| s.args = values::args(r, k, v)),
    ("env", |s, r, k, v| s.env = values::env(r, k, v)),
    ("env_file", |s, r, k, v| {
        s.env_files = r.one_or_more(k, v, |r, v| values::path(r, k, v));
    }),
    ("credential", |s, r, k, v| {
        s.credentials = r.one_or_more(k, v, |r, v| credential(r, k, v));
    }),
    ("working_dir", |s, r, k, v| {
        s.working_dir = values::path(r, k, v);
    }),
    ("run_as", |s, r, k, v| {
        s.run_as = user(r, k, v).map(|value| located(value, v));
    }),
    ("timeout", |s, r, k, v| s.timeout = r.positive(k, v)),
    ("kill", |s, r, k, v| s.kill = values::kill(r, k, v)),
    ("retry", |s, r, k, v| s.retry = values::retry(r, k, v)),
    ("lease_loss", |s, r, k, v| {
        let loss = r.choice(k, v, &choices::LEASE_LOSS);
        s.lease_loss = loss.map(|value| located(value, v));
    }),
    ("lock", |s, r, k, v| s.lock = values::lock(r, k, v)),
    ("concurrency", |s, r, k, v| {
        s.concurrency = values::concurrency(r, k, v);
    }),
    ("rate", |s, r, k, v| s.rate = values::rate(r, k, v)),
    ("limits", |s, r, k, v| {
        s.limits = values::resources(r, k, v).map(|value| located(value, v));
    }),
    ("unique", |s, r, k, v| s.unique = values::unique(r, k, v)),
    ("success_exit", |s, r, k, v| {
        s.success_exit = values::success_exit(r, k, v).map(SuccessExit::from);
    }),
    ("ping", |s, r, k, v| s.ping = values::ping(r, k, v)),
    ("output_limit", |s, r, k, v| {
        s.output_limit = values::size(r, k, v);
    }),
    ("alert_if_no_success_for", |s, r, k, v| {
        s.alert_if_no_success_for = r.positive(k, v).map(|value| located(value, v));
    }),
    ("expires", |s, r, k, v| s.expires = r.positive(k, v)),
    ("first_run", |s, r, k, v| {
        s.first_run = r.choice(k, v, &choices::FIRST_RUN);
    }),
    ("catch_up", |s, r, k, v| {
        s.catch_up = r.choice(k, v, &choices::CATCH_UP);
    }),
    ("catch_up_window", |s, r, k, v| {
        s.catch_up_window = r.duration(k, v);
    }),
    ("max_catch_up", |s, r, k, v| {
        s.max_catch_up = r.integer(k, v, 1..=100_000);
    }),
    ("overlap", |s, r, k, v| {
        s.overlap = r.choice(k, v, &choices::OVERLAP);
    }),
    ("jitter", |s, r, k, v| {
        s.jitter = r.duration(k, v).map(|value| located(value, v));
    }),
    ("start", |s, r, k, v| s.start = values::moment(r, k, v)),
    ("end", |s, r, k, v| s.end = values::moment(r, k, v)),
    ("anchor", |s, r, k, v| {
        let anchor = r.choice(k, v, &choices::ANCHOR);
        s.anchor = anchor.map(|value| located(value, v));
    }),
    ("blackout", |s, r, k, v| {
        s.blackout = values::blackouts(r, k, v)
    }),
];

/// The names of all keys.
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|(name, _)| *name)
}

fn located<T>(value: T, item: &Item<'_>) -> Located<T> {
    Located {
        value,
        span: item.span(),
    }
}

impl Settings {
    /// Reads a table.
    pub(super) fn read(reader: &mut Reader<'_>, table: &DeTable<'_>, scope: Scope<'_>) -> Self {
        let mut settings = Self::default();
        for (key, item) in table {
            let name: &str = key.get_ref();
            if let Some((known, read)) = KEYS.iter().find(|(known, _)| *known == name) {
                settings.seen.push((known, key.span()));
                read(&mut settings, reader, known, item);
            } else {
                settings.unknown(reader, name, key.span(), item, scope);
            }
        }
        settings
    }

    /// Where a key stands, if it is there.
    pub(super) fn place(&self, key: &str) -> Option<&Range<usize>> {
        self.seen
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, span)| span)
    }

    fn unknown(
        &mut self,
        reader: &mut Reader<'_>,
        name: &str,
        span: Range<usize>,
        item: &Item<'_>,
        scope: Scope<'_>,
    ) {
        if nearest(name, ["command", "shell", "http"]).is_some() {
            self.seen.push((MISSPELT_PROGRAM, span.clone()));
        }
        let place = match scope {
            Scope::Defaults => "[defaults]".to_owned(),
            Scope::Job(job) => format!("[job.{job}]"),
        };
        if let (Scope::Job(job), DeValue::Table(inner)) = (scope, item.get_ref())
            && inner
                .keys()
                .any(|key| keys().any(|known| known == key.get_ref()))
        {
            // A dotted header: TOML reads [job.a.b] as the key `b` of job `a`.
            self.seen.push((DOTTED, span.clone()));
            let dotted = format!("{job}.{name}");
            return dotted_name(reader, span, &dotted);
        }
        let known: Vec<_> = keys().collect();
        reader.unknown_key(span, name, &place, &known);
    }

    /// Whether an unknown key probably was to say what to execute.
    pub(super) fn has_misspelt_program(&self) -> bool {
        self.place(MISSPELT_PROGRAM).is_some()
    }

    /// Whether the table is only there because a header has a dot in its job name.
    pub(super) fn is_prefix_of_a_dotted_name(&self) -> bool {
        !self.seen.is_empty() && self.seen.iter().all(|(name, _)| *name == DOTTED)
    }
}

/// Stands among the keys for a table that is a job with a dot in its name.
const DOTTED: &str = "a dotted job name";

/// Stands among the keys for one that was probably to be `command` or `shell`.
const MISSPELT_PROGRAM: &str = "a misspelt program";

/// A job name with a dot.
pub(super) fn dotted_name(reader: &mut Reader<'_>, span: Range<usize>, name: &str) {
    let message = format!(
        "the job name `{name}` contains a dot: a name starts with a-z or 0-9, then a-z, 0-9, `_` and \
         `-`, at most 63 characters"
    );
    let help = format!("write [job.{}]", narrow(name));
    reader.error_with_help(span, message, Some(help));
}
