//! What a run may use up of the machine.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `limits = { memory, cpu, pids }`: for all processes of a run together. Needs control groups of version 2 on the
/// worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// In bytes. A run that needs more is ended, and its attempt fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// A run that wants more is slowed down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpus>,
    /// Processes and threads; further ones cannot be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
}

impl ResourceLimits {
    /// What the kernel calls those that are set.
    pub fn controllers(self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("memory", self.memory.is_some()),
            ("cpu", self.cpu.is_some()),
            ("pids", self.pids.is_some()),
        ];
        all.into_iter()
            .filter_map(|(name, wanted)| wanted.then_some(name))
    }
}

/// A number of processors, in thousandths of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Cpus(u32);

impl Cpus {
    /// How much of `time` on each of them, all added up.
    pub fn of(self, time: u32) -> u64 {
        u64::from(self.0) * u64::from(time) / 1_000
    }
}

impl TryFrom<f64> for Cpus {
    type Error = String;

    fn try_from(number: f64) -> Result<Self, String> {
        let thousandths = (number * 1_000.0).round();
        if (10.0..=10_000_000.0).contains(&thousandths) {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it lies within the range above"
            )]
            return Ok(Self(thousandths as u32));
        }
        Err(format!(
            "{number} is not a number of processors from 0.01 to 10000"
        ))
    }
}

impl From<Cpus> for f64 {
    fn from(cpus: Cpus) -> Self {
        Self::from(cpus.0) / 1_000.0
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f64::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_in_thousandths() {
        let cpus = Cpus::try_from(1.5).unwrap();
        assert_eq!(
            (cpus.of(100_000), cpus.to_string()),
            (150_000, "1.5".to_owned())
        );
        assert_eq!(Cpus::try_from(0.01).unwrap().of(100_000), 1_000);
        for bad in [0.0, -1.0, 0.001, f64::NAN, f64::INFINITY, 1e9] {
            assert!(Cpus::try_from(bad).is_err(), "{bad}");
        }
    }
}
