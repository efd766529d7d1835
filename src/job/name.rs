//! Names of jobs and queues. They become parts of subjects, keys and paths, hence the narrow
//! alphabet: `[a-z0-9][a-z0-9_-]{0,62}`.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name, in bytes.
const MAX_LENGTH: usize = 63;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a name cannot be empty")]
    Empty,
    /// Longer than 63 characters.
    #[error("`{0}` is longer than {MAX_LENGTH} characters")]
    TooLong(String),
    /// A character that subjects, keys or paths cannot carry.
    #[error(
        "`{name}` contains {found:?}: a name starts with a-z or 0-9, then a-z, 0-9, `_` and `-`"
    )]
    Character {
        /// The refused name.
        name: String,
        /// The first offending character.
        found: char,
    },
}

fn check(name: &str) -> Result<(), NameError> {
    let bad = name.char_indices().find(|&(at, c)| {
        let alphanumeric = c.is_ascii_lowercase() || c.is_ascii_digit();
        !(alphanumeric || at > 0 && (c == '_' || c == '-'))
    });
    match bad {
        _ if name.is_empty() => Err(NameError::Empty),
        Some((_, found)) => Err(NameError::Character {
            name: name.to_owned(),
            found,
        }),
        None if name.len() > MAX_LENGTH => Err(NameError::TooLong(name.to_owned())),
        None => Ok(()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text).map(|()| Self(text.into()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.as_str().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name_type! {
    /// The name of a job, unique over all schedule files.
    JobName
}

name_type! {
    /// The name of a queue: a route from beat to the workers that serve it.
    QueueName
}

name_type! {
    /// The name of a credential: of a file on the worker.
    CredentialName
}

impl CredentialName {
    /// What services get into NATS with, and what they sign with: none of these is for jobs and webhooks.
    const OF_SERVICES: [&str; 2] = ["nats-", "orchestrator-"];

    /// Whether it is one of the services themselves.
    pub fn is_reserved(&self) -> bool {
        let mut prefixes = Self::OF_SERVICES.iter();
        prefixes.any(|prefix| self.as_str().starts_with(prefix))
    }
}

name_type! {
    /// The name of a webhook, unique over all schedule files.
    WebhookName
}

name_type! {
    /// The name of a blackout, unique over all schedule files.
    BlackoutName
}

impl Default for QueueName {
    /// `default`: the queue of jobs that name none.
    fn default() -> Self {
        Self("default".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_narrow() {
        for good in ["a", "0", "crawl-page", "user_crawler", &"x".repeat(63)] {
            assert!(good.parse::<JobName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "A",
            "-a",
            "_a",
            "a.b",
            "a b",
            "a*",
            "a>",
            "é",
            "a/b",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<QueueName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_error_names_the_character() {
        let error = "crawl.page".parse::<JobName>().unwrap_err();
        assert!(error.to_string().contains("'.'"), "{error}");
    }
}
