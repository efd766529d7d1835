//! The forms in which schedules of Celery are dumped.

use serde_json::{Map, Value};

use super::fields::{Days, FIELDS, crontab};

/// When an entry is due.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum When {
    /// So many seconds from one dispatch to the next.
    Every(f64),
    /// A crontab expression, with what is to be said about it.
    Cron { expression: String, days: Days },
}

/// Reads a schedule; the error is a message.
pub(super) fn read(value: &Value) -> Result<When, String> {
    let read = match value {
        Value::Number(number) => number.as_f64().map(When::Every),
        Value::String(text) => return from_text(text.trim()),
        Value::Object(object) => return from_object(object),
        Value::Null | Value::Bool(_) | Value::Array(_) => None,
    };
    read.ok_or_else(|| unknown(&value.to_string()))
}

fn unknown(text: &str) -> String {
    let shown: String = text.chars().take(80).collect();
    format!("the schedule `{shown}` is of no form that is known here")
}

fn from_object(object: &Map<String, Value>) -> Result<When, String> {
    let number = |key: &str| object.get(key).and_then(Value::as_f64);
    if let Some(Value::Object(inner)) = object.get("__value__") {
        return from_object(inner);
    }
    if let Some(inner @ Value::Object(_)) = object.get("crontab").or(object.get("interval")) {
        return read(inner);
    }
    if let Some(every) = number("every") {
        let period = object
            .get("period")
            .and_then(Value::as_str)
            .unwrap_or("seconds");
        return unit(period)
            .map(|seconds| When::Every(every * seconds))
            .ok_or_else(|| unknown(period));
    }
    let units = [
        "weeks",
        "days",
        "hours",
        "minutes",
        "seconds",
        "microseconds",
    ];
    if object.keys().any(|key| units.contains(&key.as_str())) {
        let sum = units
            .iter()
            .filter_map(|key| Some(number(key)? * unit(key)?));
        return Ok(When::Every(sum.sum()));
    }
    if FIELDS.iter().any(|(name, ..)| object.contains_key(*name)) {
        let fields =
            FIELDS.map(|(name, ..)| object.get(name).map_or_else(|| "*".to_owned(), plain));
        return cron(&fields);
    }
    Err(unknown(&Value::Object(object.clone()).to_string()))
}

/// A field as text: Celery also takes numbers and collections of them.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Null => "*".to_owned(),
        other => other.to_string(),
    }
}

fn unit(name: &str) -> Option<f64> {
    Some(match name.trim_end_matches('s') {
        "week" => 604_800.0,
        "day" => 86_400.0,
        "hour" => 3_600.0,
        "minute" | "min" => 60.0,
        "second" | "sec" => 1.0,
        "microsecond" => 1e-6,
        _ => return None,
    })
}

fn from_text(text: &str) -> Result<When, String> {
    let inner =
        |prefix: &str, suffix: &str| Some(text.strip_prefix(prefix)?.strip_suffix(suffix)?.trim());
    if let Ok(seconds) = text.parse::<f64>() {
        return Ok(When::Every(seconds));
    }
    if let Some(inner) = inner("<freq:", ">") {
        let (number, unit_name) = inner.split_once(' ').unwrap_or((inner, "seconds"));
        let read = number.parse::<f64>().ok().zip(unit(unit_name.trim()));
        return read
            .map(|(number, unit)| When::Every(number * unit))
            .ok_or_else(|| unknown(text));
    }
    if let Some(inner) = inner("<crontab:", ">") {
        return from_repr(inner).ok_or_else(|| unknown(text))?;
    }
    if let Some(inner) = inner("crontab(", ")") {
        return cron(&keywords(inner).ok_or_else(|| unknown(text))?);
    }
    let delta = inner("datetime.timedelta(", ")").or(inner("timedelta(", ")"));
    if let Some(seconds) = delta.and_then(timedelta).or_else(|| clock(text)) {
        return Ok(When::Every(seconds));
    }
    match text.split_whitespace().collect::<Vec<_>>().as_slice() {
        [minute, hour, day, month, weekday] => {
            cron(&[minute, hour, day, month, weekday].map(|field| (*field).to_owned()))
        }
        _ => Err(unknown(text)),
    }
}

/// `0 4 * * * (m/h/dM/MY/d)`: the order is in the brackets, and has changed with Celery 5.3.
fn from_repr(inner: &str) -> Option<Result<When, String>> {
    let (fields, order) = match inner.split_once('(') {
        Some((fields, order)) => (fields, order.trim_end_matches(')').trim()),
        None => (inner, "m/h/dM/MY/d"),
    };
    let joined = fields.replace(", ", ",");
    let words: Vec<_> = joined.split_whitespace().map(str::to_owned).collect();
    let [minute, hour, third, fourth, fifth] = <[String; 5]>::try_from(words).ok()?;
    match order {
        "m/h/d/dM/MY" => Some(cron(&[minute, hour, fourth, fifth, third])),
        "m/h/dM/MY/d" => Some(cron(&[minute, hour, third, fourth, fifth])),
        _ => None,
    }
}

/// `minute=0, hour='*/4'`
fn keywords(inner: &str) -> Option<[String; 5]> {
    let mut fields = FIELDS.map(|_| "*".to_owned());
    let mut rest = inner.trim();
    while !rest.is_empty() {
        let (name, behind) = rest.split_once('=')?;
        let index = FIELDS
            .iter()
            .position(|(known, ..)| *known == name.trim())?;
        let behind = behind.trim_start();
        let quote = behind.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let (value, behind) = match quote {
            Some(quote) => behind[1..].split_once(quote)?,
            None => behind.split_at(behind.find(',').unwrap_or(behind.len())),
        };
        value.trim().clone_into(fields.get_mut(index)?);
        rest = behind.trim_start().trim_start_matches(',').trim_start();
    }
    Some(fields)
}

/// `seconds=30, days=1`, or `1, 30` for days and seconds
fn timedelta(inner: &str) -> Option<f64> {
    let positions = ["days", "seconds", "microseconds"];
    let mut sum = 0.0;
    for (index, part) in inner.split(',').enumerate() {
        let (name, number) = match part.split_once('=') {
            Some((name, number)) => (name.trim(), number),
            None => (*positions.get(index)?, part),
        };
        sum += number.trim().parse::<f64>().ok()? * unit(name)?;
    }
    Some(sum)
}

/// `1 day, 0:05:00`: how Python prints a timedelta
fn clock(text: &str) -> Option<f64> {
    let (days, time) = match text.split_once(", ") {
        Some((days, time)) => (days.split_once(" day")?.0.parse::<f64>().ok()?, time),
        None => (0.0, text),
    };
    let parts: Vec<f64> = time
        .split(':')
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    match parts.as_slice() {
        [hours, minutes, seconds] => {
            Some(days * 86_400.0 + hours * 3_600.0 + minutes * 60.0 + seconds)
        }
        _ => None,
    }
}

fn cron(fields: &[String; 5]) -> Result<When, String> {
    let (expression, days) = crontab(fields)?;
    Ok(When::Cron { expression, days })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn every(value: &Value) -> f64 {
        match read(value).unwrap() {
            When::Every(seconds) => seconds,
            When::Cron { expression, .. } => panic!("{expression}"),
        }
    }

    fn expression(value: &Value) -> (String, Days) {
        match read(value).unwrap() {
            When::Cron { expression, days } => (expression, days),
            When::Every(seconds) => panic!("{seconds}"),
        }
    }

    #[test]
    fn intervals_in_all_their_forms() {
        for (value, seconds) in [
            (json!(30.0), 30.0),
            (json!("30.5"), 30.5),
            (json!({"every": 5, "period": "minutes"}), 300.0),
            (
                json!({"__type__": "interval", "every": 10.0, "relative": false}),
                10.0,
            ),
            (
                json!({"__type__": "timedelta", "days": 1, "seconds": 30, "microseconds": 0}),
                86_430.0,
            ),
            (json!("<freq: 5.00 minutes>"), 300.0),
            (json!("<freq: 1.00 hour>"), 3_600.0),
            (json!("datetime.timedelta(seconds=30)"), 30.0),
            (json!("timedelta(1, 30)"), 86_430.0),
            (json!("0:05:00"), 300.0),
            (json!("2 days, 1:00:00"), 176_400.0),
        ] {
            assert_eq!(every(&value), seconds, "{value}");
        }
    }

    #[test]
    fn crontabs_in_all_their_forms() {
        for (value, text) in [
            (
                json!({"__type__": "crontab", "minute": "0", "hour": "*/4"}),
                "0 */4 * * *",
            ),
            (
                json!({"minute": 30, "hour": [1, 2], "day_of_week": "monday,Fri"}),
                "30 1,2 * * 1,5",
            ),
            (json!("<crontab: 0 4 * * 1 (m/h/dM/MY/d)>"), "0 4 * * 1"),
            (json!("<crontab: 0 4 1 * * (m/h/d/dM/MY)>"), "0 4 * * 1"),
            (
                json!("<crontab: 0 {8, 20} * * * (m/h/dM/MY/d)>"),
                "0 8,20 * * *",
            ),
            (
                json!("crontab(minute=0, hour='*/4', day_of_week=\"1,2\")"),
                "0 */4 * * 1,2",
            ),
            (json!("0 4 * * *"), "0 4 * * *"),
            (
                json!({"hour": "22-2", "day_of_week": "fri-mon", "minute": "5"}),
                "5 22,23,0,1,2 * * 5,6,0,1",
            ),
            (
                json!({"hour": "8-18/2", "minute": "0", "month_of_year": "jan-mar"}),
                "0 8-18/2 * 1-3 *",
            ),
        ] {
            assert_eq!(expression(&value), (text.to_owned(), Days::Same), "{value}");
        }
    }

    #[test]
    fn what_is_unknown_is_refused() {
        for value in [
            json!(null),
            json!("<solar: sunset (1.0, 2.0)>"),
            json!({"event": "sunset"}),
            json!({"hour": "25"}),
            json!({"minute": "*/0"}),
            json!("crontab(x=1)"),
            json!("<crontab: 0 4 * * (m/h/dM/MY/d)>"),
            json!("crontab(hour='é"),
        ] {
            assert!(read(&value).is_err(), "{value}");
        }
    }
}
