//! Why beat does not get on.

use std::time::Duration;

use chrono::{DateTime, Utc};
use thiserror::Error;

use super::own;
use crate::broker::BrokerError;

/// Why a step could not be finished. The step is repeated.
#[derive(Debug, Error)]
pub enum BeatError {
    /// The broker did not do its part.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Another beat moved the watermark.
    #[error("another beat moved the watermark")]
    Overtaken,
    /// This beat's own copy cannot be written.
    #[error(transparent)]
    Own(#[from] own::OwnError),
    /// What is to be shared cannot be written as JSON.
    #[error("the shared key {key} cannot be encoded: {reason}")]
    NotEncoded {
        /// The key in the state bucket.
        key: String,
        /// Why.
        reason: String,
    },
    /// The clock was set back, or that of the last beat was ahead: what the watermark covers is not decided on again.
    #[error(
        "beat's clock was set back, or was ahead before: ticks until {} have been decided on, and nothing is fired \
         before then; set the clock right if it is wrong now, else wait: beat goes on by itself",
        until.format("%F %T UTC")
    )]
    ClockBehind {
        /// The watermark.
        until: DateTime<Utc>,
        /// How far the clock is behind it.
        by: Duration,
    },
}
