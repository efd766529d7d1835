//! Which runs count as the same, and for how long.

use serde::{Deserialize, Serialize};

use super::{Seconds, Template};

/// `unique = { key, for, while }`: a second request for the same thing gets the first run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unique {
    /// Requests of the job with the same key are for the same thing; placeholders are filled in.
    pub key: Template,
    /// How long after the first request, at most 31 days.
    #[serde(rename = "for")]
    pub lasts: Seconds,
    /// In which state of the first run.
    #[serde(rename = "while")]
    pub holds: Holds,
}

impl Unique {
    /// The longest `for`.
    pub const LONGEST: Seconds = Seconds::from_secs(31 * 86_400);
}

/// Up to which state of the first run a second request is for the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// Until it is started.
    Queued,
    /// Until it has ended.
    Running,
    /// Even after it has ended.
    #[default]
    Finished,
}
