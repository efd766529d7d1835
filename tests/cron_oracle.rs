//! Random expressions against an independent oracle that walks the seconds of real time: it asks a
//! zone what the wall clock shows, and matches that with bits of its own reading of the fields.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike, Duration, NaiveDate, NaiveDateTime, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use orchestrator::job::cron::{CronTrigger, DstGap, DstRepeat};
use proptest::prelude::*;

/// Bits of one field, for what the generator writes: lists of `*`, `*/S`, `N`, `N-M`, `N-M/S`, `N/S`.
fn bits(field: &str, min: u32, max: u32) -> u64 {
    field.split(',').fold(0, |set, item| {
        let (range, step) = item.split_once('/').unwrap_or((item, "1"));
        let open = item.contains('/');
        let (first, last) = match range.split_once('-') {
            Some((a, b)) => (a.parse().unwrap(), b.parse().unwrap()),
            None if range == "*" => (min, max),
            None => {
                let n: u32 = range.parse().unwrap();
                (n, if open { max } else { n })
            }
        };
        let step: usize = step.parse().unwrap();
        (first..=last)
            .step_by(step)
            .fold(set, |set, n| set | 1 << n)
    })
}

struct Oracle {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    both: bool,
    fixed: bool,
}

impl Oracle {
    fn new(fields: &[String; 5]) -> Self {
        let [minute, hour, day, month, weekday] = fields;
        let star = |field: &String| field.starts_with('*');
        let weekdays = bits(weekday, 0, 7);
        Self {
            minutes: bits(minute, 0, 59),
            hours: bits(hour, 0, 23),
            days: bits(day, 1, 31),
            months: bits(month, 1, 12),
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            both: star(day) || star(weekday),
            fixed: !star(minute) && !star(hour),
        }
    }

    fn matches(&self, wall: NaiveDateTime) -> bool {
        let has = |set: u64, n: u32| set >> n & 1 == 1;
        let day = has(self.days, wall.day());
        let weekday = has(self.weekdays, wall.weekday().num_days_from_sunday());
        has(self.minutes, wall.minute())
            && has(self.hours, wall.hour())
            && has(self.months, wall.month())
            && if self.both {
                day && weekday
            } else {
                day || weekday
            }
    }

    /// All instants in `(from, until]`, minute by minute as cron itself goes, with its memory of how
    /// far the wall clock has come.
    fn walk(&self, zone: Tz, from: DateTime<Utc>, until: DateTime<Utc>) -> BTreeSet<DateTime<Utc>> {
        let wall = |at: DateTime<Utc>| at.with_timezone(&zone).naive_local();
        let limit = Duration::hours(3);
        let minute = Duration::minutes(1);
        // Starts early enough to know what has been passed already.
        let mut at = from - Duration::hours(30);
        let mut before = wall(at - minute);
        let mut reached = before;
        let mut found = BTreeSet::new();
        while at <= until {
            let now = wall(at);
            let step = now - before - minute;
            if step < -limit || step > limit {
                reached = now - minute;
            }
            let skipped_fixed = step > Duration::zero() && step <= limit && self.fixed && {
                let count = step.num_minutes();
                (1..=count).any(|n| self.matches(before + minute * i32::try_from(n).unwrap()))
            };
            let again = now <= reached;
            if skipped_fixed || self.matches(now) && !(self.fixed && again) {
                found.insert(at);
            }
            reached = reached.max(now);
            before = now;
            at += minute;
        }
        found.into_iter().filter(|&at| at > from).collect()
    }
}

fn item(min: u32, max: u32) -> impl Strategy<Value = String> {
    let step = 1..=max;
    prop_oneof![
        3 => (min..=max).prop_map(|n| n.to_string()),
        2 => (min..=max, min..=max).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        1 => (min..=max, min..=max, step.clone())
            .prop_map(|(a, b, s)| format!("{}-{}/{s}", a.min(b), a.max(b))),
        1 => (min..=max, step).prop_map(|(a, s)| format!("{a}/{s}")),
    ]
}

fn field(min: u32, max: u32, star: u32) -> impl Strategy<Value = String> {
    let list = prop::collection::vec(item(min, max), 1..=3).prop_map(|items| items.join(","));
    prop_oneof![
        star => Just("*".to_owned()),
        1 => (1..=max).prop_map(|step| format!("*/{step}")),
        4 => list,
    ]
}

fn fields() -> impl Strategy<Value = [String; 5]> {
    let day = field(1, 31, 12);
    let month = field(1, 12, 24);
    let weekday = field(0, 7, 12);
    (field(0, 59, 2), field(0, 23, 2), day, month, weekday).prop_map(<[String; 5]>::from)
}

/// Zones with the moments at which something happens in them.
fn around() -> impl Strategy<Value = (Tz, DateTime<Utc>)> {
    let at = |zone: Tz, text: &str| (zone, text.parse::<DateTime<Utc>>().unwrap());
    prop::sample::select(vec![
        at(Tz::Europe__Berlin, "2026-03-29T01:00:00Z"),
        at(Tz::Europe__Berlin, "2026-10-25T01:00:00Z"),
        at(Tz::America__New_York, "2026-03-08T07:00:00Z"),
        at(Tz::America__New_York, "2026-11-01T06:00:00Z"),
        at(Tz::America__Sao_Paulo, "2018-11-04T03:00:00Z"),
        at(Tz::America__Sao_Paulo, "2018-02-18T02:00:00Z"),
        at(Tz::Australia__Lord_Howe, "2026-10-03T15:30:00Z"),
        at(Tz::Australia__Lord_Howe, "2026-04-04T15:00:00Z"),
        at(Tz::Africa__Casablanca, "2026-02-15T02:00:00Z"),
        at(Tz::Africa__Casablanca, "2026-03-22T02:00:00Z"),
        at(Tz::Antarctica__Troll, "2026-03-29T01:00:00Z"),
        at(Tz::Antarctica__Troll, "2026-10-25T01:00:00Z"),
        at(Tz::Pacific__Apia, "2011-12-30T10:00:00Z"),
        at(Tz::Pacific__Apia, "2012-03-31T14:00:00Z"),
        at(Tz::Europe__Dublin, "2026-10-25T01:00:00Z"),
        at(Tz::Africa__Cairo, "2026-04-23T22:00:00Z"),
        at(Tz::Africa__Cairo, "2026-10-29T21:00:00Z"),
        at(Tz::America__St_Johns, "2026-03-08T05:30:00Z"),
        at(Tz::America__St_Johns, "2026-11-01T04:30:00Z"),
        at(Tz::Asia__Kolkata, "2026-02-28T18:30:00Z"),
        at(Tz::Asia__Tehran, "2022-09-21T19:30:00Z"),
        at(Tz::UTC, "2028-02-29T00:00:00Z"),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_walk_over_the_minutes(
        fields in fields(),
        (zone, event) in around(),
        start in -1500_i64..200,
    ) {
        let expression = fields.join(" ");
        let trigger = CronTrigger::new(vec![expression], zone, DstGap::RunAfter, DstRepeat::Once);
        // What has no date at all is refused; the corpus has those.
        prop_assume!(trigger.is_ok());
        let trigger = trigger.unwrap();
        let from = event + Duration::minutes(start);
        let until = event + Duration::hours(30);
        let expected = Oracle::new(&fields).walk(zone, from, until);
        let found: BTreeSet<_> = std::iter::successors(trigger.next_after(from), |&at| trigger.next_after(at))
            .take_while(|&at| at <= until)
            .collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn days_agree_over_years_and_centuries(fields in fields(), year in 1965_i32..2300) {
        let [_, _, day, month, weekday] = &fields;
        let expression = format!("0 0 {day} {month} {weekday}");
        let new = CronTrigger::new(vec![expression], Tz::UTC, DstGap::RunAfter, DstRepeat::Once);
        prop_assume!(new.is_ok());
        let trigger = new.unwrap();
        let oracle = Oracle::new(&["0".into(), "0".into(), day.clone(), month.clone(), weekday.clone()]);
        let first = NaiveDate::from_ymd_opt(year, 1, 1).unwrap();
        let expected: Vec<_> = first
            .iter_days()
            .skip(1)
            .take_while(|date| date.year() < year + 2)
            .map(|date| date.and_hms_opt(0, 0, 0).unwrap())
            .filter(|&wall| oracle.matches(wall))
            .map(|wall| wall.and_utc())
            .collect();
        let start = first.and_hms_opt(0, 0, 0).unwrap().and_utc();
        let found: Vec<_> = std::iter::successors(trigger.next_after(start), |&at| trigger.next_after(at))
            .take_while(|at| at.year() < year + 2)
            .collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn never_panics_and_never_goes_back(text in "[-0-9*/,LW#?@a-z ]{0,24}", seconds in -4_000_000_000_i64..9_000_000_000) {
        let zone = Tz::America__New_York;
        if let Ok(trigger) = CronTrigger::new(vec![text], zone, DstGap::Skip, DstRepeat::Twice) {
            let after = Utc.timestamp_opt(seconds, 0).unwrap();
            if let Some(next) = trigger.next_after(after) {
                prop_assert!(next > after);
            }
        }
    }
}
