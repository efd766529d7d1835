//! The grammar of crontab(5) as Debian's cron reads it, with seconds, `L`, `LW`, `nL` and `n#k`.

use std::ops::Range;

use super::error::{CronError, Field, Problem};

pub(super) const MACROS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

const FIVE: [Field; 5] = [
    Field::Minute,
    Field::Hour,
    Field::DayOfMonth,
    Field::Month,
    Field::DayOfWeek,
];

/// An expression, understood. Sets are bits: bit n stands for the number n.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) seconds: u64,
    pub(super) minutes: u64,
    pub(super) hours: u64,
    pub(super) months: u64,
    pub(super) days: Days,
    pub(super) weekdays: Weekdays,
    pub(super) day_rule: DayRule,
    pub(super) clock: Clock,
}

/// The day of month field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Days {
    pub(super) plain: u64,
    /// `L`
    pub(super) last: bool,
    /// `LW`
    pub(super) last_weekday: bool,
}

/// The day of week field; 0 is Sunday.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Weekdays {
    pub(super) plain: u64,
    /// `n#k` as (n, k)
    pub(super) nth: Vec<(u32, u32)>,
    /// `nL`
    pub(super) last: Vec<u32>,
}

/// How the two day fields combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DayRule {
    /// One of them starts with `*`: a day must fit both.
    Both,
    /// Neither does: a day that fits one is enough.
    Either,
}

/// How an expression meets a change of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clock {
    /// Neither minute nor hour starts with `*`: the times of day are meant.
    Fixed,
    /// The rhythm on the wall clock is meant.
    Wild,
}

pub(super) fn parse(expression: &str) -> Result<Fields, CronError> {
    let trimmed = expression.trim_matches([' ', '\t', '\n', '\r']);
    let whole = |problem| CronError {
        expression: expression.to_owned(),
        field: None,
        span: 0..expression.len(),
        problem,
    };
    if trimmed.is_empty() {
        return Err(whole(Problem::Empty));
    }
    if trimmed.contains(['\n', '\r']) {
        return Err(whole(Problem::Lines));
    }
    if trimmed.starts_with('@') {
        return match MACROS.iter().find(|(name, _)| *name == trimmed) {
            Some((_, meaning)) => parse(meaning),
            None => Err(whole(Problem::Macro(trimmed.to_owned()))),
        };
    }
    let texts = split(expression);
    match texts.as_slice() {
        [_, _, _, _, _] => fields(expression, None, &texts),
        [second, rest @ ..] if rest.len() == 5 => fields(expression, Some(second), rest),
        other => Err(whole(Problem::FieldCount(other.len()))),
    }
}

/// The fields with their places.
fn split(expression: &str) -> Vec<Range<usize>> {
    let blank = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r');
    let mut at = 0;
    let mut ranges = Vec::with_capacity(6);
    for piece in expression.split(blank) {
        if !piece.is_empty() {
            ranges.push(at..at + piece.len());
        }
        at += piece.len() + 1;
    }
    ranges
}

fn fields(
    expression: &str,
    second: Option<&Range<usize>>,
    five: &[Range<usize>],
) -> Result<Fields, CronError> {
    let mut days = Days::default();
    let mut weekdays = Weekdays::default();
    let mut plain = [0_u64; 5];
    let mut starred = [false; 5];
    let seconds = match second {
        Some(range) => list(expression, Field::Second, range, |_, _| Ok(false))?,
        None => 1,
    };
    for (index, (field, range)) in FIVE.into_iter().zip(five).enumerate() {
        plain[index] = list(expression, field, range, |field, item| match field {
            Field::DayOfMonth => day_special(item, &mut days),
            Field::DayOfWeek => weekday_special(item, &mut weekdays),
            Field::Second | Field::Minute | Field::Hour | Field::Month => Ok(false),
        })?;
        starred[index] = expression[range.clone()].starts_with('*');
    }
    let [minutes, hours, plain_days, months, plain_weekdays] = plain;
    let [minute_star, hour_star, day_star, _, weekday_star] = starred;
    days.plain = plain_days;
    weekdays.plain = (plain_weekdays | plain_weekdays >> 7) & 0x7f;
    Ok(Fields {
        seconds,
        minutes,
        hours,
        months,
        days,
        weekdays,
        day_rule: match day_star || weekday_star {
            true => DayRule::Both,
            false => DayRule::Either,
        },
        clock: match minute_star || hour_star {
            true => Clock::Wild,
            false => Clock::Fixed,
        },
    })
}

/// Reads a list; `special` may take an item for itself.
fn list(
    expression: &str,
    field: Field,
    range: &Range<usize>,
    mut special: impl FnMut(Field, &str) -> Result<bool, Problem>,
) -> Result<u64, CronError> {
    let mut set = 0;
    let mut at = range.start;
    for text in expression[range.clone()].split(',') {
        let span = match text {
            "" => range.clone(),
            _ => at..at + text.len(),
        };
        at += text.len() + 1;
        set |= special(field, text)
            .and_then(|taken| if taken { Ok(0) } else { item(field, text) })
            .map_err(|problem| CronError {
                expression: expression.to_owned(),
                field: Some(field),
                span,
                problem,
            })?;
    }
    Ok(set)
}

/// `*`, `N`, `N-M`, each with or without `/S`.
fn item(field: Field, text: &str) -> Result<u64, Problem> {
    let (range, step) = match text.split_once('/') {
        Some((range, step)) if !step.contains('/') => (range, Some(step)),
        Some(_) => return Err(Problem::Steps(text.to_owned())),
        None => (text, None),
    };
    let (min, max) = field.bounds();
    let (first, last) = match range {
        "" => return Err(Problem::EmptyItem),
        "?" => return Err(Problem::Question),
        "*" => (min, max),
        _ => match range.split_once('-') {
            Some((from, to)) => {
                let (first, last) = (value(field, from, text)?, value(field, to, text)?);
                if first > last {
                    return Err(backwards(field, from, to, (first, last)));
                }
                (first, last)
            }
            None => {
                let first = value(field, range, text)?;
                (first, if step.is_some() { max } else { first })
            }
        },
    };
    let step = match step {
        Some(step) => number(step)
            .and_then(|step| usize::try_from(step).ok())
            .filter(|&step| step > 0)
            .ok_or_else(|| Problem::Step(step.to_owned()))?,
        None => 1,
    };
    Ok((first..=last)
        .step_by(step)
        .fold(0, |set, n| set | 1_u64 << n))
}

/// A number or a name of the field.
fn value(field: Field, text: &str, item: &str) -> Result<u32, Problem> {
    let (min, max) = field.bounds();
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return number(text)
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| Problem::OutOfRange {
                text: text.to_owned(),
                min,
                max,
            });
    }
    let position = field
        .names()
        .iter()
        .position(|name| text.eq_ignore_ascii_case(name));
    (min..=max)
        .zip(0..)
        .find(|&(_, index)| position == Some(index))
        .map(|(number, _)| number)
        .ok_or_else(|| Problem::NotAValue {
            text: if text.is_empty() { item } else { text }.to_owned(),
            field,
        })
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A range that runs backwards, with what to write in its place.
fn backwards(field: Field, from: &str, to: &str, (first, last): (u32, u32)) -> Problem {
    let (min, max) = match field {
        Field::DayOfWeek => (0, 6),
        Field::Second | Field::Minute | Field::Hour | Field::DayOfMonth | Field::Month => {
            field.bounds()
        }
    };
    let named = number(from).is_none();
    let show = |number: u32| match field.names().get((number - min) as usize) {
        Some(name) if named => (*name).to_owned(),
        Some(_) | None => number.to_string(),
    };
    let range = |a: u32, b: u32| match a == b {
        true => show(a),
        false => format!("{}-{}", show(a), show(b)),
    };
    Problem::Backwards {
        range: format!("{from}-{to}"),
        instead: match first > max {
            // 7 is Sunday, as is 0.
            true => range(min, last),
            false => format!("{},{}", range(first, max), range(min, last)),
        },
    }
}

/// `L` and `LW`.
fn day_special(item: &str, days: &mut Days) -> Result<bool, Problem> {
    if item.eq_ignore_ascii_case("L") {
        days.last = true;
    } else if item.eq_ignore_ascii_case("LW") {
        days.last_weekday = true;
    } else if item.ends_with(['w', 'W']) && item.len() > 1 {
        return Err(Problem::NearestWeekday(item.to_owned()));
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// `n#k` and `nL`.
fn weekday_special(item: &str, weekdays: &mut Weekdays) -> Result<bool, Problem> {
    if let Some((day, nth)) = item.split_once('#') {
        let nth = number(nth)
            .filter(|nth| (1..=5).contains(nth))
            .ok_or_else(|| Problem::Nth(item.to_owned()))?;
        let day = value(Field::DayOfWeek, day, item)?;
        weekdays.nth.push((day % 7, nth));
    } else if let Some(day) = item.strip_suffix(['l', 'L']).filter(|day| !day.is_empty()) {
        weekdays.last.push(value(Field::DayOfWeek, day, item)? % 7);
    } else {
        return Ok(false);
    }
    Ok(true)
}
