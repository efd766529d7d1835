//! Celery's crontab fields → crontab(5).
//!
//! Celery wants a day to fit both day fields; crontab(5) is content with one of them where neither
//! starts with `*`. Its ranges may run backwards, and it spells weekdays out.

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
pub(super) const FIELDS: [(&str, u32, u32); 5] = [
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

/// The expression of Celery's five fields; the error is a message.
pub(super) fn crontab(fields: &[String; 5]) -> Result<(String, Days), String> {
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
    Ok((written.join(" "), days))
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

    #[test]
    fn both_day_fields_must_fit() {
        let days = |day: &str, weekday: &str| {
            let fields = ["0", "4", day, "*", weekday].map(str::to_owned);
            crontab(&fields).unwrap()
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
    fn ranges_may_run_backwards() {
        for (text, name, min, max, written) in [
            ("22-2", "hour", 0, 23, "22,23,0,1,2"),
            ("22-4/2", "hour", 0, 23, "22,0,2,4"),
            ("fri-mon", "day_of_week", 0, 6, "5,6,0,1"),
            ("nov-feb", "month_of_year", 1, 12, "11,12,1,2"),
        ] {
            assert_eq!(field(text, name, min, max).as_deref(), Some(written));
        }
        assert_eq!(field("7", "day_of_week", 0, 6), None);
    }
}
