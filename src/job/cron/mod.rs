//! Crontab expressions as Debian's cron reads them, daylight saving included.
//!
//! The only importer of the `cron` crate, which walks naive time for `walk`; `parse` has the grammar,
//! `zone` the changes of the clock.

mod error;
mod parse;
mod walk;
mod zone;

use std::sync::Arc;

use chrono::{DateTime, Datelike, SubsecRound, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

pub use error::{CronError, Field, Problem};
use walk::Walker;

/// The years in which ticks are looked for: further out neither the walk nor a zone can count.
const YEARS: std::ops::RangeInclusive<i32> = 0..=9999;

/// What becomes of a fixed time that a change of the clock skips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DstGap {
    /// It runs at the first instant after the gap.
    #[default]
    RunAfter,
    /// It is left out.
    Skip,
}

/// What becomes of a fixed time that comes round twice when the clock is set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DstRepeat {
    /// It runs on the first pass only.
    #[default]
    Once,
    /// It runs on both.
    Twice,
}

/// The union of one or more crontab expressions, read in one zone. Cheap to clone; equal if the
/// sources are.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct CronTrigger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Raw,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    clock: parse::Clock,
    walker: Walker,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Raw {
    expressions: Vec<String>,
    timezone: Tz,
    #[serde(default)]
    dst_gap: DstGap,
    #[serde(default)]
    dst_repeat: DstRepeat,
}

impl CronTrigger {
    /// Reads the expressions. Refused: none at all, what is no crontab expression, what never fires.
    pub fn new(
        expressions: Vec<String>,
        timezone: Tz,
        dst_gap: DstGap,
        dst_repeat: DstRepeat,
    ) -> Result<Self, CronError> {
        if expressions.is_empty() {
            return Err(CronError {
                expression: String::new(),
                field: None,
                span: 0..0,
                problem: Problem::NoExpression,
            });
        }
        let parts = expressions
            .iter()
            .map(|expression| Part::new(expression))
            .collect::<Result<_, _>>()?;
        let source = Raw {
            expressions,
            timezone,
            dst_gap,
            dst_repeat,
        };
        Ok(Self(Arc::new(Inner { source, parts })))
    }

    /// The first instant later than `after`, if there is one within 50 years. There is none outside of the years that
    /// are written with four digits.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if !YEARS.contains(&after.year()) {
            return None;
        }
        // Instants are whole seconds: what is later than 10:00:00.5 is later than 10:00:00.
        let after = match after.trunc_subsecs(0) {
            whole if whole > after => whole - TimeDelta::seconds(1),
            whole => whole,
        };
        let source = &self.0.source;
        let parts = self.0.parts.iter();
        parts
            .filter_map(|part| {
                let rules = zone::Rules {
                    clock: part.clock,
                    gap: source.dst_gap,
                    repeat: source.dst_repeat,
                };
                zone::next_after(&part.walker, rules, source.timezone, after)
            })
            .min()
    }

    /// The zone in which the expressions are read.
    pub fn timezone(&self) -> Tz {
        self.0.source.timezone
    }

    /// The expressions, joined, with what else decides about the instants, the zone excepted.
    pub fn canonical(&self) -> String {
        let source = &self.0.source;
        let mut text = source.expressions.join(" | ");
        match source.dst_gap {
            DstGap::RunAfter => {}
            DstGap::Skip => text.push_str(" dst_gap=skip"),
        }
        match source.dst_repeat {
            DstRepeat::Once => {}
            DstRepeat::Twice => text.push_str(" dst_repeat=twice"),
        }
        text
    }
}

impl Part {
    fn new(expression: &str) -> Result<Self, CronError> {
        let fields = parse::parse(expression)?;
        let walker = Walker::new(&fields).ok_or_else(|| CronError {
            expression: expression.to_owned(),
            field: Some(Field::DayOfMonth),
            span: 0..expression.len(),
            problem: Problem::Never,
        })?;
        Ok(Self {
            clock: fields.clock,
            walker,
        })
    }
}

impl PartialEq for CronTrigger {
    fn eq(&self, other: &Self) -> bool {
        self.0.source == other.0.source
    }
}

impl TryFrom<Raw> for CronTrigger {
    type Error = CronError;

    fn try_from(raw: Raw) -> Result<Self, CronError> {
        Self::new(raw.expressions, raw.timezone, raw.dst_gap, raw.dst_repeat)
    }
}

impl From<CronTrigger> for Raw {
    fn from(cron: CronTrigger) -> Raw {
        cron.0.source.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(expression: &str, zone: Tz) -> Result<CronTrigger, CronError> {
        let expressions = vec![expression.to_owned()];
        CronTrigger::new(expressions, zone, DstGap::default(), DstRepeat::default())
    }

    fn refused(expression: &str) -> (String, Option<String>) {
        let error = read(expression, Tz::UTC).unwrap_err();
        (error.to_string(), error.hint())
    }

    fn next(trigger: &CronTrigger, after: &str, count: usize) -> Vec<String> {
        let after: DateTime<Utc> = after.parse().unwrap();
        let zone = trigger.timezone();
        std::iter::successors(trigger.next_after(after), |&at| trigger.next_after(at))
            .take(count)
            .map(|at| at.with_timezone(&zone).to_rfc3339())
            .collect()
    }

    #[test]
    fn errors_name_the_field_and_the_mend() {
        for (expression, message, hint) in [
            ("61 * * * *", "minute: 61 is out of range 0-59", None),
            ("0 0 0 * * 8", "day of week: 8 is out of range 0-7", None),
            ("* * * foo *", "month: `foo` is not a number", None),
            ("*/0 * * * *", "minute: the step `0`", None),
            ("0 0 ? * *", "day of month: `?`", Some("write `*`")),
            (
                "0 0 * * fri-mon",
                "runs backwards",
                Some("`fri-sat,sun-mon`"),
            ),
            ("0 0 * * 7-1", "runs backwards", Some("write `0-1`")),
            (
                "0 22-3 * * *",
                "hour: the range `22-3`",
                Some("`22-23,0-3`"),
            ),
            ("0 0 15W * *", "day of month: `15W`", None),
            ("0 0 * * 1#6", "day of week: `1#6`", None),
            ("0 0 30 2 *", "day of month: no date fits", None),
            ("* * * *", "it has 4 fields", None),
            ("0 0 * * * * 2030", "it has 7 fields", Some("year")),
            ("@every 5m", "`@every 5m` is not a macro", Some("`every`")),
            ("@dayly", "not a macro", Some("`@daily`")),
            ("CRON_TZ=UTC 0 0 * * *", "second", Some("`timezone`")),
            ("0 0 * * * Europe/Berlin", "day of week", Some("`timezone`")),
            ("", "empty", None),
        ] {
            let (text, found) = refused(expression);
            assert!(text.contains(message), "{text}");
            if let Some(hint) = hint {
                assert!(found.as_deref().unwrap_or("").contains(hint), "{found:?}");
            }
        }
    }

    #[test]
    fn the_span_is_that_of_the_item() {
        let error = read(" 0  1,25 * * *", Tz::UTC).unwrap_err();
        assert_eq!(&error.expression[error.span], "25");
        assert_eq!(error.field, Some(Field::Hour));
    }

    #[test]
    fn the_ends_of_the_calendar_are_no_place_for_ticks() {
        for zone in [Tz::UTC, Tz::Pacific__Kiritimati, Tz::America__Adak] {
            let daily = read("0 0 * * *", zone).unwrap();
            for edge in [DateTime::<Utc>::MAX_UTC, DateTime::<Utc>::MIN_UTC] {
                assert_eq!(daily.next_after(edge), None, "{zone} {edge}");
            }
        }
    }

    #[test]
    fn options_change_what_a_change_of_the_clock_does() {
        let expressions = vec!["30 2 * * *".to_owned()];
        let berlin = Tz::Europe__Berlin;
        let skip = CronTrigger::new(expressions.clone(), berlin, DstGap::Skip, DstRepeat::Once);
        assert_eq!(
            next(&skip.unwrap(), "2026-03-28T12:00:00Z", 1),
            ["2026-03-30T02:30:00+02:00"]
        );
        let twice = CronTrigger::new(expressions, berlin, DstGap::RunAfter, DstRepeat::Twice);
        assert_eq!(
            next(&twice.unwrap(), "2026-10-24T12:00:00Z", 3),
            [
                "2026-10-25T02:30:00+02:00",
                "2026-10-25T02:30:00+01:00",
                "2026-10-26T02:30:00+01:00"
            ]
        );
    }

    #[test]
    fn goes_on_beyond_the_years_of_the_crate() {
        let leap_sunday = read("0 0 29 2 */7", Tz::UTC).unwrap();
        assert_eq!(
            next(&leap_sunday, "2088-03-01T00:00:00Z", 2),
            ["2128-02-29T00:00:00+00:00", "2156-02-29T00:00:00+00:00"]
        );
        let daily = read("59 23 31 12 *", Tz::UTC).unwrap();
        assert_eq!(
            next(&daily, "2099-12-31T23:58:00Z", 2),
            ["2099-12-31T23:59:00+00:00", "2100-12-31T23:59:00+00:00"]
        );
        assert_eq!(
            next(&daily, "1950-01-01T00:00:00Z", 1),
            ["1950-12-31T23:59:00+00:00"]
        );
    }

    #[test]
    fn special_days() {
        for (expression, expected) in [
            ("0 0 L * *", "2026-02-28T00:00:00+00:00"),
            ("0 0 LW 2 *", "2026-02-27T00:00:00+00:00"),
            ("0 0 * * friL", "2026-02-27T00:00:00+00:00"),
            ("0 0 * * mon#2", "2026-02-09T00:00:00+00:00"),
            ("0 0 15,L * *", "2026-02-15T00:00:00+00:00"),
        ] {
            let trigger = read(expression, Tz::UTC).unwrap();
            assert_eq!(
                next(&trigger, "2026-02-01T00:00:00Z", 1),
                [expected],
                "{expression}"
            );
        }
    }

    #[test]
    fn expressions_are_united_and_serialise_by_source() {
        let both = ["0 5 * * SUN".to_owned(), "@monthly".to_owned()];
        let (gap, repeat) = (DstGap::Skip, DstRepeat::Once);
        let trigger = CronTrigger::new(both.to_vec(), Tz::UTC, gap, repeat).unwrap();
        assert_eq!(
            next(&trigger, "2026-10-31T00:00:00Z", 2),
            ["2026-11-01T00:00:00+00:00", "2026-11-01T05:00:00+00:00"]
        );
        let json = serde_json::to_string(&trigger).unwrap();
        assert_eq!(serde_json::from_str::<CronTrigger>(&json).unwrap(), trigger);
        let other = CronTrigger::new(both.to_vec(), Tz::UTC, DstGap::RunAfter, repeat).unwrap();
        assert_ne!(other, trigger);
        assert_ne!(other.canonical(), trigger.canonical());
        assert!(CronTrigger::new(Vec::new(), Tz::UTC, gap, repeat).is_err());
    }
}
