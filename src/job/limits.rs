//! What runs share with other runs of the cluster: a lock, a number of places, a rate.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Seconds, Template};

/// `lock = "name"` or `lock = { name, inherit, wait }`: at most one run holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Which lock; placeholders are filled in.
    pub name: Template,
    /// Whether the runs that the holder starts may hold it together with the holder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inherit: bool,
    /// A run that could not be started for so long because of it ends as expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Seconds>,
}

/// `concurrency = { key, limit, wait }`: at most so many runs with the same key at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concurrency {
    /// Runs with the same key share the places; placeholders are filled in.
    pub key: Template,
    /// How many places there are; at least 1.
    pub limit: u32,
    /// A run that could not be started for so long because of it ends as expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Seconds>,
}

/// `rate = { key, limit, burst }`: runs with the same key start no faster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Runs with the same key share the rate; placeholders are filled in.
    pub key: Template,
    /// How many start in which time.
    pub limit: PerTime,
    /// How many may start at once after a quiet time; at least 1.
    #[serde(default = "Rate::default_burst")]
    pub burst: u32,
}

impl Rate {
    /// One at a time, unless the job says otherwise.
    pub const fn default_burst() -> u32 {
        1
    }

    /// The time from one start to the next in the long run.
    pub fn interval(&self) -> Duration {
        self.limit.per.get() / self.limit.count.max(1)
    }
}

/// `2/s`, `100/m`, `3/10s`: so many in so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerTime {
    /// At least 1.
    pub count: u32,
    /// More than nothing.
    pub per: Seconds,
}

/// Most starts that a rate may allow in a second; what is faster needs no limit.
const FASTEST: Duration = Duration::from_micros(100);
/// Longest time from one start to the next.
const SLOWEST: Duration = Duration::from_secs(86_400);

impl FromStr for PerTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a rate; write for example \"2/s\", \"100/m\" or \"3/10s\"");
        let (count, per) = text.split_once('/').ok_or_else(wrong)?;
        let count: u32 = count.trim().parse().map_err(|_| wrong())?;
        let per = per.trim();
        let per = match per.starts_with(|first: char| first.is_ascii_digit()) {
            true => per.parse(),
            // A bare unit.
            false => format!("1{per}").parse::<Seconds>(),
        };
        let per = per.map_err(|_| wrong())?;
        let interval = per.get().checked_div(count).ok_or_else(wrong)?;
        match (FASTEST..=SLOWEST).contains(&interval) {
            true => Ok(Self { count, per }),
            false => Err(format!(
                "the rate `{text}` is not between 1 a day and 10000 a second"
            )),
        }
    }
}

impl fmt::Display for PerTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        let read = |text: &str| {
            let rate: PerTime = text.parse().unwrap();
            (rate.count, rate.per.get().as_millis())
        };
        assert_eq!(read("2/s"), (2, 1_000));
        assert_eq!(read("100/m"), (100, 60_000));
        assert_eq!(read("3 / 10s"), (3, 10_000));
        assert_eq!(read("1/day"), (1, 86_400_000));
        for bad in [
            "",
            "2",
            "/s",
            "0/s",
            "-1/s",
            "2/",
            "2/x",
            "1/2days",
            "1000000/s",
        ] {
            assert!(bad.parse::<PerTime>().is_err(), "{bad}");
        }
    }
}
