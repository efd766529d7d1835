//! A document → TOML that the loader accepts, and its findings.

use std::{ops::Range, path::PathBuf};

use chrono::{DateTime, Utc};

use super::{
    super::{
        diagnostic::{Diagnostic, Findings, Severity},
        parse,
        source::{Position, Source},
    },
    ImportError, Imported, Input,
    document::{Document, Draft, Note, is_invisible},
    name::Names,
};
use crate::job::JobName;

/// Longer lines of the source are cut where they are shown, in characters.
const SHOWN: usize = 160;

/// Comments are broken at this column.
const WIDTH: usize = 110;

/// Shows places in the source, for findings.
pub(super) struct Places {
    source: Source,
    /// Where each line lies, without the blanks around it.
    lines: Vec<Range<usize>>,
}

impl Places {
    pub(super) fn new(input: &Input<'_>) -> Self {
        let mut text = String::new();
        let mut lines = Vec::new();
        for line in input.text.split('\n') {
            let indent = line.len() - line.trim_start().len();
            let start = text.len() + indent;
            match line.char_indices().nth(SHOWN) {
                Some((at, _)) => text.extend([&line[..at], "…"]),
                None => text.push_str(line.trim_end()),
            }
            lines.push(start.min(text.len())..text.len());
            text.push('\n');
        }
        Self {
            source: Source::new(input.name, text, PathBuf::new()),
            lines,
        }
    }

    fn finding(&self, severity: Severity, note: &Note) -> Diagnostic {
        let index = note
            .line
            .saturating_sub(1)
            .min(self.lines.len().saturating_sub(1));
        let span = self.lines.get(index).cloned().unwrap_or_default();
        let start = self.source.text[..span.start]
            .rfind('\n')
            .map_or(0, |at| at + 1);
        let position = Position {
            line: index + 1,
            column: self.source.text[start..span.start].chars().count() + 1,
        };
        let message = note.message.clone();
        Diagnostic::at(severity, &self.source, span, position, message).with_help(note.help.clone())
    }

    /// The error that ends an import.
    pub(super) fn refuse(&self, note: &Note) -> ImportError {
        ImportError {
            diagnostic: Box::new(self.finding(Severity::Error, note)),
        }
    }
}

/// Writes the file. Every job is read by the loader; what it refuses becomes a comment.
pub(super) fn finish(places: &Places, document: Document, now: DateTime<Utc>) -> Imported {
    let defaults = defaults(&document.defaults);
    let mut names = Names::default();
    let mut findings = Findings::default();
    let mut jobs = Vec::new();
    let mut left_out = 0;
    let mut toml = String::new();
    comment(&mut toml, &format!("Imported from the {}", document.title));
    for line in &document.head {
        comment(&mut toml, line);
    }
    toml.push_str(&defaults);
    for note in &document.notes {
        push(&mut findings, places, Severity::Warning, note);
    }
    for mut draft in document.drafts {
        let name = names.give(&draft.name);
        let body = body(name.as_ref(), &draft.keys);
        if draft.left_out.is_none() {
            draft.left_out = refusal(&defaults, &body, &draft, now);
        }
        toml.push('\n');
        preface(&mut toml, &draft);
        for note in &draft.losses {
            push(&mut findings, places, Severity::Warning, note);
        }
        match (&draft.left_out, name) {
            (None, Some(name)) => {
                jobs.push(name);
                toml.push_str(&body);
            }
            (reason, _) => {
                left_out += 1;
                if let Some(note) = reason {
                    push(&mut findings, places, Severity::Error, note);
                }
                if !draft.keys.is_empty() {
                    body.lines().for_each(|line| raw_comment(&mut toml, line));
                }
            }
        }
    }
    if !document.tail.is_empty() {
        toml.push('\n');
    }
    for line in &document.tail {
        comment(&mut toml, line);
    }
    let findings = match findings.finish() {
        Ok(warnings) => warnings,
        Err(error) => error.diagnostics,
    };
    Imported {
        toml,
        jobs,
        left_out,
        findings,
    }
}

fn push(findings: &mut Findings, places: &Places, severity: Severity, note: &Note) {
    if !findings.is_full() {
        findings.push(places.finding(severity, note));
    }
}

fn source(toml: &str) -> Source {
    Source::new("import", toml, PathBuf::from("/"))
}

/// Why the loader does not take the job.
fn refusal(defaults: &str, body: &str, draft: &Draft, now: DateTime<Utc>) -> Option<Note> {
    let error = parse(&[source(&format!("{defaults}\n{body}"))], now).err()?;
    let first = error.errors().next();
    let mut note = match first {
        Some(first) => Note::new(draft.line, first.message()),
        None => Note::new(draft.line, error.to_string()),
    };
    note.help = first.and_then(Diagnostic::help).map(str::to_owned);
    Some(note)
}

fn defaults(defaults: &[(&'static str, String, String)]) -> String {
    let mut toml = "\n[defaults]\n".to_owned();
    for (key, value, why) in defaults {
        if !why.is_empty() {
            comment(&mut toml, why);
        }
        toml.push_str(&format!("{key} = {value}\n"));
    }
    toml
}

fn body(name: Option<&JobName>, keys: &[(String, String)]) -> String {
    let name = name.map_or("name", JobName::as_str);
    let mut toml = format!("[job.{name}]\n");
    for (key, value) in keys {
        toml.push_str(&format!("{key} = {value}\n"));
    }
    toml
}

/// The comments above a job.
fn preface(toml: &mut String, draft: &Draft) {
    for remark in &draft.remarks {
        comment(toml, remark);
    }
    comment(toml, &draft.origin);
    for explanation in &draft.explanations {
        comment(toml, explanation);
    }
    for note in &draft.losses {
        told(toml, "not carried over: ", note);
    }
    if let Some(note) = &draft.left_out {
        told(toml, "LEFT OUT: ", note);
    }
}

fn told(toml: &mut String, prefix: &str, note: &Note) {
    let mut text = format!("{prefix}{}", note.message);
    if let Some(help) = &note.help {
        text.push_str("; ");
        text.push_str(help);
    }
    comment(toml, &text);
}

/// A comment, broken into lines of a readable length.
fn comment(toml: &mut String, text: &str) {
    for line in text.lines() {
        let mut written = String::new();
        for word in line.split(' ') {
            if !written.is_empty() && written.chars().count() + word.chars().count() > WIDTH {
                raw_comment(toml, &written);
                written = "  ".to_owned();
            } else if !written.is_empty() {
                written.push(' ');
            }
            written.push_str(word);
        }
        raw_comment(toml, &written);
    }
}

/// A line as it is, but without the characters that TOML does not allow in comments, or that nobody sees.
fn raw_comment(toml: &mut String, line: &str) {
    toml.push('#');
    if !line.is_empty() {
        toml.push(' ');
    }
    for c in line.trim_end().chars() {
        match (c.is_control() && c != '\t') || is_invisible(c) {
            true => toml.extend(c.escape_default()),
            false => toml.push(c),
        }
    }
    toml.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_broken_and_clean() {
        let mut toml = String::new();
        comment(&mut toml, &format!("a\u{7}b\n{} end", "word ".repeat(25)));
        assert_eq!(toml.lines().next(), Some("# a\\u{7}b"));
        assert!(toml.lines().all(|line| line.len() < 118), "{toml}");
        assert!(toml.parse::<toml::Table>().is_ok());
    }
}
