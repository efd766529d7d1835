//! What is wrong in schedule files: severity, place, message and mend, for people (miette) and as
//! JSON.

use std::{fmt, ops::Range, sync::Arc};

use miette::{LabeledSpan, NamedSource};
use serde::{Serialize, Serializer, ser::SerializeStruct};
use thiserror::Error;

use super::source::{Position, Source, clamp};

/// So many diagnostics are kept of one load; beyond it they are only counted.
const LIMIT: usize = 1000;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The files cannot be used.
    Error,
    /// They can, but probably do not say what was meant.
    Warning,
}

/// One finding. Serialises as `{file, line, column, severity, message, help, text}`.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    severity: Severity,
    message: String,
    help: Option<String>,
    file: Option<Arc<str>>,
    place: Option<Place>,
}

#[derive(Debug, Clone)]
struct Place {
    source: NamedSource<Arc<str>>,
    span: Range<usize>,
    position: Position,
}

/// Errors in schedule files: nothing of them may be used.
#[derive(Debug, Clone, Error)]
#[error("the schedules have {} error{}", self.errors().count(), if self.errors().count() == 1 { "" } else { "s" })]
pub struct LoadError {
    /// All findings of all files, in the order of files and lines, warnings among them.
    pub diagnostics: Vec<Diagnostic>,
}

impl LoadError {
    /// The findings that are errors.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        let all = self.diagnostics.iter();
        all.filter(|diagnostic| diagnostic.severity == Severity::Error)
    }
}

impl Diagnostic {
    /// A finding about a file as a whole, or about no file.
    pub(super) fn without_place(file: Option<&str>, message: String, help: Option<String>) -> Self {
        Self {
            severity: Severity::Error,
            message,
            help,
            file: file.map(Arc::from),
            place: None,
        }
    }

    pub(super) fn at(
        severity: Severity,
        source: &Source,
        span: Range<usize>,
        position: Position,
        message: String,
    ) -> Self {
        Self {
            severity,
            message,
            help: None,
            file: Some(source.name.clone()),
            place: Some(Place {
                source: NamedSource::new(&source.name, source.text.clone()),
                span: clamp(&source.text, span),
                position,
            }),
        }
    }

    pub(super) fn with_help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// How to mend it.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The file.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The line, from 1.
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.position.line)
    }

    /// The column, in characters from 1.
    pub fn column(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.position.column)
    }

    /// The offending text.
    pub fn text(&self) -> Option<&str> {
        let place = self.place.as_ref()?;
        place.source.inner().get(place.span.clone())
    }

    /// The same finding with all that it quotes made harmless, `line` being for what has to stay within its line.
    #[must_use]
    pub fn cleaned(&self, text: fn(&str) -> String, line: fn(&str) -> String) -> Self {
        Self {
            severity: self.severity,
            message: text(&self.message),
            help: self.help.as_deref().map(text),
            file: self.file.as_deref().map(|file| line(file).into()),
            place: self.place.as_ref().map(|place| place.cleaned(text, line)),
        }
    }

    /// `FILE:LINE:COLUMN`, as far as known.
    pub fn location(&self) -> Option<String> {
        let file = self.file()?;
        Some(match (self.line(), self.column()) {
            (Some(line), Some(column)) => format!("{file}:{line}:{column}"),
            _ => file.to_owned(),
        })
    }
}

impl Place {
    fn cleaned(&self, clean: fn(&str) -> String, line: fn(&str) -> String) -> Self {
        let whole = self.source.inner();
        let (before, rest) = whole.split_at(self.span.start);
        let (within, after) = rest.split_at(self.span.len());
        let (mut text, within) = (clean(before), clean(within));
        let span = text.len()..text.len() + within.len();
        text.push_str(&within);
        text.push_str(&clean(after));
        Self {
            source: NamedSource::new(line(self.source.name()), text.into()),
            span,
            position: self.position,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, &self.place) {
            (Some(file), None) => write!(f, "{file}: {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.help.as_ref()?;
        Some(Box::new(help))
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        let place = self.place.as_ref()?;
        Some(&place.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.place.as_ref()?.span.clone();
        let label = LabeledSpan::new_with_span(None, span);
        Some(Box::new(std::iter::once(label)))
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Diagnostic", 7)?;
        fields.serialize_field("file", &self.file())?;
        fields.serialize_field("line", &self.line())?;
        fields.serialize_field("column", &self.column())?;
        fields.serialize_field("severity", &self.severity)?;
        fields.serialize_field("message", &self.message)?;
        fields.serialize_field("help", &self.help)?;
        fields.serialize_field("text", &self.text())?;
        fields.end()
    }
}

/// What a load has found so far, bounded.
#[derive(Debug, Default)]
pub(super) struct Findings {
    kept: Vec<Diagnostic>,
    dropped: usize,
    errors: usize,
}

impl Findings {
    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        if diagnostic.severity == Severity::Error {
            self.errors += 1;
        }
        match self.is_full() {
            true => self.dropped += 1,
            false => self.kept.push(diagnostic),
        }
    }

    /// Whether further findings are only counted, so that no work need go into them.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= LIMIT
    }

    /// The findings in the order of files and lines, each once: the warnings if there is no error.
    pub(super) fn finish(mut self) -> Result<Vec<Diagnostic>, LoadError> {
        self.kept.sort_by(|a, b| {
            let key = |one: &Diagnostic| (one.file.clone(), one.line(), one.column());
            key(a).cmp(&key(b)).then_with(|| a.message.cmp(&b.message))
        });
        self.kept.dedup_by(|a, b| {
            a.location() == b.location() && a.message == b.message && a.severity == b.severity
        });
        if self.dropped > 0 {
            let message = format!("{} more findings are not shown", self.dropped);
            let mut rest = Diagnostic::without_place(None, message, None);
            if self.errors == 0 {
                rest.severity = Severity::Warning;
            }
            self.kept.push(rest);
        }
        match self.errors {
            0 => Ok(self.kept),
            _ => Err(LoadError {
                diagnostics: self.kept,
            }),
        }
    }
}
