//! Which of a job's overdue ticks are run, which are coalesced into another one, which are missed.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Scheduled;
use crate::job::CatchUp;

/// A tick that is carried out within this time is on time: `catch_up = "skip"` still runs it.
pub const ON_TIME: Duration = Duration::from_secs(60);

/// Some ticks in a row that share a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: DateTime<Utc>,
    /// The last of them.
    pub last: DateTime<Utc>,
}

impl Span {
    fn extend(span: &mut Option<Self>, tick: DateTime<Utc>) {
        let grown = match span.take() {
            Some(span) => Self {
                count: span.count + 1,
                last: tick,
                ..span
            },
            None => Self {
                count: 1,
                first: tick,
                last: tick,
            },
        };
        *span = Some(grown);
    }
}

/// What becomes of the ticks of one job in one step. Each tick is in exactly one of the four.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// To be run, oldest first.
    pub fire: Vec<DateTime<Utc>>,
    /// Represented by the newest fired tick.
    pub coalesced: Option<Span>,
    /// Too late, or too many.
    pub missed: Option<Span>,
    /// The job was paused.
    pub paused: Option<Span>,
}

/// Decides on the ticks of `scheduled` in `(after, now]`.
///
/// Ticks older than the job's `catch_up_window` are missed. Of the others, `latest` runs the newest
/// and coalesces the rest into it, `all` runs the newest `max_catch_up` and misses the rest, `skip`
/// runs the newest if it is still on time and misses the rest. Missed ticks are counted by
/// arithmetic where the trigger allows it.
pub fn decide(scheduled: &Scheduled, after: DateTime<Utc>, now: DateTime<Utc>) -> Decision {
    let policy = &scheduled.job.policy;
    let window = match policy.catch_up {
        CatchUp::Skip => policy.catch_up_window.get().min(ON_TIME),
        CatchUp::Latest | CatchUp::All => policy.catch_up_window.get(),
    };
    let mut decision = Decision::default();
    let oldest = chrono::Duration::from_std(window)
        .ok()
        .and_then(|window| now.checked_sub_signed(window))
        .unwrap_or(DateTime::<Utc>::MIN_UTC);
    let mut eligible = Vec::new();
    for (from, to) in unpaused(scheduled, after, now, &mut decision) {
        let start = overdue(scheduled, from, to, oldest, &mut decision);
        eligible.extend(scheduled.between(start, to));
    }
    let kept = match policy.catch_up {
        CatchUp::Skip | CatchUp::Latest => 1,
        CatchUp::All => policy.max_catch_up.max(1) as usize,
    };
    decision.fire = eligible.split_off(eligible.len().saturating_sub(kept));
    let rest = match policy.catch_up {
        CatchUp::Latest => &mut decision.coalesced,
        CatchUp::Skip | CatchUp::All => &mut decision.missed,
    };
    for tick in eligible {
        Span::extend(rest, tick);
    }
    decision
}

/// The parts of `(after, now]` in which the job was not paused; notes the ticks of the others.
fn unpaused(
    scheduled: &Scheduled,
    after: DateTime<Utc>,
    now: DateTime<Utc>,
    decision: &mut Decision,
) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let paused = scheduled.paused.as_ref();
    let Some((from, to)) = paused.and_then(|pause| pause.within(after, now)) else {
        return vec![(after, now)];
    };
    decision.paused = span(scheduled, from, to);
    let around = [(after, from), (to, now)];
    around.into_iter().filter(|(from, to)| from < to).collect()
}

/// Notes the ticks in `(after, until]` that are older than `oldest` as missed; returns where the
/// eligible ones start.
fn overdue(
    scheduled: &Scheduled,
    after: DateTime<Utc>,
    until: DateTime<Utc>,
    oldest: DateTime<Utc>,
    decision: &mut Decision,
) -> DateTime<Utc> {
    let before = match oldest.checked_sub_signed(chrono::Duration::nanoseconds(1)) {
        Some(before) if before > after => before.min(until),
        Some(_) | None => return after,
    };
    if let Some(missed) = span(scheduled, after, before) {
        decision.missed = Some(match decision.missed {
            Some(earlier) => Span {
                count: earlier.count + missed.count,
                first: earlier.first,
                last: missed.last,
            },
            None => missed,
        });
    }
    before
}

/// The ticks in `(after, until]`, counted by arithmetic where the trigger allows it.
fn span(scheduled: &Scheduled, after: DateTime<Utc>, until: DateTime<Utc>) -> Option<Span> {
    let count = scheduled.count_between(after, until);
    let first = scheduled.next_after(after)?;
    (count > 0).then(|| Span {
        count,
        first,
        last: scheduled.last_before(first, until),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        job::{Execute, Job, Policy, RunSpec, Seconds, Trigger, interval::Interval},
        plan::JobState,
    };

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-11-23T{text}Z").parse().unwrap()
    }

    fn every(seconds: u64, catch_up: CatchUp, window: u64) -> Scheduled {
        let job = Job {
            name: "crawl".parse().unwrap(),
            description: None,
            tags: Vec::new(),
            enabled: true,
            trigger: Trigger::Every(Interval::new(seconds, 0).unwrap()),
            timezone: chrono_tz::UTC,
            queue: "default".parse().unwrap(),
            policy: Policy {
                catch_up,
                catch_up_window: Seconds::from_secs(window),
                max_catch_up: 3,
                ..Policy::default()
            },
            spec: RunSpec::new(Execute::Shell("true".to_owned())),
        };
        let state = JobState::first_seen(&job, at("00:00:00"), at("00:00:00"));
        Scheduled::new(Arc::new(job), &state)
    }

    fn times(ticks: &[DateTime<Utc>]) -> Vec<String> {
        ticks
            .iter()
            .map(|t| t.format("%H:%M:%S").to_string())
            .collect()
    }

    #[test]
    fn a_tick_on_time_fires_under_every_policy() {
        for catch_up in [CatchUp::Skip, CatchUp::Latest, CatchUp::All] {
            let job = every(600, catch_up, 3600);
            let decision = decide(&job, at("10:00:00"), at("10:10:00.3"));
            assert_eq!(times(&decision.fire), ["10:10:00"]);
            assert_eq!((decision.coalesced, decision.missed), (None, None));
        }
    }

    #[test]
    fn after_a_downtime_the_newest_runs_and_the_rest_is_accounted_for() {
        let job = every(600, CatchUp::Latest, 3600);
        let decision = decide(&job, at("05:00:00"), at("10:05:00"));
        assert_eq!(times(&decision.fire), ["10:00:00"]);
        let coalesced = decision.coalesced.unwrap();
        assert_eq!(
            (coalesced.count, coalesced.first, coalesced.last),
            (5, at("09:10:00"), at("09:50:00"))
        );
        let missed = decision.missed.unwrap();
        assert_eq!(
            (missed.count, missed.first, missed.last),
            (24, at("05:10:00"), at("09:00:00"))
        );
    }

    #[test]
    fn nothing_older_than_the_window_runs() {
        let job = every(4 * 3600, CatchUp::Latest, 3600);
        let decision = decide(&job, at("07:00:00"), at("09:30:00"));
        assert!(decision.fire.is_empty());
        assert_eq!(decision.missed.unwrap().count, 1);
        let just = decide(&job, at("07:00:00"), at("09:00:00"));
        assert_eq!(times(&just.fire), ["08:00:00"]);
    }

    #[test]
    fn all_is_bounded_and_oldest_first() {
        let job = every(600, CatchUp::All, 3600);
        let decision = decide(&job, at("09:05:00"), at("10:05:00"));
        assert_eq!(times(&decision.fire), ["09:40:00", "09:50:00", "10:00:00"]);
        assert_eq!(decision.missed.unwrap().count, 3);
        assert_eq!(decision.coalesced, None);
    }

    #[test]
    fn a_pause_skips_its_ticks_and_no_others() {
        let mut job = every(600, CatchUp::All, 3600);
        job.paused = Some(crate::plan::Pause {
            since: at("09:15:00"),
            until: Some(at("09:35:00")),
            reason: None,
        });
        let decision = decide(&job, at("08:05:00"), at("10:05:00"));
        // 08:10 … 09:00 are too old, 09:10 is one too many.
        assert_eq!(times(&decision.fire), ["09:40:00", "09:50:00", "10:00:00"]);
        assert_eq!(decision.missed.unwrap().count, 7);
        let paused = decision.paused.unwrap();
        assert_eq!(
            (paused.count, paused.first, paused.last),
            (2, at("09:20:00"), at("09:30:00"))
        );
        job.paused = Some(crate::plan::Pause {
            since: at("07:00:00"),
            until: None,
            reason: None,
        });
        let decision = decide(&job, at("05:05:00"), at("10:05:00"));
        assert!(decision.fire.is_empty());
        assert_eq!(decision.missed.unwrap().count, 12);
        assert_eq!(decision.paused.unwrap().count, 18);
    }

    #[test]
    fn skip_misses_what_is_late() {
        let job = every(600, CatchUp::Skip, 3600);
        let decision = decide(&job, at("09:05:00"), at("10:05:00"));
        assert!(decision.fire.is_empty());
        assert_eq!(decision.missed.unwrap().count, 6);
    }

    #[test]
    fn every_tick_is_in_exactly_one_place() {
        for catch_up in [CatchUp::Skip, CatchUp::Latest, CatchUp::All] {
            for (step, window) in [(7, 100), (60, 60), (600, 86_400), (3600, 1)] {
                let job = every(step, catch_up, window);
                let (after, now) = (at("01:23:45"), at("10:00:00"));
                let decision = decide(&job, after, now);
                let count = |span: Option<Span>| span.map_or(0, |span| span.count);
                let accounted =
                    decision.fire.len() as u64 + count(decision.coalesced) + count(decision.missed);
                assert_eq!(
                    accounted,
                    job.count_between(after, now),
                    "{catch_up:?} {step}"
                );
            }
        }
    }
}
