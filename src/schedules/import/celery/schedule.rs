//! The forms in which schedules of Celery are dumped.
//!
//! Celery wants a day to fit both day fields; crontab(5) is content with one of them where neither
//! starts with `*`.

use serde_json::{Map, Value};

/// When an entry is due.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum When {
    /// So many seconds from one dispatch to the next.
    Every(f64),
    /// A crontab expression, with what is to be said about it.
    Cron { expression: String, days: Days },
}

/// What became of "both day fields must fit".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Days {
    /// It means the same here.
    Same,
    /// It does, written as `n#k`.
    Rewritten,
    /// No expression says it.
    Either,
}

/// minute, hour, day of month, month, day of week: name, smallest, largest.
const FIELDS: [(&str, u32, u32); 5] = [
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day_of_month", 1, 31),
    ("month_of_year", 1, 12),
    ("day_of_week", 0, 6),
];

const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];

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
    let mut written = Vec::with_capacity(5);
    for (text, (name, min, max)) in fields.iter().zip(FIELDS) {
        let field = field(text, name, min, max).ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            format!("{name}: `{shown}` is not understood")
        })?;
        written.push(field);
    }
    let mut days = Days::Same;
    if let [_, _, day, _, weekday] = written.as_mut_slice()
        && !day.starts_with('*')
        && !weekday.starts_with('*')
    {
        days = match nth(day, weekday) {
            Some(nth) => {
                "*".clone_into(day);
                *weekday = nth;
                Days::Rewritten
            }
            None => Days::Either,
        };
    }
    let expression = written.join(" ");
    Ok(When::Cron { expression, days })
}

/// A field as crontab(5) has it: three letters of a name, no range that runs backwards.
fn field(text: &str, name: &str, min: u32, max: u32) -> Option<String> {
    let bare = |c: char| !c.is_whitespace() && !matches!(c, '{' | '}' | '[' | ']' | '\'' | '"');
    let clean: String = text.chars().filter(|&c| bare(c)).collect();
    let items: Vec<_> = clean
        .split(',')
        .map(|one| item(one, name, min, max))
        .collect::<Option<_>>()?;
    Some(items.join(","))
}

fn item(text: &str, name: &str, min: u32, max: u32) -> Option<String> {
    let (range, step) = match text.split_once('/') {
        Some((range, step)) => (range, step.parse::<usize>().ok().filter(|&step| step > 0)?),
        None => (text, 1),
    };
    if range == "*" {
        return Some(text.to_owned());
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (
        number(first, name, min, max)?,
        number(last, name, min, max)?,
    );
    if first == last {
        return Some(first.to_string());
    }
    if first < last {
        let step = if step == 1 {
            String::new()
        } else {
            format!("/{step}")
        };
        return Some(format!("{first}-{last}{step}"));
    }
    let round = (first..=max).chain(min..=last).step_by(step);
    Some(
        round
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
            .join(","),
    )
}

fn number(text: &str, name: &str, min: u32, max: u32) -> Option<u32> {
    if let Ok(number) = text.parse() {
        return (min..=max).contains(&number).then_some(number);
    }
    let short: String = text.to_lowercase().chars().take(3).collect();
    let names: &[&str] = match name {
        "day_of_week" => &WEEKDAYS,
        "month_of_year" => &MONTHS,
        _ => return None,
    };
    let at = names.iter().position(|known| *known == short)?;
    Some(u32::try_from(at).ok()? + min)
}

/// Weekdays within days 1-7, 8-14, 15-21 or 22-28 of the month are the n-th of their kind.
fn nth(days: &str, weekdays: &str) -> Option<String> {
    let week = (1..=4).find(|week| {
        let (first, last) = (week * 7 - 6, week * 7);
        numbers(days).is_some_and(|days| days == (first..=last).collect::<Vec<u32>>())
    })?;
    let weekdays = numbers(weekdays)?;
    let each: Vec<_> = weekdays.iter().map(|day| format!("{day}#{week}")).collect();
    Some(each.join(","))
}

/// The numbers of a field without stars, sorted, each once.
fn numbers(field: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for item in field.split(',') {
        let (range, step) = item.split_once('/').unwrap_or((item, "1"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        all.extend((first..=last).step_by(step.parse::<usize>().ok()?));
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
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
    fn both_day_fields_must_fit() {
        let days = |day: &str, weekday: &str| {
            expression(
                &json!({"minute": "0", "hour": "4", "day_of_month": day, "day_of_week": weekday}),
            )
        };
        assert_eq!(
            days("1-7", "mon"),
            ("0 4 * * 1#1".to_owned(), Days::Rewritten)
        );
        assert_eq!(
            days("15-21", "tue,thu"),
            ("0 4 * * 2#3,4#3".to_owned(), Days::Rewritten)
        );
        assert_eq!(days("13", "fri").1, Days::Either);
        assert_eq!(days("*/2", "fri"), ("0 4 */2 * 5".to_owned(), Days::Same));
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
