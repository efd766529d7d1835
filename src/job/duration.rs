//! Durations as users write them (`90s`, `1h 30m`) and as messages carry them (seconds).

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A duration that reads humantime and serialises as a number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Seconds(Duration);

/// Why a duration was refused.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SecondsError {
    /// Not humantime.
    #[error("`{text}` is not a duration ({reason}); write for example `90s`, `15m` or `1h 30m`")]
    Text {
        /// What was given.
        text: String,
        /// The parser's complaint.
        reason: String,
    },
    /// Negative, not finite or beyond what fits.
    #[error("{0} is not a number of seconds that a duration can hold")]
    Number(f64),
}

impl Seconds {
    /// Wraps a duration.
    pub const fn new(duration: Duration) -> Self {
        Self(duration)
    }

    /// A duration of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Seconds {
    type Err = SecondsError;

    fn from_str(text: &str) -> Result<Self, SecondsError> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|error| SecondsError::Text {
                text: text.to_owned(),
                reason: error.to_string(),
            })
    }
}

impl TryFrom<f64> for Seconds {
    type Error = SecondsError;

    fn try_from(seconds: f64) -> Result<Self, SecondsError> {
        Duration::try_from_secs_f64(seconds)
            .map(Self)
            .map_err(|_| SecondsError::Number(seconds))
    }
}

impl From<Seconds> for f64 {
    fn from(seconds: Seconds) -> f64 {
        seconds.0.as_secs_f64()
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&humantime::format_duration(self.0).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_humantime_and_writes_seconds() {
        let duration: Seconds = "1h 30m".parse().unwrap();
        assert_eq!(duration.get(), Duration::from_secs(5400));
        assert_eq!(serde_json::to_string(&duration).unwrap(), "5400.0");
        assert_eq!(duration.to_string(), "1h 30m");
    }

    #[test]
    fn refuses_what_is_no_duration() {
        assert!("10".parse::<Seconds>().is_err());
        assert!("soon".parse::<Seconds>().is_err());
        assert!(Seconds::try_from(-1.0).is_err());
        assert!(Seconds::try_from(f64::NAN).is_err());
    }
}
