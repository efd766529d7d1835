//! How the services tell what happens: one readable line an event on a terminal, JSON lines
//! elsewhere, both on standard output.

use std::{
    fmt,
    io::{self, IsTerminal},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use super::{Globals, output, terminal::one_line};
use crate::clock;

/// The variable that overrides what is told, in the syntax of tracing's `EnvFilter`.
const FILTER: &str = "ORCHESTRATOR_LOG";

/// Starts telling.
pub(super) fn init(globals: &Globals) {
    let ours = match (globals.quiet, globals.verbose) {
        // The client repeats each try to connect; what there is to know of it is told by us.
        (true, _) => "warn,async_nats::connector=off,orchestrator=warn",
        (false, 0) => "warn,async_nats::connector=off,orchestrator=info",
        (false, 1) => "info,orchestrator=debug",
        (false, _) => "debug,orchestrator=trace",
    };
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new(ours));
    let registry = tracing_subscriber::registry().with(filter);
    // A second subscriber is refused: then the first goes on telling.
    let _ = if io::stdout().is_terminal() {
        let lines = tracing_subscriber::fmt::layer()
            .event_format(Lines)
            .with_writer(io::stdout);
        registry.with(lines).try_init()
    } else {
        let json = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(io::stdout);
        registry.with(json).try_init()
    };
}

/// `10:02:03.123 run succeeded  crawl@20261123T100200Z  attempt=1 seconds=0.82`
struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let (color, reset) = match (output::stdout_is_colored(), *event.metadata().level()) {
            (false, _) => ("", ""),
            (true, Level::ERROR) => ("\x1b[31m", "\x1b[0m"),
            (true, Level::WARN) => ("\x1b[33m", "\x1b[0m"),
            (true, _) => ("", ""),
        };
        let at = clock::now().with_timezone(&chrono::Local);
        write!(to, "{} {color}", at.format("%H:%M:%S%.3f"))?;
        match *event.metadata().level() {
            Level::ERROR => to.write_str("error: ")?,
            Level::WARN => to.write_str("warning: ")?,
            Level::INFO | Level::DEBUG | Level::TRACE => {}
        }
        let subject = fields.run_id.or(fields.job).unwrap_or_default();
        write!(
            to,
            "{:<18}{reset} {subject}{}",
            fields.message, fields.others
        )?;
        writeln!(to)
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    run_id: Option<String>,
    job: Option<String>,
    others: String,
}

impl Fields {
    fn take(&mut self, name: &str, value: &str) {
        // What a job printed must not move the cursor of whoever watches, nor turn what he reads.
        let value = one_line(value);
        match name {
            "message" => self.message = value,
            "run_id" => self.run_id = Some(value),
            "job" => self.job = Some(value),
            name => {
                let shown = match value.contains(' ') {
                    true => format!("  {name}=\"{value}\""),
                    false => format!("  {name}={value}"),
                };
                self.others.push_str(&shown);
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field.name(), &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.take(field.name(), &format!("{value:.3}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::terminal::obeyed;

    #[test]
    fn no_field_is_obeyed_by_a_terminal() {
        let mut fields = Fields::default();
        for name in ["message", "run_id", "job", "reason"] {
            fields.take(name, "a\u{1b}[2J\u{9b}2J\u{202e}\r\nb");
        }
        let Fields {
            message,
            run_id,
            job,
            others,
        } = fields;
        for shown in [Some(message), run_id, job, Some(others)] {
            let shown = shown.unwrap();
            assert!(shown.contains('b'), "{shown:?}");
            assert!(!shown.chars().any(|c| obeyed(c) || c == '\n'), "{shown:?}");
        }
    }
}
