//! A stored run, as the index knows it.

use std::time::Instant;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{super::super::Slot, Hold};
use crate::{
    job::{JobName, QueueName},
    run::RunId,
};

/// What is stored of a run beside its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Header {
    pub(in super::super) run_id: RunId,
    pub(in super::super) queue: QueueName,
    pub(in super::super) slot: Slot,
    /// How often it was delivered.
    #[serde(default)]
    pub(in super::super) deliveries: u64,
    /// Wall-clock time, because it has to mean something after a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in super::super) not_before: Option<DateTime<Utc>>,
}

/// A run that was handed out just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Taken {
    pub(in super::super) hold: Hold,
    /// With this delivery counted.
    pub(in super::super) header: Header,
}

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) header: Header,
    pub(super) state: State,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Admitted, not yet durable.
    Storing,
    /// To be taken by anybody.
    Ready,
    /// To be taken later.
    PutOff { until: Instant },
    /// Held by a worker.
    Leased { lease: u64, until: Instant },
}

impl Stored {
    pub(super) fn new(mut header: Header) -> Self {
        // Only the stored form needs it; here the state says when.
        header.not_before = None;
        Self {
            header,
            state: State::Storing,
        }
    }
}

/// What at most one stored run can occupy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum SlotKey {
    Job(QueueName, JobName),
    Next(QueueName, JobName),
    Run(QueueName, RunId),
}

impl SlotKey {
    pub(super) fn new(queue: &QueueName, run_id: &RunId, slot: Slot) -> Self {
        match slot {
            Slot::Job => Self::Job(queue.clone(), run_id.job().clone()),
            Slot::Next => Self::Next(queue.clone(), run_id.job().clone()),
            Slot::Run => Self::Run(queue.clone(), run_id.clone()),
        }
    }

    pub(super) fn of(header: &Header) -> Self {
        Self::new(&header.queue, &header.run_id, header.slot)
    }
}
