//! What a change of the clock does to an expression's times.
//!
//! Up to three hours it is daylight saving: fixed times skipped by it run once at the first instant
//! after the gap, fixed times in a repeated hour run on the first pass only; wild ones follow the
//! wall clock. A longer change (Apia crossed the date line on 2011-12-30) is a new calendar: what it
//! skips is lost, what it repeats is repeated.

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};

use super::{DstGap, DstRepeat, parse::Clock, walk::Walker};

/// The longest change that is daylight saving.
const LIMIT: TimeDelta = TimeDelta::hours(3);

const SECOND: TimeDelta = TimeDelta::seconds(1);

/// How an expression behaves at changes of the clock.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub(super) clock: Clock,
    pub(super) gap: DstGap,
    pub(super) repeat: DstRepeat,
}

/// Where a reading of the wall clock lies in time.
enum Place {
    Once(DateTime<Utc>),
    Twice(DateTime<Utc>, DateTime<Utc>),
    Skipped(Change),
}

/// One change of the clock, with the readings on both sides of it.
#[derive(Clone, Copy)]
struct Change {
    at: DateTime<Utc>,
    before: NaiveDateTime,
    after: NaiveDateTime,
}

impl Change {
    fn is_daylight_saving(&self) -> bool {
        (self.after - self.before).abs() <= LIMIT
    }
}

/// The first instant later than `after` at which the walker's times come round in the zone.
pub(super) fn next_after(
    walker: &Walker,
    rules: Rules,
    zone: Tz,
    after: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let mut wall = reading(zone, after);
    // While on the first pass of a repeated hour: the change that will repeat it.
    let mut repeat = match place(zone, wall)? {
        Place::Twice(first, second) if after < second => {
            change_between(zone, first, second).filter(|change| rules.repeats(change))
        }
        Place::Twice(..) | Place::Once(_) | Place::Skipped(_) => None,
    };
    loop {
        let found = walker.next_after(wall);
        if let Some(change) = repeat.take_if(|change| found.is_none_or(|at| at >= change.before)) {
            // The first pass has nothing more: the second begins.
            let found = walker.next_after(change.after - SECOND)?;
            if found < change.before {
                return Some(change.at + (found - change.after));
            }
            wall = change.before - SECOND;
            continue;
        }
        let found = found?;
        wall = match place(zone, found)? {
            Place::Once(at) => return Some(at),
            Place::Twice(first, _) if first > after => return Some(first),
            Place::Twice(first, second) => match change_between(zone, first, second) {
                Some(change) if !rules.repeats(&change) => change.before - SECOND,
                Some(_) | None => return Some(second),
            },
            Place::Skipped(change) if rules.makes_up(&change) => return Some(change.at),
            Place::Skipped(change) => change.after - SECOND,
        };
    }
}

impl Rules {
    /// Whether both passes of a repeated hour count.
    fn repeats(self, change: &Change) -> bool {
        match (self.clock, self.repeat) {
            (Clock::Wild, _) | (Clock::Fixed, DstRepeat::Twice) => true,
            (Clock::Fixed, DstRepeat::Once) => !change.is_daylight_saving(),
        }
    }

    /// Whether skipped times run after the gap.
    fn makes_up(self, change: &Change) -> bool {
        match (self.clock, self.gap) {
            (Clock::Fixed, DstGap::RunAfter) => change.is_daylight_saving(),
            (Clock::Fixed, DstGap::Skip) | (Clock::Wild, _) => false,
        }
    }
}

fn reading(zone: Tz, at: DateTime<Utc>) -> NaiveDateTime {
    at.with_timezone(&zone).naive_local()
}

fn place(zone: Tz, wall: NaiveDateTime) -> Option<Place> {
    Some(match zone.from_local_datetime(&wall) {
        MappedLocalTime::Single(at) => Place::Once(at.to_utc()),
        MappedLocalTime::Ambiguous(first, second) => Place::Twice(
            first.to_utc().min(second.to_utc()),
            first.to_utc().max(second.to_utc()),
        ),
        MappedLocalTime::None => {
            let (before, offset) = GapInfo::new(&wall, &zone)?.begin?;
            let at = (before - offset.fix()).and_utc();
            Place::Skipped(Change {
                at,
                before,
                after: reading(zone, at),
            })
        }
    })
}

/// The change between the two instants at which one reading came round.
fn change_between(zone: Tz, first: DateTime<Utc>, second: DateTime<Utc>) -> Option<Change> {
    let offset = |at: DateTime<Utc>| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    let old = offset(first);
    let (mut low, mut high) = (first.timestamp(), second.timestamp());
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match offset(DateTime::from_timestamp(middle, 0)?) == old {
            true => low = middle,
            false => high = middle,
        }
    }
    let at = DateTime::from_timestamp(high, 0)?;
    Some(Change {
        at,
        before: at.naive_utc() + old,
        after: reading(zone, at),
    })
}
