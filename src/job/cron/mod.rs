//! Crontab expressions as Debian's cron reads them, daylight saving included.
//!
//! The only importer of the `cron` crate, which walks naive time for `walk`; `parse` has the grammar,
//! `zone` the changes of the clock.

mod error;
mod parse;
mod walk;
mod zone;

use std::sync::Arc;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

pub use error::{CronError, Field, Problem};
use walk::Walker;

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

    /// The first instant later than `after`, if there is one within 50 years.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
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
