//! The grammar of one line of a crontab, as the cron of Vixie, Debian and Fedora reads it.

use chrono_tz::Tz;

use super::{super::document::Note, Users};
use crate::job::cron::{CronTrigger, DstGap, DstRepeat};

/// What a line is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'l> {
    Blank,
    /// Without its `#`.
    Comment(&'l str),
    /// `NAME=value`
    Setting {
        name: &'l str,
        value: &'l str,
    },
    Entry(Entry<'l>),
    /// Nothing of these.
    Bad(Note),
}

/// A schedule with a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'l> {
    /// The fields, one blank between them.
    pub(super) schedule: String,
    pub(super) user: Option<&'l str>,
    /// As written: `%` is not yet understood.
    pub(super) command: &'l str,
}

/// A command with what it reads from standard input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) script: String,
    pub(super) input: Option<String>,
}

pub(super) fn read(number: usize, line: &str, users: Users) -> Line<'_> {
    let text = line.trim();
    if text.is_empty() {
        return Line::Blank;
    }
    if let Some(comment) = text.strip_prefix('#') {
        return Line::Comment(comment);
    }
    if let Some((name, value)) = setting(text) {
        return Line::Setting { name, value };
    }
    match entry(text, users) {
        Ok(entry) => match check(&entry.schedule) {
            Ok(()) => Line::Entry(entry),
            Err((message, help)) => {
                let note = Note::new(number, message);
                Line::Bad(match help {
                    Some(help) => note.with_help(help),
                    None => note,
                })
            }
        },
        Err((message, help)) => Line::Bad(Note::new(number, message).with_help(help)),
    }
}

/// Whether a comment is an entry that somebody has switched off.
pub(super) fn is_entry(comment: &str) -> bool {
    let read = entry(comment.trim(), Users::None);
    read.is_ok_and(|entry| entry.schedule != "@reboot" && check(&entry.schedule).is_ok())
}

/// `NAME=value`, each perhaps in quotes.
fn setting(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = match text.strip_prefix(['"', '\'']) {
        Some(inner) => inner.split_once(text.chars().next()?)?,
        None => {
            let end = text.find(|c: char| c == '=' || c.is_whitespace())?;
            text.split_at(end)
        }
    };
    let value = rest.trim_start().strip_prefix('=')?.trim();
    let quoted = ['"', '\''].iter().find_map(|&quote| {
        let inner = value.strip_prefix(quote)?.strip_suffix(quote)?;
        (!inner.contains(quote)).then_some(inner)
    });
    (!name.is_empty()).then(|| (name, quoted.unwrap_or(value)))
}

type Mistake<T> = (String, T);

fn entry(text: &str, users: Users) -> Result<Entry<'_>, Mistake<&'static str>> {
    let fields = if text.starts_with('@') { 1 } else { 5 };
    let mut rest = text;
    let mut schedule = Vec::with_capacity(fields);
    for _ in 0..fields {
        let (word, behind) = split(rest);
        schedule.push(word);
        rest = behind;
    }
    let user = match users {
        Users::None => None,
        Users::Column => {
            let (user, behind) = split(rest);
            rest = behind;
            Some(user)
        }
    };
    if rest.is_empty() {
        return Err(match users {
            Users::None => (
                "this is no entry: the command is missing".to_owned(),
                "write five fields of time, or one of @hourly, @daily …, and then the command",
            ),
            Users::Column => (
                "this is no entry: the user or the command is missing".to_owned(),
                "write five fields of time, the user, and then the command; a crontab without a column \
                 of users is imported without --system",
            ),
        });
    }
    Ok(Entry {
        schedule: schedule.join(" "),
        user,
        command: rest,
    })
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_start())
}

fn check(schedule: &str) -> Result<(), Mistake<Option<String>>> {
    if schedule == "@reboot" {
        return Ok(());
    }
    let expressions = vec![schedule.to_owned()];
    match CronTrigger::new(
        expressions,
        Tz::UTC,
        DstGap::default(),
        DstRepeat::default(),
    ) {
        Ok(_) => Ok(()),
        Err(error) => Err((error.to_string(), error.hint())),
    }
}

/// Splits at the first `%` that has no backslash: what follows is standard input, each further `%` a
/// new line. `\%` is a percent sign.
pub(super) fn command(text: &str) -> Command {
    let mut script = String::new();
    let mut input: Option<String> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let part = input.as_mut().unwrap_or(&mut script);
        match (c, chars.peek()) {
            ('\\', Some('%')) => {
                chars.next();
                part.push('%');
            }
            ('%', _) => match &mut input {
                Some(input) => input.push('\n'),
                None => input = Some(String::new()),
            },
            ('\\', Some(&next)) => {
                // Takes the next one along: in `\\%` the percent sign is bare.
                chars.next();
                part.extend([c, next]);
            }
            _ => part.push(c),
        }
    }
    if let Some(input) = &mut input
        && !input.is_empty()
        && !input.ends_with('\n')
    {
        input.push('\n');
    }
    script.truncate(script.trim_end().len());
    Command { script, input }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(line: &str) -> Option<(&str, &str)> {
        match read(1, line, Users::None) {
            Line::Setting { name, value } => Some((name, value)),
            _ => None,
        }
    }

    #[test]
    fn settings_may_be_quoted() {
        assert_eq!(
            set("MAILTO=ops@example.org"),
            Some(("MAILTO", "ops@example.org"))
        );
        assert_eq!(set("  A = \" b  c \" "), Some(("A", " b  c ")));
        assert_eq!(set("'A B'='x'"), Some(("A B", "x")));
        assert_eq!(set("A=\"x\" y"), Some(("A", "\"x\" y")));
        assert_eq!(set("A="), Some(("A", "")));
        assert_eq!(set("0 5 * * * A=1 run"), None);
        assert_eq!(set("@daily A=1 run"), None);
    }

    #[test]
    fn entries_have_a_schedule_perhaps_a_user_and_a_command() {
        let Line::Entry(entry) = read(1, "*/5\t1  * * mon-fri  a  b ", Users::None) else {
            panic!("no entry");
        };
        assert_eq!(
            (entry.schedule.as_str(), entry.command),
            ("*/5 1 * * mon-fri", "a  b")
        );
        let Line::Entry(entry) = read(1, "@daily root a b", Users::Column) else {
            panic!("no entry");
        };
        assert_eq!((entry.user, entry.command), (Some("root"), "a b"));
        for bad in [
            "0 5 * * *",
            "61 * * * * a",
            "@dayly a",
            "hello",
            "0 0 30 2 * a",
        ] {
            assert!(matches!(read(1, bad, Users::None), Line::Bad(_)), "{bad}");
        }
        assert!(matches!(
            read(1, "@daily root", Users::Column),
            Line::Bad(_)
        ));
    }

    #[test]
    fn percent_signs_end_the_command() {
        let parts = |text: &str| {
            let read = command(text);
            (read.script, read.input)
        };
        assert_eq!(parts(r"date +\%F"), ("date +%F".to_owned(), None));
        assert_eq!(
            parts(r"mail -s x root %Hello,%100\% there"),
            (
                "mail -s x root".to_owned(),
                Some("Hello,\n100% there\n".to_owned())
            )
        );
        assert_eq!(parts("cat%"), ("cat".to_owned(), Some(String::new())));
        assert_eq!(
            parts(r"a \\% b"),
            (r"a \\".to_owned(), Some(" b\n".to_owned()))
        );
        assert_eq!(parts(r"a\"), (r"a\".to_owned(), None));
    }

    #[test]
    fn switched_off_entries_are_seen() {
        assert!(is_entry("0 5 * * * /usr/bin/true"));
        assert!(!is_entry(" m h  dom mon dow   command"));
        assert!(!is_entry(" every night at five"));
    }
}
