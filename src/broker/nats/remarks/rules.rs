//! What a setting must be, and how it is told that it is something else. Pure.

use std::time::Duration;

use serde_json::Value;

use crate::broker::{Remark, RemarkKind};

/// A setting that must be as it was made.
pub(super) struct Rule {
    pub(super) key: &'static str,
    /// How bad it is.
    pub(super) kind: RemarkKind,
    /// What happens if it is not.
    pub(super) consequence: &'static str,
}

/// Without it a promise is broken.
pub(super) const fn failed(key: &'static str, consequence: &'static str) -> Rule {
    Rule {
        key,
        kind: RemarkKind::Failed,
        consequence,
    }
}

/// It works without it, but not as it should.
pub(super) const fn warned(key: &'static str, consequence: &'static str) -> Rule {
    Rule {
        key,
        kind: RemarkKind::Warning,
        consequence,
    }
}

impl Rule {
    /// What is not said is the same as nothing.
    pub(super) fn is_broken(&self, wanted: &Value, found: &Value) -> bool {
        let nothing = |value: &Value| {
            matches!(value, Value::Null | Value::Bool(false)) || value == 0 || value == -1
        };
        let (wanted, found) = (&wanted[self.key], &found[self.key]);
        wanted != found && !(nothing(wanted) && nothing(found))
    }

    /// What to do about it.
    pub(super) fn mend(&self, wanted: &Value, found: &Value) -> String {
        match (&wanted[self.key], &found[self.key]) {
            (Value::Null, Value::Bool(_)) => "set it to false".to_owned(),
            (Value::Null, Value::Number(_)) if DURATIONS.contains(&self.key) => {
                "set it to 0".to_owned()
            }
            (Value::Null, Value::Number(_)) => "set it to -1".to_owned(),
            (Value::Null, _) => "take it away".to_owned(),
            (wanted, _) => format!("set it to {}", shown(self.key, wanted)),
        }
    }
}

/// A remark with its mend.
pub(super) fn told(kind: RemarkKind, message: String, help: String) -> Remark {
    Remark {
        check: "streams",
        kind,
        message,
        help: Some(help),
    }
}

/// Those that the API has in nanoseconds.
const DURATIONS: [&str; 5] = [
    "ack_wait",
    "duplicate_window",
    "inactive_threshold",
    "max_age",
    "max_expires",
];

/// A setting as people write it.
pub(super) fn shown(key: &str, value: &Value) -> String {
    let nanoseconds = value.as_u64().filter(|_| DURATIONS.contains(&key));
    match (value, nanoseconds) {
        (_, Some(nanoseconds @ 1..)) => {
            humantime::format_duration(Duration::from_nanos(nanoseconds)).to_string()
        }
        (Value::Null, _) => "not set".to_owned(),
        (Value::String(text), _) => text.clone(),
        (other, _) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_said_is_nothing() {
        let rule = failed("max_age", "");
        for (wanted, found, is_broken) in [
            (json!({}), json!({ "max_age": 0 }), false),
            (json!({ "max_age": -1 }), json!({}), false),
            (json!({ "max_age": 5 }), json!({ "max_age": 5 }), false),
            (json!({ "max_age": 5 }), json!({}), true),
            (json!({}), json!({ "max_age": 5 }), true),
        ] {
            assert_eq!(rule.is_broken(&wanted, &found), is_broken, "{found}");
        }
    }

    #[test]
    fn what_is_to_be_done_is_said() {
        let mend = |rule: Rule, wanted: Value, found: Value| rule.mend(&wanted, &found);
        for (key, wanted, found, says) in [
            (
                "no_ack",
                json!({}),
                json!({ "no_ack": true }),
                "set it to false",
            ),
            ("max_age", json!({}), json!({ "max_age": 5 }), "set it to 0"),
            (
                "max_msgs",
                json!({}),
                json!({ "max_msgs": 5 }),
                "set it to -1",
            ),
            (
                "backoff",
                json!({}),
                json!({ "backoff": [1] }),
                "take it away",
            ),
            (
                "discard",
                json!({ "discard": "new" }),
                json!({}),
                "set it to new",
            ),
        ] {
            assert_eq!(mend(failed(key, ""), wanted, found), says, "{key}");
        }
    }

    #[test]
    fn durations_are_shown_as_such() {
        assert_eq!(shown("max_age", &json!(90_000_000_000_u64)), "1m 30s");
        assert_eq!(shown("max_age", &json!(0)), "0");
        assert_eq!(shown("max_msgs", &json!(1_000_000_000)), "1000000000");
        assert_eq!(shown("discard", &json!("old")), "old");
        assert_eq!(shown("no_ack", &Value::Null), "not set");
    }
}
