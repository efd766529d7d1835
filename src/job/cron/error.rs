//! Why an expression was refused: which expression, which field, what, and how to mend it.

use std::{fmt, ops::Range};

use chrono_tz::Tz;
use thiserror::Error;

/// A field of a crontab expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// 0-59, only in expressions of six fields
    Second,
    /// 0-59
    Minute,
    /// 0-23
    Hour,
    /// 1-31, `L`, `LW`
    DayOfMonth,
    /// 1-12 or jan-dec
    Month,
    /// 0-7 or sun-sat, `nL`, `n#k`
    DayOfWeek,
}

impl Field {
    /// Smallest and largest number.
    pub(super) fn bounds(self) -> (u32, u32) {
        match self {
            Self::Second | Self::Minute => (0, 59),
            Self::Hour => (0, 23),
            Self::DayOfMonth => (1, 31),
            Self::Month => (1, 12),
            Self::DayOfWeek => (0, 7),
        }
    }

    /// Names in the order of the numbers that they stand for.
    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            Self::Month => &[
                "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
            ],
            Self::DayOfWeek => &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
            Self::Second | Self::Minute | Self::Hour | Self::DayOfMonth => &[],
        }
    }

    fn alternatives(self) -> &'static str {
        match self {
            Self::Second | Self::Minute | Self::Hour => "",
            Self::DayOfMonth => ", `L` or `LW`",
            Self::Month => " or a name (jan-dec)",
            Self::DayOfWeek => " or a name (sun-sat), `nL` or `n#k`",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day of month",
            Self::Month => "month",
            Self::DayOfWeek => "day of week",
        })
    }
}

/// Why an expression was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("cron `{}`: {}{problem}", expression.escape_debug(), field_prefix(*field))]
pub struct CronError {
    /// The refused expression.
    pub expression: String,
    /// The offending field, if it is one field's fault.
    pub field: Option<Field>,
    /// Where in the expression, in bytes.
    pub span: Range<usize>,
    /// What is wrong.
    pub problem: Problem,
}

fn field_prefix(field: Option<Field>) -> String {
    field.map_or_else(String::new, |field| format!("{field}: "))
}

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// No expression at all.
    #[error("no expression is given")]
    NoExpression,
    /// Nothing but white space.
    #[error("it is empty; it needs 5 fields: minute, hour, day of month, month, day of week")]
    Empty,
    /// Neither 5 nor 6 fields.
    #[error(
        "it has {0} field{s}, but needs 5 (minute, hour, day of month, month, day of week), or 6 with \
         the second in front",
        s = if *.0 == 1 { "" } else { "s" }
    )]
    FieldCount(usize),
    /// More than one line.
    #[error("it has more than one line")]
    Lines,
    /// `@something` that is not a macro.
    #[error("`{0}` is not a macro")]
    Macro(String),
    /// `1,,2`
    #[error("an item of the list is empty")]
    EmptyItem,
    /// Neither a number nor a name.
    #[error("`{text}` is not a number from {min} to {max}{others}", min = field.bounds().0, max = field.bounds().1, others = field.alternatives())]
    NotAValue {
        /// What stands there.
        text: String,
        /// Where it stands.
        field: Field,
    },
    /// A number beyond the field's bounds.
    #[error("{text} is out of range {min}-{max}")]
    OutOfRange {
        /// The number as written.
        text: String,
        /// Smallest allowed.
        min: u32,
        /// Largest allowed.
        max: u32,
    },
    /// `5-1`
    #[error("the range `{range}` runs backwards")]
    Backwards {
        /// The range as written.
        range: String,
        /// The same as two ranges.
        instead: String,
    },
    /// Not a positive whole number behind the slash.
    #[error("the step `{0}` is not a whole number from 1")]
    Step(String),
    /// `1/2/3`
    #[error("`{0}` has more than one step")]
    Steps(String),
    /// `?`
    #[error("`?` is not crontab syntax")]
    Question,
    /// `15W`
    #[error("`{0}` is not supported: only `LW`, the last weekday of the month, is")]
    NearestWeekday(String),
    /// `1#6`
    #[error("`{0}` is not a weekday, `#` and a number from 1 to 5")]
    Nth(String),
    /// No date fits, within 50 years.
    #[error("no date fits within 50 years, so it never fires")]
    Never,
}

impl CronError {
    /// How to mend it, where that can be said.
    pub fn hint(&self) -> Option<String> {
        match &self.problem {
            Problem::Question => Some("write `*` for any value".to_owned()),
            Problem::Backwards { instead, .. } => Some(format!("write `{instead}`")),
            Problem::Macro(text) => Some(macro_hint(text)),
            Problem::Never => Some("look at the day of month and the month together".to_owned()),
            Problem::FieldCount(7) if !self.expression.contains('#') => {
                Some("there is no field for the year".to_owned())
            }
            _ if names_a_zone(&self.expression) => {
                Some("the zone belongs in the key `timezone`".to_owned())
            }
            _ if self.expression.contains(" #") => {
                Some("a comment belongs behind the TOML value, not into it".to_owned())
            }
            _ => None,
        }
    }
}

fn names_a_zone(expression: &str) -> bool {
    let mut words = expression.split_whitespace();
    words.any(|word| word.contains("TZ=") || word.contains('/') && word.parse::<Tz>().is_ok())
}

fn macro_hint(text: &str) -> String {
    let word = text.split_whitespace().next().unwrap_or_default();
    match word.to_ascii_lowercase().as_str() {
        "@every" => "for intervals use the key `every`, for example every = \"5m\"".to_owned(),
        "@reboot" => "there is no `@reboot`; first_run = \"now\" runs a new job at once".to_owned(),
        lower => {
            let near = super::parse::MACROS
                .iter()
                .map(|(name, _)| (strsim::damerau_levenshtein(name, lower), *name))
                .min();
            match near {
                Some((distance, name)) if distance <= 2 => format!("did you mean `{name}`?"),
                Some(_) | None => {
                    "there are @yearly, @annually, @monthly, @weekly, @daily, @midnight and @hourly"
                        .to_owned()
                }
            }
        }
    }
}
