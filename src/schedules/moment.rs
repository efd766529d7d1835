//! Points in time as people write them: RFC 3339, or the local time of a zone.

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use thiserror::Error;

/// Without an offset, with and without seconds.
const LOCAL: [&str; 4] = [
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M",
];

/// Why a text is no point in time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}; {help}")]
pub struct MomentError {
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: String,
}

/// RFC 3339, or local time in the zone; the first of two where the clock is set back.
pub fn moment(text: &str, timezone: Tz) -> Result<DateTime<Utc>, MomentError> {
    let text = text.trim();
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.to_utc());
    }
    let local = LOCAL
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .ok_or_else(|| MomentError {
            message: format!("`{text}` is not a date with a time"),
            help: format!(
                "write for example 2026-12-24T18:00:00, in {timezone}, or with an offset: \
                 2026-12-24T18:00:00+08:00"
            ),
        })?;
    match timezone.from_local_datetime(&local) {
        MappedLocalTime::Single(at) | MappedLocalTime::Ambiguous(at, _) => Ok(at.to_utc()),
        MappedLocalTime::None => Err(MomentError {
            message: format!("{text} does not exist in {timezone}: the clock is set forward then"),
            help: "give another time, or one with an offset".to_owned(),
        }),
    }
}

/// Refuses fractions of a second.
pub(super) fn whole(text: &str, at: DateTime<Utc>) -> Result<DateTime<Utc>, MomentError> {
    match at.nanosecond() {
        0 => Ok(at),
        _ => Err(MomentError {
            message: format!("`{text}` is not a whole second"),
            help: "leave the fraction out".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        moment(text, Tz::Europe__Berlin)
            .map(|at| at.to_rfc3339())
            .map_err(|error| error.message)
    }

    #[test]
    fn reads_offsets_and_local_times() {
        assert_eq!(
            read("2026-12-24T18:00:00+08:00").unwrap(),
            "2026-12-24T10:00:00+00:00"
        );
        assert_eq!(
            read("2026-12-24 18:00").unwrap(),
            "2026-12-24T17:00:00+00:00"
        );
        assert_eq!(
            read("2026-07-01T18:00:00").unwrap(),
            "2026-07-01T16:00:00+00:00"
        );
        // Twice: the first.
        assert_eq!(
            read("2026-10-25T02:30:00").unwrap(),
            "2026-10-25T00:30:00+00:00"
        );
    }

    #[test]
    fn refuses_what_never_is() {
        for bad in [
            "2026-03-29T02:30:00",
            "2026-02-30T00:00:00",
            "tomorrow",
            "2026-12-24",
            "18:00",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fractions_are_no_ticks() {
        let at = moment("2026-12-24T18:00:00.5Z", Tz::UTC).unwrap();
        assert!(whole("x", at).is_err());
    }
}
