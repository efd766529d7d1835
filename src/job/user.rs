//! The name of a user of the worker's machine. Whether there is one is known there alone.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name, in bytes: what Linux takes.
const MAX_LENGTH: usize = 255;

/// A user, by the name in `/etc/passwd` and never by number: a number would mean somebody on every machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(Box<str>);

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UserNameError {
    /// Nothing was given.
    #[error("the name of a user cannot be empty")]
    Empty,
    /// Longer than Linux allows.
    #[error("the name of a user has at most {MAX_LENGTH} characters")]
    TooLong,
    /// Digits alone.
    #[error("`{0}` is a number, not the name of a user")]
    Number(String),
    /// A character that no name has.
    #[error(
        "`{name}` contains {found:?}: the name of a user begins with a letter, a digit or `_`, then letters, digits, `_`, `-`, `.`, `@` and `$`"
    )]
    Character {
        /// The refused name.
        name: String,
        /// The first offending character.
        found: char,
    },
}

impl UserName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = UserNameError;

    fn from_str(text: &str) -> Result<Self, UserNameError> {
        let bad = text.char_indices().find(|&(at, c)| {
            let begins = c.is_ascii_alphanumeric() || c == '_';
            !(begins || at > 0 && matches!(c, '-' | '.' | '@' | '$'))
        });
        match bad {
            _ if text.is_empty() => Err(UserNameError::Empty),
            _ if text.len() > MAX_LENGTH => Err(UserNameError::TooLong),
            Some((_, found)) => Err(UserNameError::Character {
                name: text.to_owned(),
                found,
            }),
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(UserNameError::Number(text.to_owned()))
            }
            None => Ok(Self(text.into())),
        }
    }
}

impl TryFrom<String> for UserName {
    type Error = UserNameError;

    fn try_from(text: String) -> Result<Self, UserNameError> {
        text.parse()
    }
}

impl From<UserName> for String {
    fn from(name: UserName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_passwd() {
        for good in [
            "root",
            "www-data",
            "_apt",
            "ann.lee@example.org",
            "PC$",
            "7zip",
            &"x".repeat(255),
        ] {
            assert!(good.parse::<UserName>().is_ok(), "{good}");
        }
        for (bad, part) in [
            ("", "empty"),
            ("0", "a number"),
            ("1000", "a number"),
            ("-x", "'-'"),
            ("*", "'*'"),
            ("a b", "' '"),
            ("a:b", "':'"),
            ("{arg.user}", "'{'"),
            ("../root", "'.'"),
            ("é", "'é'"),
            (&"x".repeat(256), "255"),
        ] {
            let error = bad.parse::<UserName>().unwrap_err();
            assert!(error.to_string().contains(part), "{bad}: {error}");
        }
    }
}
