//! How deep JSON from outside may be nested.

use serde_json::Value;

/// The deepest that arguments and results may be nested. Records and messages put them some levels further down,
/// and what reads JSON gives up at 128: what is stored has to be read again.
pub const DEEPEST: usize = 64;

/// Whether a value may be part of a message or a record.
pub fn is_shallow(value: &Value) -> bool {
    let mut open = vec![(value, 1)];
    while let Some((value, depth)) = open.pop() {
        if depth > DEEPEST {
            return false;
        }
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => open.extend(fields.values().map(|field| (field, depth + 1))),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_counted_from_one() {
        let nested = |levels: usize| {
            (1..levels).fold(Value::Null, |inner, level| match level % 2 {
                0 => Value::Array(vec![Value::Null, inner]),
                _ => serde_json::json!({ "a": inner }),
            })
        };
        assert!(is_shallow(&nested(DEEPEST)));
        assert!(!is_shallow(&nested(DEEPEST + 1)));
    }
}
