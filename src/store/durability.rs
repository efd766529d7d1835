//! What a write must survive before it is confirmed.

use serde::{Deserialize, Serialize};

/// What a write must survive before it is confirmed. A store or broker may
/// always do more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// The death of every process involved. For what is harmless to repeat.
    Crash,
    /// Also the loss of power, as far as the settings of a server promise it.
    Power,
}
