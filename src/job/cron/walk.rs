//! Walks naive time with the `cron` crate, which is given number lists only.
//!
//! The crate AND-s the two day fields, knows neither `L` nor `n#k`, counts weekdays from 1 and ends
//! with the year 2100. So an expression becomes one schedule for each combination of its day items,
//! with a filter on dates where a list of numbers cannot say it; the next time is the earliest of
//! them. Years outside the crate's are mapped to years with the same calendar.

use std::{fmt::Write as _, str::FromStr};

use chrono::{Datelike, Days as DaysLater, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};
use cron::Schedule;

use super::parse::{DayRule, Days, Fields, Weekdays};

/// How far ahead an occurrence is looked for.
pub(super) const HORIZON_YEARS: i32 = 50;

/// Years in which the crate's answers are taken as they are.
const NATIVE_YEARS: std::ops::Range<i32> = 1971..2100;

/// 28 years without an exception to the leap rule: each kind of year is among them.
const MODEL_YEARS: std::ops::Range<i32> = 1972..2000;

const ALL_DAYS: u64 = 0xffff_fffe;
const ALL_WEEKDAYS: u64 = 0x7f;

/// An expression, ready to be walked.
#[derive(Debug)]
pub(super) struct Walker(Vec<Branch>);

#[derive(Debug)]
struct Branch {
    schedule: Schedule,
    filters: Vec<Filter>,
}

/// What lists of numbers cannot say about a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    MonthEnd,
    FinalWeekday,
    LastWeek,
}

/// One item of a day field: days of the month AND weekdays AND a filter.
#[derive(Clone, Copy)]
struct DaySet {
    days: u64,
    weekdays: u64,
    filter: Option<Filter>,
}

impl Walker {
    /// `None` if no date can fit.
    pub(super) fn new(fields: &Fields) -> Option<Self> {
        let months = month_days(&fields.days);
        let weeks = week_days(&fields.weekdays);
        let sets: Vec<(u64, u64, Vec<Filter>)> = match fields.day_rule {
            DayRule::Either => months
                .iter()
                .chain(&weeks)
                .map(|set| (set.days, set.weekdays, set.filter.into_iter().collect()))
                .collect(),
            DayRule::Both => months
                .iter()
                .flat_map(|month| weeks.iter().map(move |week| (month, week)))
                .map(|(month, week)| {
                    let filters = month.filter.into_iter().chain(week.filter).collect();
                    (month.days & week.days, week.weekdays, filters)
                })
                .collect(),
        };
        let branches: Vec<_> = sets
            .into_iter()
            .filter(|(days, weekdays, _)| *days != 0 && *weekdays != 0)
            .filter_map(|(days, weekdays, filters)| {
                Schedule::from_str(&numbers(fields, days, weekdays))
                    .ok()
                    .map(|schedule| Branch { schedule, filters })
            })
            .collect();
        let walker = Self(branches);
        let millennium = NaiveDate::from_ymd_opt(2000, 1, 1)?.and_time(NaiveTime::MIN);
        walker.next_after(millennium).map(|_| walker)
    }

    /// The first time later than `after`, within 50 years.
    pub(super) fn next_after(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        self.0
            .iter()
            .filter_map(|branch| branch.next_after(after))
            .min()
    }
}

impl Branch {
    fn next_after(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        let horizon = after.year() + HORIZON_YEARS;
        let mut from = after;
        loop {
            let found = self.walk(from, horizon)?;
            if self
                .filters
                .iter()
                .all(|filter| filter.accepts(found.date()))
            {
                return Some(found);
            }
            from = found.date().and_hms_opt(23, 59, 59)?;
        }
    }

    /// The next time without regard to the filters.
    fn walk(&self, after: NaiveDateTime, horizon: i32) -> Option<NaiveDateTime> {
        let mut from = after;
        if NATIVE_YEARS.contains(&from.year()) {
            let found = self.ask_crate(from);
            match found {
                Some(found) if found.year() <= horizon => return Some(found),
                Some(_) => return None,
                None => from = end_of_year(NATIVE_YEARS.end)?,
            }
        }
        for year in from.year()..=horizon {
            let model = model_of(year)?;
            let start = match year == from.year() {
                true => from.with_year(model)?,
                false => end_of_year(model - 1)?,
            };
            if let Some(found) = self.ask_crate(start).filter(|at| at.year() == model) {
                return found.with_year(year);
            }
        }
        None
    }

    fn ask_crate(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        let next = self.schedule.after(&after.and_utc()).next()?;
        Some(next.naive_utc())
    }
}

impl Filter {
    fn accepts(self, date: NaiveDate) -> bool {
        let month_of = |days: u64| {
            date.checked_add_days(DaysLater::new(days))
                .map(|later| later.month())
        };
        let this = Some(date.month());
        match self {
            Self::MonthEnd => month_of(1) != this,
            Self::LastWeek => month_of(7) != this,
            // The last day, or a Friday with nothing but a weekend behind it.
            Self::FinalWeekday => match date.weekday().num_days_from_monday() {
                0..=3 => month_of(1) != this,
                4 => month_of(3) != this,
                _ => false,
            },
        }
    }
}

fn end_of_year(year: i32) -> Option<NaiveDateTime> {
    let next = NaiveDate::from_ymd_opt(year + 1, 1, 1)?.and_time(NaiveTime::MIN);
    next.checked_sub_signed(TimeDelta::seconds(1))
}

/// A year that starts on the same weekday and has as many days.
fn model_of(year: i32) -> Option<i32> {
    let shape = |year: i32| {
        NaiveDate::from_ymd_opt(year, 1, 1).map(|first| (first.weekday(), first.leap_year()))
    };
    MODEL_YEARS
        .into_iter()
        .find(|&model| shape(model) == shape(year))
}

fn month_days(days: &Days) -> Vec<DaySet> {
    let set = |days, filter| DaySet {
        days,
        weekdays: ALL_WEEKDAYS,
        filter,
    };
    let mut sets = vec![set(days.plain, None)];
    if days.last {
        sets.push(set(0b1111 << 28, Some(Filter::MonthEnd)));
    }
    if days.last_weekday {
        sets.push(set(0b11_1111 << 26, Some(Filter::FinalWeekday)));
    }
    sets
}

fn week_days(weekdays: &Weekdays) -> Vec<DaySet> {
    let mut sets = vec![DaySet {
        days: ALL_DAYS,
        weekdays: weekdays.plain,
        filter: None,
    }];
    sets.extend(weekdays.nth.iter().map(|&(day, nth)| DaySet {
        days: (0x7f << (7 * nth - 6)) & ALL_DAYS,
        weekdays: 1 << day,
        filter: None,
    }));
    sets.extend(weekdays.last.iter().map(|&day| DaySet {
        days: (0x3ff << 22) & ALL_DAYS,
        weekdays: 1 << day,
        filter: Some(Filter::LastWeek),
    }));
    sets
}

/// The expression that the crate understands: seconds first, weekdays from 1.
fn numbers(fields: &Fields, days: u64, weekdays: u64) -> String {
    let mut text = String::with_capacity(64);
    let lists = [
        (fields.seconds, 0, 59),
        (fields.minutes, 0, 59),
        (fields.hours, 0, 23),
        (days, 1, 31),
        (fields.months, 1, 12),
        (weekdays << 1, 1, 7),
    ];
    for (set, min, max) in lists {
        write_list(&mut text, set, min..=max);
        text.push(' ');
    }
    text.push('*');
    text
}

fn write_list(text: &mut String, set: u64, bounds: std::ops::RangeInclusive<u32>) {
    let has = |number: u32| set >> number & 1 == 1;
    if bounds.clone().all(has) {
        text.push('*');
        return;
    }
    let mut separator = "";
    for number in bounds.filter(|&number| has(number)) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{number}");
        separator = ",";
    }
}
