//! Values that need more than a type: commands, environments, retry policies, sizes, times.

use std::{collections::BTreeMap, path::PathBuf};

use chrono_tz::Tz;
use toml::de::DeValue;

use super::reader::{Item, Located, Reader};
use crate::job::{BlackoutName, Kill, SignalName, Template, TemplateError};

pub(super) use super::{
    http::http,
    limits::{concurrency, lock, rate},
    resources::resources,
    retry::retry,
    size::size,
    unique::unique,
};

/// How the key of a webhook is told from others.
pub(super) const NOTIFY_URL: &str = "notify.url";
pub(super) const KILL_KEYS: [&str; 2] = ["signal", "grace"];

pub(super) fn located(
    reader: &mut Reader<'_>,
    key: &str,
    item: &Item<'_>,
) -> Option<Located<String>> {
    let value = reader.text(key, item)?.to_owned();
    let span = item.span();
    Some(Located { value, span })
}

/// A date and time, as TOML has them or as text.
pub(super) fn moment(
    reader: &mut Reader<'_>,
    key: &str,
    item: &Item<'_>,
) -> Option<Located<String>> {
    let value = match item.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Datetime(moment) => moment.to_string(),
        _ => {
            reader.mismatch(
                key,
                item,
                "a date with a time",
                Some("for example 2026-12-24T18:00:00"),
            );
            return None;
        }
    };
    let span = item.span();
    Some(Located { value, span })
}

/// One name or a list of some; an empty list takes back what the defaults say.
pub(super) fn blackouts(
    reader: &mut Reader<'_>,
    key: &str,
    item: &Item<'_>,
) -> Option<Vec<Located<BlackoutName>>> {
    let name = |reader: &mut Reader<'_>, item: &Item<'_>| {
        let value = reader.name(key, item)?;
        let span = item.span();
        Some(Located { value, span })
    };
    match item.get_ref() {
        DeValue::Array(_) => reader.list(key, item, "a list of names", name),
        _ => name(reader, item).map(|one| vec![one]),
    }
}

pub(super) fn timezone(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<Tz> {
    let text = reader.text(key, item)?;
    if let Ok(zone) = text.parse() {
        return Some(zone);
    }
    let help = reader
        .did_you_mean(text, chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()))
        .unwrap_or_else(|| {
            "zones are named as in the IANA database: `Asia/Shanghai`, `UTC`".to_owned()
        });
    let message = format!("`{key}`: there is no time zone `{text}`");
    reader.error_with_help(item.span(), message, Some(help));
    None
}

pub(super) fn command(
    reader: &mut Reader<'_>,
    key: &str,
    item: &Item<'_>,
) -> Option<Vec<Template>> {
    if let DeValue::String(text) = item.get_ref() {
        let words: Vec<_> = text
            .split_whitespace()
            .map(|word| format!("{word:?}"))
            .collect();
        let help = format!(
            "write {key} = [{}], or use the key `shell`",
            words.join(", ")
        );
        reader.mismatch(key, item, "a list of texts", Some(&help));
        return None;
    }
    let arguments = reader.list(key, item, "a list of texts", |reader, item| {
        with_placeholders(reader, key, item)
    })?;
    match arguments.first().map(ToString::to_string) {
        Some(program) if !program.trim().is_empty() => Some(arguments),
        Some(_) => {
            reader.error(
                item.span(),
                format!("the first text of `{key}` is the program; it is empty"),
            );
            None
        }
        None => {
            reader.error(
                item.span(),
                format!("`{key}` is empty; it needs at least a program"),
            );
            None
        }
    }
}

/// A text with placeholders that is not empty.
pub(super) fn template(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<Template> {
    let template = with_placeholders(reader, key, item)?;
    if template.source().trim().is_empty() {
        reader.error(item.span(), format!("`{key}` is empty"));
        return None;
    }
    Some(template)
}

fn with_placeholders(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<Template> {
    // Names and arguments are seen by others.
    let allows_secrets = key.starts_with("http.") || key == NOTIFY_URL;
    let text = reader.plain_text(key, item)?;
    match text.parse::<Template>() {
        Ok(template) if !allows_secrets && template.credentials().next().is_some() => {
            let message = format!("`{key}`: a credential would be seen by others here");
            let help = "use it in the headers or the body of `http`; a program finds it in its environment as CREDENTIAL_…".to_owned();
            reader.error_with_help(item.span(), message, Some(help));
            None
        }
        Ok(template) => Some(template),
        Err(error) => {
            template_error(reader, item, &text, &error);
            None
        }
    }
}

fn template_error(reader: &mut Reader<'_>, item: &Item<'_>, text: &str, error: &TemplateError) {
    let mut span = item.span();
    let mut help = None;
    if let TemplateError::Unknown(name) = error {
        let written = format!("{{{name}}}");
        if let Some(at) = text.find(&written) {
            span = reader.within(&span, text, at..at + written.len());
        }
        help = reader.did_you_mean(name, Template::BUILT_IN).or_else(|| {
            (!name.contains(['.', ' '])).then(|| format!("an argument is `{{arg.{name}}}`."))
        });
    }
    let message = match error {
        TemplateError::Unknown(name) => format!("unknown placeholder `{{{name}}}`"),
        TemplateError::Open(_)
        | TemplateError::Close(_)
        | TemplateError::Missing(_)
        | TemplateError::NoCredential(_) => error.to_string(),
    };
    let help = help.map(|near| format!("{near} There are {{arg.NAME}}, {}", placeholder_names()));
    reader.error_with_help(
        span,
        message,
        help.or_else(|| Some("`{{` and `}}` stand for braces".to_owned())),
    );
}

fn placeholder_names() -> String {
    Template::BUILT_IN
        .map(|name| format!("{{{name}}}"))
        .join(", ")
}

pub(super) fn shell(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<String> {
    let text = reader.plain_text(key, item)?;
    if text.trim().is_empty() {
        reader.error(item.span(), format!("`{key}` is empty"));
        return None;
    }
    let place = |reader: &Reader<'_>, at: usize| {
        let end = text[at..].find('}').map_or(text.len(), |end| at + end + 1);
        reader.within(&item.span(), &text, at..end)
    };
    if let Some(at) = text.find("{arg.") {
        let message =
            format!("`{key}` has no placeholders, so that no argument can become a command");
        let help = "use `command`, for example [\"sh\", \"-c\", 'fetch \"$1\"', \"sh\", \"{arg.url}\"], or \
                    the environment: $ORCHESTRATOR_ARGS, $ORCHESTRATOR_JOB, …";
        reader.error_with_help(place(reader, at), message, Some(help.to_owned()));
        return None;
    }
    let named = Template::BUILT_IN.map(|name| format!("{{{name}}}"));
    if let Some(at) = named.iter().find_map(|name| text.find(name)) {
        // A shell may mean it otherwise: awk '{job}'.
        let message = format!("`{key}` has no placeholders: this stays as it is");
        let help = "in a script use the environment: $ORCHESTRATOR_RUN_ID, $ORCHESTRATOR_JOB, …";
        reader.warn(place(reader, at), message, help);
    }
    Some(text)
}

pub(super) fn args(
    reader: &mut Reader<'_>,
    key: &str,
    item: &Item<'_>,
) -> Option<serde_json::Map<String, serde_json::Value>> {
    let table = reader.table(key, item)?;
    let read = |(name, item)| Some((plain(name), argument(reader, key, item)?));
    let values: Vec<_> = table.iter().map(read).collect();
    values.into_iter().collect()
}

fn plain(key: &toml::Spanned<toml::de::DeString<'_>>) -> String {
    key.get_ref().to_string()
}

/// The same value as JSON; dates become texts.
pub(super) fn argument(
    reader: &mut Reader<'_>,
    key: &str,
    item: &Item<'_>,
) -> Option<serde_json::Value> {
    use serde_json::Value;
    let number = match item.get_ref() {
        DeValue::String(text) => return Some(Value::String(text.to_string())),
        DeValue::Boolean(value) => return Some(Value::Bool(*value)),
        DeValue::Datetime(moment) => return Some(Value::String(moment.to_string())),
        DeValue::Array(items) => {
            let values: Vec<_> = items
                .iter()
                .map(|item| argument(reader, key, item))
                .collect();
            return values.into_iter().collect::<Option<_>>().map(Value::Array);
        }
        DeValue::Table(_) => return args(reader, key, item).map(Value::Object),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .map(Value::from),
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .map(Value::Number),
    };
    if number.is_none() {
        reader.error(
            item.span(),
            format!("`{key}`: JSON cannot carry this number"),
        );
    }
    number
}

pub(super) fn env(
    reader: &mut Reader<'_>,
    key: &str,
    item: &Item<'_>,
) -> Option<BTreeMap<String, String>> {
    let table = reader.table(key, item)?;
    let mut values = Vec::with_capacity(table.len());
    for (name, item) in table {
        let name_text: &str = name.get_ref();
        if name_text.is_empty() || name_text.contains(['=', '\0']) {
            reader.error(
                name.span(),
                format!("`{name_text}` cannot be a variable of the environment"),
            );
        }
        if name_text.starts_with("ORCHESTRATOR_") {
            let message = format!("`{name_text}`: variables ORCHESTRATOR_… are set by the worker");
            reader.error(name.span(), message);
        }
        let value = match item.get_ref() {
            DeValue::String(_) => reader.plain_text(key, item),
            _ => {
                let raw = reader.source.text.get(item.span()).unwrap_or_default();
                let help = format!("write it in quotes: \"{raw}\"");
                let nested = matches!(item.get_ref(), DeValue::Array(_) | DeValue::Table(_));
                reader.mismatch(
                    &format!("{key}.{name_text}"),
                    item,
                    "text",
                    (!nested).then_some(&*help),
                );
                None
            }
        };
        values.push(value.map(|value| (name_text.to_owned(), value)));
    }
    values.into_iter().collect()
}

/// A URL that is told how a job fares.
pub(super) fn ping(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<Box<str>> {
    let text = reader.plain_text(key, item)?;
    let rest = ["https://", "http://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let is_plain = |c: char| c.is_ascii_graphic();
    if rest.is_some_and(|rest| !rest.is_empty() && rest.chars().all(is_plain)) {
        return Some(text.into());
    }
    let help = "write for example `https://hc-ping.com/UUID`".to_owned();
    reader.error_with_help(
        item.span(),
        format!("`{key}`: `{text}` is not the URL of an http or https server"),
        Some(help),
    );
    None
}

/// Made absolute: relative to the directory of the file.
pub(super) fn path(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<PathBuf> {
    let text = reader.plain_text(key, item)?;
    if text.is_empty() {
        reader.error(item.span(), format!("`{key}` is empty"));
        return None;
    }
    if text == "~" || text.starts_with("~/") {
        let help = "write the whole path, or one relative to this file".to_owned();
        reader.error_with_help(
            item.span(),
            format!("`{key}`: `~` is not expanded"),
            Some(help),
        );
        return None;
    }
    // Joining drops the `.` components and keeps `..`, which may lie behind a symbolic link.
    Some(reader.source.dir.join(text).components().collect())
}

pub(super) fn kill(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<Kill> {
    let mut kill = Kill::default();
    for (name, item) in reader.table(key, item)? {
        match name.get_ref().as_ref() {
            "signal" => {
                if let Some(signal) = reader.choice("kill.signal", item, &SignalName::ALL) {
                    kill.signal = signal;
                }
            }
            "grace" => {
                if let Some(grace) = reader.duration("kill.grace", item) {
                    kill.grace = grace;
                }
            }
            other => reader.unknown_key(name.span(), other, "`kill`", &KILL_KEYS),
        }
    }
    Some(kill)
}

pub(super) fn success_exit(
    reader: &mut Reader<'_>,
    key: &str,
    item: &Item<'_>,
) -> Option<Vec<i32>> {
    let codes = exit_codes(reader, key, item)?;
    if codes.is_empty() {
        reader.error(
            item.span(),
            format!("`{key}` is empty, so no run could succeed"),
        );
        return None;
    }
    Some(codes)
}

pub(super) fn exit_codes(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<Vec<i32>> {
    reader.list(key, item, "a list of exit codes", |reader, item| {
        reader.integer(key, item, 0..=255)
    })
}
