//! The states of a run.

use serde::{Deserialize, Serialize};

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Accepted by the broker, not yet started.
    Queued,
    /// A worker holds it.
    Running,
    /// Between two attempts.
    Retrying,
    /// Ended well.
    Succeeded,
    /// Ended badly, and its policy does not retry it.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// Not started in time.
    Expired,
    /// Ended badly after all its attempts, or could not be understood: a person decides.
    Dead,
}

impl RunState {
    /// Every state with the name that users write.
    pub const ALL: [(&'static str, Self); 8] = [
        ("queued", Self::Queued),
        ("running", Self::Running),
        ("retrying", Self::Retrying),
        ("succeeded", Self::Succeeded),
        ("failed", Self::Failed),
        ("cancelled", Self::Cancelled),
        ("expired", Self::Expired),
        ("dead", Self::Dead),
    ];

    /// Whether nothing follows.
    pub fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Running | Self::Retrying => false,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired | Self::Dead => true,
        }
    }

    /// The state as users write it.
    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, state)| *state == self);
        found.map_or("", |(name, _)| name)
    }
}

impl std::fmt::Display for RunState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for RunState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, state)| *state).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("`{text}` is not a state; there are {}", names.join(", "))
        })
    }
}
