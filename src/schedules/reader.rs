//! Reads TOML values into typed ones. What does not fit becomes a finding with its place, and `None`.

use std::{
    collections::BTreeSet, fmt::Display, ops::Range, ops::RangeInclusive, str::FromStr,
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    diagnostic::{Diagnostic, Findings, Severity},
    nearest::nearest,
    source::{Lines, Source},
};
use crate::job::{NameError, Seconds};

/// A value with its place.
pub(super) type Item<'i> = Spanned<DeValue<'i>>;

/// No duration is longer: instants stay far within what can be computed with.
const LONGEST: Duration = Duration::from_secs(3660 * 86_400);

/// A typed value with its place.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// Reads one file.
pub(super) struct Reader<'a> {
    pub(super) source: &'a Source,
    lines: Lines<'a>,
    findings: &'a mut Findings,
    /// Lines with syntax errors: what is found there besides is only their consequence.
    broken: BTreeSet<usize>,
    last_syntax: String,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a Source, findings: &'a mut Findings) -> Self {
        Self {
            source,
            lines: Lines::new(&source.text),
            findings,
            broken: BTreeSet::new(),
            last_syntax: String::new(),
        }
    }

    /// A syntax error.
    pub(super) fn syntax(&mut self, span: Range<usize>, message: &str) {
        let line = self.lines.position(span.start).line;
        let last = self.broken.last().copied();
        let follows = last.is_some_and(|last| line <= last + 1);
        if follows && self.last_syntax == message {
            // A bracket that is never closed: one mistake, complained about on every line.
            self.broken.insert(line);
            return;
        }
        message.clone_into(&mut self.last_syntax);
        self.report(Severity::Error, span, format!("TOML: {message}"), None);
        self.broken.insert(line);
    }

    /// Whether the file has syntax errors, so that what is missing may only have been lost.
    pub(super) fn is_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    pub(super) fn error(&mut self, span: Range<usize>, message: impl Display) {
        self.report(Severity::Error, span, message, None);
    }

    pub(super) fn error_with_help(
        &mut self,
        span: Range<usize>,
        message: impl Display,
        help: Option<String>,
    ) {
        self.report(Severity::Error, span, message, help);
    }

    pub(super) fn warn(&mut self, span: Range<usize>, message: impl Display, help: &str) {
        self.report(Severity::Warning, span, message, Some(help.to_owned()));
    }

    fn report(
        &mut self,
        severity: Severity,
        span: Range<usize>,
        message: impl Display,
        help: Option<String>,
    ) {
        let position = self.lines.position(span.start);
        if self.broken.contains(&position.line) {
            return;
        }
        let message = message.to_string();
        let found = Diagnostic::at(severity, self.source, span, position, message);
        self.findings.push(found.with_help(help));
    }

    /// `did you mean …?`, if something is near.
    pub(super) fn did_you_mean<'n>(
        &self,
        word: &str,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Option<String> {
        if self.findings.is_full() {
            return None;
        }
        nearest(word, names).map(|name| format!("did you mean `{name}`?"))
    }

    /// The line of a place, from 1.
    pub(super) fn line(&self, at: usize) -> u32 {
        u32::try_from(self.lines.position(at).line).unwrap_or(u32::MAX)
    }

    /// `FILE:LINE` of a place.
    pub(super) fn line_of(&self, at: usize) -> String {
        format!("{}:{}", self.source.name, self.line(at))
    }

    /// The place of a part of a text, where the text stands in the file as it is.
    pub(super) fn within(
        &self,
        item: &Range<usize>,
        text: &str,
        part: Range<usize>,
    ) -> Range<usize> {
        let raw = self.source.text.get(item.clone()).unwrap_or_default();
        match raw.find(text) {
            Some(offset) if !text.is_empty() && raw.len() <= text.len() + 6 => {
                let start = item.start + offset;
                start + part.start..start + part.end
            }
            Some(_) | None => item.clone(),
        }
    }

    pub(super) fn mismatch(
        &mut self,
        key: &str,
        item: &Item<'_>,
        wanted: &str,
        help: Option<&str>,
    ) {
        let found = match item.get_ref() {
            DeValue::String(_) => "text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let message = format!("`{key}` takes {wanted}, not {found}");
        self.error_with_help(item.span(), message, help.map(str::to_owned));
    }

    pub(super) fn text<'i>(&mut self, key: &str, item: &'i Item<'_>) -> Option<&'i str> {
        match item.get_ref() {
            DeValue::String(text) => Some(text),
            _ => {
                self.mismatch(key, item, "text", None);
                None
            }
        }
    }

    /// A text that can be handed to a process.
    pub(super) fn plain_text(&mut self, key: &str, item: &Item<'_>) -> Option<String> {
        let text = self.text(key, item)?;
        if text.contains('\0') {
            self.error(item.span(), format!("`{key}` cannot carry a NUL character"));
            return None;
        }
        Some(text.to_owned())
    }

    pub(super) fn boolean(&mut self, key: &str, item: &Item<'_>) -> Option<bool> {
        match item.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => {
                self.mismatch(key, item, "true or false", None);
                None
            }
        }
    }

    pub(super) fn integer<T: TryFrom<i64>>(
        &mut self,
        key: &str,
        item: &Item<'_>,
        bounds: RangeInclusive<i64>,
    ) -> Option<T> {
        let DeValue::Integer(number) = item.get_ref() else {
            self.mismatch(key, item, "a whole number", None);
            return None;
        };
        let value = i64::from_str_radix(number.as_str(), number.radix()).ok();
        let fitting = value.filter(|value| bounds.contains(value));
        let fitting = fitting.and_then(|value| T::try_from(value).ok());
        if fitting.is_none() {
            let (min, max) = bounds.into_inner();
            self.error(item.span(), format!("`{key}` lies between {min} and {max}"));
        }
        fitting
    }

    /// A number from 0 to 1.
    pub(super) fn share(&mut self, key: &str, item: &Item<'_>) -> Option<f64> {
        let value = match item.get_ref() {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) => number.as_str().parse().ok(),
            _ => {
                self.mismatch(key, item, "a number from 0 to 1", None);
                return None;
            }
        };
        let fitting = value.filter(|value| (0.0..=1.0).contains(value));
        if fitting.is_none() {
            self.error(item.span(), format!("`{key}` lies between 0 and 1"));
        }
        fitting
    }

    /// A duration, zero included.
    pub(super) fn duration(&mut self, key: &str, item: &Item<'_>) -> Option<Seconds> {
        let DeValue::String(text) = item.get_ref() else {
            let raw = self.source.text.get(item.span()).unwrap_or_default();
            let help = matches!(item.get_ref(), DeValue::Integer(_))
                .then(|| format!("write it with a unit, for example \"{raw}s\""));
            self.mismatch(key, item, "a duration as text", help.as_deref());
            return None;
        };
        match text.parse::<Seconds>() {
            Ok(duration) if duration.get() <= LONGEST => Some(duration),
            Ok(_) => {
                self.error(item.span(), format!("`{key}` is longer than ten years"));
                None
            }
            Err(error) => {
                self.error(item.span(), format!("`{key}`: {error}"));
                None
            }
        }
    }

    /// A duration of more than nothing.
    pub(super) fn positive(&mut self, key: &str, item: &Item<'_>) -> Option<Seconds> {
        let duration = self.duration(key, item)?;
        if duration.get().is_zero() {
            self.error(item.span(), format!("`{key}` must be longer than nothing"));
            return None;
        }
        Some(duration)
    }

    pub(super) fn name<T: FromStr<Err = NameError>>(
        &mut self,
        key: &str,
        item: &Item<'_>,
    ) -> Option<T> {
        let text = self.text(key, item)?;
        match text.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                let help = format!("write `{}`", narrow(text));
                self.error_with_help(item.span(), format!("`{key}`: {error}"), Some(help));
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &str,
        item: &Item<'_>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = self.text(key, item)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words = choices.iter().map(|(word, _)| *word);
        let help = self.did_you_mean(text, words);
        let help = help.map_or_else(
            || one_of(choices),
            |near| format!("{near} {}", one_of(choices)),
        );
        let message = format!("`{key}` cannot be \"{text}\"");
        self.error_with_help(item.span(), message, Some(help));
        None
    }

    /// A list; `None` if it is none or one of its items is bad.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        item: &Item<'_>,
        wanted: &str,
        mut read: impl FnMut(&mut Self, &Item<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let DeValue::Array(items) = item.get_ref() else {
            self.mismatch(key, item, wanted, None);
            return None;
        };
        let values: Vec<_> = items.iter().map(|item| read(self, item)).collect();
        values.into_iter().collect()
    }

    /// One value or a list of some.
    pub(super) fn one_or_more<T>(
        &mut self,
        key: &str,
        item: &Item<'_>,
        mut read: impl FnMut(&mut Self, &Item<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        match item.get_ref() {
            DeValue::Array(items) if items.is_empty() => {
                self.error(item.span(), format!("`{key}` is an empty list"));
                None
            }
            DeValue::Array(_) => self.list(key, item, "a list", read),
            _ => read(self, item).map(|value| vec![value]),
        }
    }

    pub(super) fn table<'t, 'i>(
        &mut self,
        key: &str,
        item: &'t Item<'i>,
    ) -> Option<&'t DeTable<'i>> {
        match item.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => {
                self.mismatch(key, item, "a table", None);
                None
            }
        }
    }

    pub(super) fn unknown_key(
        &mut self,
        span: Range<usize>,
        key: &str,
        place: &str,
        known: &[&str],
    ) {
        let help = self
            .did_you_mean(key, known.iter().copied())
            .or_else(|| (known.len() <= 8).then(|| format!("there are {}", quoted(known))));
        self.error_with_help(span, format!("unknown key `{key}` in {place}"), help);
    }
}

/// The name with every character that names cannot have replaced.
pub(super) fn narrow(name: &str) -> String {
    let fitting = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '_') => c,
        _ => '-',
    };
    let text: String = name.chars().map(fitting).take(63).collect();
    let trimmed = text.trim_matches(['-', '_']);
    if trimmed.is_empty() { "name" } else { trimmed }.to_owned()
}

fn one_of<T>(choices: &[(&str, T)]) -> String {
    let words: Vec<_> = choices
        .iter()
        .map(|(word, _)| format!("\"{word}\""))
        .collect();
    format!("it is one of {}", words.join(", "))
}

fn quoted(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}
