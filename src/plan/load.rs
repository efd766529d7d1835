//! How many runs start when, of a simulation.

use std::collections::{BTreeMap, HashMap};

use super::SimulatedTick;
use crate::job::QueueName;

/// How many runs start, by hour of the day and queue.
#[derive(Debug, Default)]
pub struct Load {
    rows: HashMap<(u32, QueueName), Row>,
}

#[derive(Debug, Default)]
struct Row {
    starts: u64,
    /// Starts a second; only seconds that may still get more.
    open: BTreeMap<i64, u64>,
    peak: u64,
}

/// One row of the load: an hour of the day (UTC) and a queue.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LoadRow {
    /// The hour of the day, in UTC.
    pub hour: u32,
    /// The queue.
    pub queue: QueueName,
    /// How many runs start in this hour, over all days.
    pub starts: u64,
    /// The most that start in one second of it.
    pub at_once: u64,
}

/// A run starts at most so long after its tick: the longest jitter.
const SETTLED_AFTER: i64 = 86_400;

impl Load {
    /// Counts a tick, if it fired.
    pub fn count(&mut self, tick: &SimulatedTick<'_>) {
        let Some(starts_at) = tick.starts_at else {
            return;
        };
        let second = starts_at.timestamp();
        let hour = u32::try_from(second.rem_euclid(86_400) / 3600).unwrap_or(0);
        let key = (hour, tick.job.queue.clone());
        let row = self.rows.entry(key).or_default();
        row.starts += 1;
        let at_once = row.open.entry(second).or_default();
        *at_once += 1;
        row.peak = row.peak.max(*at_once);
        if row.open.len() > 2 * 3600 {
            row.open = row.open.split_off(&(second - SETTLED_AFTER));
        }
    }

    /// The rows by hour and queue.
    pub fn rows(&self) -> Vec<LoadRow> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by(|a, b| a.0.cmp(b.0));
        rows.into_iter()
            .map(|((hour, queue), row)| LoadRow {
                hour: *hour,
                queue: queue.clone(),
                starts: row.starts,
                at_once: row.peak,
            })
            .collect()
    }
}
