//! Blackouts: stretches of time in which the jobs that name them do not run.

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

use super::{BlackoutName, Seconds, cron::CronTrigger};

/// So many repetitions are walked through at a time: two and a half centuries of nightly ones.
const AT_MOST: usize = 100_000;

/// One `[blackout.NAME]`, as a part of every job that names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Blackout {
    /// Unique over all files.
    pub name: BlackoutName,
    /// When.
    pub when: When,
}

/// When a blackout is in force: from a beginning, which belongs to it, to an end, which does not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Once.
    Range {
        /// Its beginning.
        from: DateTime<Utc>,
        /// Its end.
        to: DateTime<Utc>,
    },
    /// Again and again.
    Repeated {
        /// The beginnings.
        cron: CronTrigger,
        /// How long each time.
        duration: Seconds,
    },
}

/// A stretch of time: its beginning belongs to it, its end does not.
pub type Stretch = (DateTime<Utc>, DateTime<Utc>);

impl Blackout {
    /// Whether it is in force at `at`.
    pub fn covers(&self, at: DateTime<Utc>) -> bool {
        self.stretch_after(at).is_some_and(|(from, _)| from <= at)
    }

    /// The stretches that reach into `[from, to)`, one after the other, as far as they overlap in
    /// one; of very many the first hundred thousand.
    pub fn stretches(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<Stretch> {
        let mut found: Vec<Stretch> = Vec::new();
        let first = self.stretch_after(from);
        let each = std::iter::successors(first, |(_, ends)| self.stretch_after(*ends));
        for (begins, ends) in each.take_while(|(begins, _)| *begins < to).take(AT_MOST) {
            match found.last_mut() {
                Some(last) if begins <= last.1 => last.1 = ends,
                Some(_) | None => found.push((begins, ends)),
            }
        }
        found
    }

    /// The first stretch that ends later than `at`. Repetitions that overlap are told one by one.
    fn stretch_after(&self, at: DateTime<Utc>) -> Option<Stretch> {
        match &self.when {
            When::Range { from, to } => (at < *to).then_some((*from, *to)),
            When::Repeated { cron, duration } => {
                let duration = Duration::from_std(duration.get()).ok()?;
                let begins = cron.next_after(at.checked_sub_signed(duration)?)?;
                Some((begins, begins.checked_add_signed(duration)?))
            }
        }
    }
}

/// The stretches of all blackouts that reach into `[from, to)`, in the order of time and apart from
/// each other.
pub fn stretches(blackouts: &[Blackout], from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<Stretch> {
    let each = blackouts.iter();
    let mut all: Vec<_> = each.flat_map(|one| one.stretches(from, to)).collect();
    all.sort_unstable();
    let mut apart: Vec<Stretch> = Vec::with_capacity(all.len());
    for (begins, ends) in all {
        match apart.last_mut() {
            Some(last) if begins <= last.1 => last.1 = last.1.max(ends),
            Some(_) | None => apart.push((begins, ends)),
        }
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-11-{text}Z").parse().unwrap()
    }

    fn nightly(minutes: u64) -> Blackout {
        let cron = vec!["0 2 * * *".to_owned()];
        let cron = CronTrigger::new(cron, chrono_tz::UTC, Default::default(), Default::default());
        Blackout {
            name: "nightly".parse().unwrap(),
            when: When::Repeated {
                cron: cron.unwrap(),
                duration: Seconds::from_secs(minutes * 60),
            },
        }
    }

    fn range(from: &str, to: &str) -> Blackout {
        Blackout {
            name: "fair".parse().unwrap(),
            when: When::Range {
                from: at(from),
                to: at(to),
            },
        }
    }

    #[test]
    fn the_beginning_belongs_to_it_and_the_end_does_not() {
        for blackout in [nightly(60), range("23T02:00:00", "23T03:00:00")] {
            let covers = |text| blackout.covers(at(text));
            assert!(!covers("23T01:59:59"));
            assert!(covers("23T02:00:00") && covers("23T02:59:59"));
            assert!(!covers("23T03:00:00"));
        }
        assert!(nightly(60).covers(at("24T02:30:00")));
        assert!(!range("23T02:00:00", "23T03:00:00").covers(at("24T02:30:00")));
    }

    #[test]
    fn stretches_are_apart_and_in_order() {
        let all = [
            nightly(60),
            range("24T01:00:00", "24T02:10:00"),
            range("24T05:00:00", "24T06:00:00"),
        ];
        let found = stretches(&all, at("23T02:30:00"), at("25T02:00:00"));
        let expected = [
            (at("23T02:00:00"), at("23T03:00:00")),
            (at("24T01:00:00"), at("24T03:00:00")),
            (at("24T05:00:00"), at("24T06:00:00")),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn years_of_seconds_are_not_walked_through() {
        let cron = vec!["* * * * * *".to_owned()];
        let cron = CronTrigger::new(cron, chrono_tz::UTC, Default::default(), Default::default());
        let always = Blackout {
            name: "always".parse().unwrap(),
            when: When::Repeated {
                cron: cron.unwrap(),
                duration: Seconds::from_secs(1),
            },
        };
        let from = at("23T00:00:00");
        let found = always.stretches(from, from + Duration::days(3660));
        assert_eq!(found, [(from, from + Duration::seconds(AT_MOST as i64))]);
    }

    #[test]
    fn one_that_never_ends_is_one_stretch() {
        let always = nightly(25 * 60);
        let found = always.stretches(at("20T00:00:00"), at("23T00:00:00"));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1, at("23T03:00:00"));
    }
}
