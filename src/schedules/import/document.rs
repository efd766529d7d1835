//! What the readers of the formats make: a file in the making, with what is to be said about it.

use super::{super::reader::narrow, Input};

/// A schedule file in the making.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// What was imported, for the first line.
    pub(super) title: String,
    /// Comments below it.
    pub(super) head: Vec<String>,
    /// `[defaults]`: key, value in TOML, why.
    pub(super) defaults: Vec<(&'static str, String, String)>,
    /// The jobs in the order of the source.
    pub(super) drafts: Vec<Draft>,
    /// Comments at the end.
    pub(super) tail: Vec<String>,
    /// Warnings that concern no job in particular.
    pub(super) notes: Vec<Note>,
}

/// One job in the making.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// The line of the source, from 1.
    pub(super) line: usize,
    /// What it is called there.
    pub(super) origin: String,
    /// The wish for a name; made valid and unique when written.
    pub(super) name: String,
    /// Comments of the source.
    pub(super) remarks: Vec<String>,
    /// What is written otherwise than in the source, and why.
    pub(super) explanations: Vec<String>,
    /// What is not carried over: comments and warnings.
    pub(super) losses: Vec<Note>,
    /// Key and value in TOML.
    pub(super) keys: Vec<(String, String)>,
    /// Why this can only be a comment.
    pub(super) left_out: Option<Note>,
}

/// Something to tell, with its place and mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    /// The line of the source, from 1.
    pub(super) line: usize,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Note {
    pub(super) fn new(line: usize, message: impl Into<String>) -> Self {
        Self {
            line,
            message: message.into(),
            help: None,
        }
    }

    pub(super) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Document {
    /// A document about that file.
    pub(super) fn new(what: &str, input: &Input<'_>) -> Self {
        let zone = input.timezone.map_or("UTC", |zone| zone.name());
        Self {
            title: format!("{what} `{}`", input.name),
            defaults: vec![("timezone", text(zone), String::new())],
            ..Self::default()
        }
    }

    /// Says why the zone of the defaults is what it is.
    pub(super) fn explain_zone(&mut self, why: &str) {
        if let Some((_, _, reason)) = self.defaults.iter_mut().find(|one| one.0 == "timezone") {
            why.clone_into(reason);
        }
    }

    /// A value for all jobs.
    pub(super) fn set_default(&mut self, key: &'static str, value: String, why: &str) {
        self.defaults.push((key, value, why.to_owned()));
    }
}

impl Draft {
    pub(super) fn new(line: usize, origin: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            line,
            origin: origin.into(),
            name: name.into(),
            ..Self::default()
        }
    }

    /// A key with its value in TOML.
    pub(super) fn set(&mut self, key: impl Into<String>, value: String) {
        self.keys.push((key.into(), value));
    }

    /// Something that is not carried over.
    pub(super) fn lose(&mut self, message: impl Into<String>) {
        self.losses.push(Note::new(self.line, message));
    }

    /// Something that is not carried over, and what to do about it.
    pub(super) fn lose_with_help(&mut self, message: impl Into<String>, help: &str) {
        let note = Note::new(self.line, message).with_help(help);
        self.losses.push(note);
    }

    /// Makes it a comment; the first reason stays.
    pub(super) fn leave_out(&mut self, reason: impl Into<String>, help: &str) {
        let note = Note::new(self.line, reason).with_help(help);
        self.left_out.get_or_insert(note);
    }

    /// The queue, made valid.
    pub(super) fn queue(&mut self, queue: &str) {
        let valid = narrow(queue);
        if valid != queue {
            let message = format!("the queue `{queue}` is called `{valid}` here");
            self.lose(message);
        }
        self.set("queue", text(&valid));
    }

    /// One variable of the environment, if a job may have it.
    pub(super) fn env(&mut self, name: &str, value: &str) {
        if name.starts_with("ORCHESTRATOR_") {
            let message = format!("{name}: variables ORCHESTRATOR_… are set by the worker");
            return self.lose(message);
        }
        self.set(format!("env.{}", key(name)), text(value));
    }
}

/// A text in TOML.
pub(super) fn text(text: &str) -> String {
    match text.contains(is_invisible) {
        false => toml::Value::from(text).to_string(),
        true => escaped(text),
    }
}

/// Characters that TOML allows, and that turn, move or erase what is shown: they are written as escapes.
pub(super) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text between quotation marks: TOML has the escapes of JSON, and wants one more.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in serde_json::Value::from(text).to_string().chars() {
        match is_invisible(c) {
            true => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => escaped.push(c),
        }
    }
    escaped
}

/// A list of texts in TOML.
pub(super) fn texts<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|one| text(one.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

/// A key in TOML.
pub(super) fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !name.is_empty() && name.chars().all(bare) {
        true => name.to_owned(),
        false => escaped(name),
    }
}

/// A duration of whole seconds in TOML. No unit is longer than a day: those have no whole hours.
pub(super) fn seconds(seconds: u64) -> String {
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    let words: Vec<_> = parts
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    match words.is_empty() {
        true => text("0s"),
        false => text(&words.join(" ")),
    }
}

/// An argument that has no placeholders.
pub(super) fn plain_argument(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_quoted_where_they_must_be() {
        for (name, written) in [
            ("PATH", "PATH"),
            ("", "\"\""),
            ("a.b", "\"a.b\""),
            ("a\nb", "\"a\\nb\""),
            ("[x]", "\"[x]\""),
            ("\u{7f}\u{1}", "\"\\u007f\\u0001\""),
        ] {
            assert_eq!(key(name), written);
        }
    }

    #[test]
    fn durations_are_read_back() {
        for (length, written) in [
            (0, "0s"),
            (90, "1m 30s"),
            (86_400 * 366, "366d"),
            (90_061, "1d 1h 1m 1s"),
        ] {
            assert_eq!(seconds(length), format!("\"{written}\""));
            let read: crate::job::Seconds = written.parse().unwrap();
            assert_eq!(read.get().as_secs(), length);
        }
    }

    #[test]
    fn texts_come_back_as_they_were() {
        for one in [
            "",
            "a",
            "it's",
            "\"q\" 'r'",
            "a\nb\n",
            "\u{1}\t\\",
            "'''\"\"\"\n",
            "ü→",
            "\u{202e}\u{9b}\u{7f}\u{1}\"x",
        ] {
            assert!(!text(one).contains(is_invisible), "{one:?}");
            let table: toml::Table = format!("k = {}", text(one)).parse().unwrap();
            assert_eq!(table["k"].as_str(), Some(one), "{one:?}");
        }
    }
}
