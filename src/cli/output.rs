//! Forms of output. Nothing here panics on a closed pipe.

use std::{
    io::{self, IsTerminal, Write},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use chrono::{DateTime, Utc};
use comfy_table::{Cell, Table, presets};
use serde::Serialize;

use super::{
    CliError,
    globals::{Color, Format},
    terminal::{harmless, obeyed, one_line},
};

/// Whether standard output and standard error are coloured; set once, before any output.
static COLOR: (AtomicBool, AtomicBool) = (AtomicBool::new(false), AtomicBool::new(false));

pub(super) fn set_color(color: Color) {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let decide = |is_terminal: bool| match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => is_terminal && !plain,
    };
    COLOR
        .0
        .store(decide(io::stdout().is_terminal()), Ordering::Relaxed);
    COLOR
        .1
        .store(decide(io::stderr().is_terminal()), Ordering::Relaxed);
    let theme = match decide(io::stderr().is_terminal()) {
        true => miette::GraphicalTheme::unicode(),
        false => miette::GraphicalTheme::unicode_nocolor(),
    };
    // Fails only if somebody else has set a hook: then theirs stays.
    let _ = miette::set_hook(Box::new(move |_| {
        Box::new(miette::GraphicalReportHandler::new_themed(theme.clone()))
    }));
}

/// Whether standard output is coloured.
pub fn stdout_is_colored() -> bool {
    COLOR.0.load(Ordering::Relaxed)
}

/// Whether standard error is coloured.
pub fn stderr_is_colored() -> bool {
    COLOR.1.load(Ordering::Relaxed)
}

pub(super) fn paint_error() -> (&'static str, &'static str) {
    match stderr_is_colored() {
        true => ("\x1b[1;31m", "\x1b[0m"),
        false => ("", ""),
    }
}

/// A line on standard error; what cannot be written there is lost. Whatever it quotes is harmless.
pub fn to_stderr(line: &str) {
    to_stderr_as_it_is(&harmless(line));
}

/// The same for a line with colours of our own, in which everything that is quoted has been made harmless.
pub(super) fn to_stderr_as_it_is(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A line on standard output. Whatever it quotes is harmless.
pub fn to_stdout(line: &str) -> Result<(), CliError> {
    as_it_is(&harmless(line))
}

fn as_it_is(line: &str) -> Result<(), CliError> {
    writeln!(io::stdout().lock(), "{line}").map_err(CliError::from)
}

/// JSON that a terminal does not obey: JSON itself escapes only some of what it would.
fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' => escaped.push(c),
            c if obeyed(c) => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

/// One JSON value on standard output.
pub fn json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| CliError::new(super::Exit::Failed, format!("no JSON of it: {error}")))?;
    as_it_is(&escaped(&text))
}

/// One value on one line, for streams of them.
pub fn json_line(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string(value)
        .map_err(|error| CliError::new(super::Exit::Failed, format!("no JSON of it: {error}")))?;
    as_it_is(&escaped(&text))
}

/// Columns without lines, cut by the terminal's width only where there is one.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> Result<(), CliError> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().map(|title| Cell::new(title.to_uppercase())));
    for row in rows {
        table.add_row(row.iter().map(|cell| one_line(cell)));
    }
    for line in table.lines() {
        // The style pads every column on both sides.
        to_stdout(line.strip_prefix(' ').unwrap_or(&line).trim_end())?;
    }
    Ok(())
}

/// A list in the asked form: `name` and `row` say what of an item is shown where.
pub fn list<T: Serialize>(
    format: Format,
    items: &[T],
    header: &[&str],
    name: impl Fn(&T) -> String,
    row: impl Fn(&T) -> Vec<String>,
) -> Result<(), CliError> {
    match format {
        Format::Json => json(&items),
        Format::Name => items.iter().try_for_each(|item| to_stdout(&name(item))),
        Format::Table => table(header, items.iter().map(row).collect()),
    }
}

/// `2h 5m ago`, `in 3s`: the two largest units.
pub fn relative(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let distance = (at - now).num_seconds();
    let text = short(Duration::from_secs(distance.unsigned_abs()));
    match distance {
        0 => "now".to_owned(),
        1.. => format!("in {text}"),
        _ => format!("{text} ago"),
    }
}

/// A duration in its two largest units.
pub fn short(duration: Duration) -> String {
    let whole = Duration::from_secs(duration.as_secs());
    let text = humantime::format_duration(whole).to_string();
    let parts: Vec<_> = text.split(' ').take(2).collect();
    parts.join(" ")
}

/// Says why a command that waits has nothing to say.
pub(super) fn tell_outage(error: &crate::broker::BrokerError) {
    to_stderr(&format!("waiting for the broker: {error}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_short() {
        let now: DateTime<Utc> = "2026-11-23T10:00:00Z".parse().unwrap();
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        assert_eq!(relative(at("2026-11-23T12:05:07Z"), now), "in 2h 5m");
        assert_eq!(relative(at("2026-11-23T09:59:57Z"), now), "3s ago");
        assert_eq!(relative(now, now), "now");
    }
}
