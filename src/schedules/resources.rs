//! `limits = { memory, cpu, pids }`: what a run may use up of the machine.

use toml::de::DeValue;

use super::{
    reader::{Item, Reader},
    size::size_within,
};
use crate::job::{Cpus, ResourceLimits};

pub(super) const RESOURCE_KEYS: [&str; 3] = ["memory", "cpu", "pids"];

/// In less not even a shell starts.
const LEAST_MEMORY: u64 = 1 << 20;
/// A pebibyte.
const MOST_MEMORY: u64 = 1 << 50;
/// The most that Linux can number.
const MOST_PIDS: i64 = 1 << 22;

pub(super) fn resources(
    reader: &mut Reader<'_>,
    key: &str,
    item: &Item<'_>,
) -> Option<ResourceLimits> {
    let mut limits = ResourceLimits::default();
    for (name, value) in reader.table(key, item)? {
        match name.get_ref().as_ref() {
            "memory" => {
                let bounds = LEAST_MEMORY..=MOST_MEMORY;
                limits.memory = Some(size_within(reader, "limits.memory", value, bounds)?);
            }
            "cpu" => limits.cpu = Some(cpus(reader, value)?),
            "pids" => limits.pids = Some(reader.integer("limits.pids", value, 1..=MOST_PIDS)?),
            other => reader.unknown_key(name.span(), other, "`limits`", &RESOURCE_KEYS),
        }
    }
    Some(limits)
}

fn cpus(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Cpus> {
    let number = match item.get_ref() {
        DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
        DeValue::Integer(number) => number.as_str().parse().ok(),
        _ => {
            reader.mismatch(
                "limits.cpu",
                item,
                "a number of processors, such as 1.5",
                None,
            );
            return None;
        }
    };
    match Cpus::try_from(number.unwrap_or(f64::NAN)) {
        Ok(cpus) => Some(cpus),
        Err(error) => {
            reader.error(item.span(), format!("`limits.cpu`: {error}"));
            None
        }
    }
}
