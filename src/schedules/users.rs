//! Users of the workers' machines, by name.

use toml::de::DeValue;

use super::reader::{Item, Reader};
use crate::job::{UserName, UserNameError};

const NO_NUMBERS: &str = "write the name in /etc/passwd of the worker's machine, not the number";

pub(super) fn user(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<UserName> {
    let DeValue::String(text) = item.get_ref() else {
        reader.mismatch(key, item, "the name of a user", Some(NO_NUMBERS));
        return None;
    };
    let error = match text.parse::<UserName>() {
        Ok(name) => return Some(name),
        Err(error) => error,
    };
    let help = match error {
        UserNameError::Number(_) => NO_NUMBERS,
        UserNameError::Character { .. } if text.contains(['*', '?']) => {
            "write each name: there are no patterns of users"
        }
        UserNameError::Character { .. } if text.contains('{') => {
            "no placeholders: a user stands in the schedule, it is not an argument"
        }
        UserNameError::Empty | UserNameError::TooLong | UserNameError::Character { .. } => {
            "write the name as it stands in /etc/passwd of the worker's machine"
        }
    };
    reader.error_with_help(
        item.span(),
        format!("`{key}`: {error}"),
        Some(help.to_owned()),
    );
    None
}
