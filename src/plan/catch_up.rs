//! Which of a job's overdue ticks are run, which are coalesced into another one, which are skipped
//! or missed.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Scheduled, SkipReason, Skipper, Verdict};
use crate::job::{
    CatchUp, Policy,
    blackout::{self, Stretch},
};

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

/// Some ticks in a row that are not run, for the same reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfired {
    /// What becomes of them.
    pub verdict: Verdict,
    /// Why, of skipped ones.
    pub reason: Option<SkipReason>,
    /// The ticks.
    pub span: Span,
}

/// What becomes of the ticks of one job in one step. Each tick is in exactly one place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// To be run, oldest first.
    pub fire: Vec<DateTime<Utc>>,
    /// Not to be run, oldest first. Coalesced ones are represented by the newest fired tick.
    pub unfired: Vec<Unfired>,
}

impl Decision {
    /// How many ticks are not run for this reason.
    pub fn count(&self, verdict: Verdict, reason: Option<SkipReason>) -> u64 {
        let unfired = self.unfired.iter();
        let kind = unfired.filter(|unfired| (unfired.verdict, unfired.reason) == (verdict, reason));
        kind.map(|unfired| unfired.span.count).sum()
    }

    fn push(&mut self, joined: Option<(Fate, Span)>) {
        self.unfired
            .extend(joined.map(|((verdict, reason), span)| Unfired {
                verdict,
                reason,
                span,
            }));
    }
}

/// A verdict that is none of `fired`, with its reason.
type Fate = (Verdict, Option<SkipReason>);

const MISSED: Fate = (Verdict::Missed, None);
const COALESCED: Fate = (Verdict::Coalesced, None);
const PAUSED: Fate = (Verdict::Skipped, Some(SkipReason::Paused));
const BLACKOUT: Fate = (Verdict::Skipped, Some(SkipReason::Blackout));

/// A part of the time that a step covers, with what becomes of its ticks that are not run.
#[derive(Debug, Clone, Copy)]
struct Part {
    after: DateTime<Utc>,
    until: DateTime<Utc>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing in particular.
    Open,
    /// The job is paused.
    Paused,
    /// The job was paused, and what may be run of it is to be run.
    MadeUpFor,
}

/// One tick, or some that need no further look.
enum Mark {
    Eligible(DateTime<Utc>, Kind),
    Unfired(Fate, Span),
}

/// As [`decide`], if `first` is the first tick in `(after, now]`; also returns the first tick later
/// than `now`. Nearly always there is but one tick, on time and with nothing in its way.
pub(super) fn decide_from(
    scheduled: &Scheduled,
    first: DateTime<Utc>,
    (after, now): (DateTime<Utc>, DateTime<Utc>),
) -> (Decision, Option<DateTime<Utc>>) {
    let following = scheduled.next_after(first);
    let is_only = following.is_none_or(|following| following > now);
    let policy = &scheduled.job.policy;
    let is_free = scheduled.paused.is_none() && policy.blackouts.is_empty();
    if is_only && is_free && first > after && first >= oldest_eligible(policy, now) {
        let decision = Decision {
            fire: vec![first],
            unfired: Vec::new(),
        };
        return (decision, following);
    }
    let following = match is_only {
        true => following,
        false => scheduled.next_after(now),
    };
    (decide(scheduled, after, now), following)
}

/// Decides on the ticks of `scheduled` in `(after, now]`, and on those that were passed over before and that are to be
/// made up for.
///
/// Ticks while the job is paused, and those whose runs would start in a blackout, are skipped.
/// Ticks older than the job's `catch_up_window` are missed. Of the others, `latest` runs the newest
/// and coalesces the rest into it, `all` runs the newest `max_catch_up` and misses the rest, `skip`
/// runs the newest if it is still on time and misses the rest; what was paused and is not made up
/// for stays skipped. Ticks that are too old are counted by arithmetic where the trigger allows it.
pub fn decide(scheduled: &Scheduled, after: DateTime<Utc>, now: DateTime<Utc>) -> Decision {
    let policy = &scheduled.job.policy;
    let oldest = oldest_eligible(policy, now);
    // What would start in a blackout now starts in it, whenever it was due.
    let closed = policy.blackouts.iter().any(|one| one.covers(now));
    let mut marks = Vec::new();
    for part in parts(scheduled, after, now) {
        if part.kind == Kind::Paused {
            let span = span(scheduled, part.after, part.until);
            marks.extend(span.map(|span| Mark::Unfired(PAUSED, span)));
            continue;
        }
        let start = overdue(scheduled, part, oldest, &mut marks);
        for tick in scheduled.between(start, part.until) {
            marks.push(match closed || scheduled.is_blacked_out(tick) {
                true => Mark::Unfired(BLACKOUT, Span::of(tick)),
                false => Mark::Eligible(tick, part.kind),
            });
        }
    }
    settle(policy, marks)
}

/// Chooses among the eligible ticks, and joins the neighbours among the others.
fn settle(policy: &Policy, marks: Vec<Mark>) -> Decision {
    let kept = match policy.catch_up {
        CatchUp::Skip | CatchUp::Latest => 1,
        CatchUp::All => policy.max_catch_up.max(1) as usize,
    };
    let eligible = marks
        .iter()
        .filter(|mark| matches!(mark, Mark::Eligible(..)));
    let mut surplus = eligible.count().saturating_sub(kept);
    let mut decision = Decision::default();
    let mut joined: Option<(Fate, Span)> = None;
    for mark in marks {
        let (fate, span) = match mark {
            Mark::Unfired(fate, span) => (fate, span),
            Mark::Eligible(tick, _) if surplus == 0 => {
                decision.push(joined.take());
                decision.fire.push(tick);
                continue;
            }
            Mark::Eligible(tick, kind) => {
                surplus -= 1;
                (rest(policy.catch_up, kind), Span::of(tick))
            }
        };
        joined = match joined {
            Some((before, earlier)) if before == fate => Some((fate, earlier.and(span))),
            other => {
                decision.push(other);
                Some((fate, span))
            }
        };
    }
    decision.push(joined);
    decision
}

/// What becomes of a tick that might have been run, had there not been newer ones.
fn rest(catch_up: CatchUp, kind: Kind) -> Fate {
    match (catch_up, kind) {
        (CatchUp::Latest, _) => COALESCED,
        (CatchUp::Skip | CatchUp::All, Kind::MadeUpFor) => PAUSED,
        (CatchUp::Skip | CatchUp::All, Kind::Open | Kind::Paused) => MISSED,
    }
}

/// Whether a tick is too old to be run at `now`.
pub fn is_too_late(policy: &Policy, tick: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    tick < oldest_eligible(policy, now)
}

/// Ticks before this are too old to be run at `now`.
fn oldest_eligible(policy: &Policy, now: DateTime<Utc>) -> DateTime<Utc> {
    let window = match policy.catch_up {
        CatchUp::Skip => policy.catch_up_window.get().min(ON_TIME),
        CatchUp::Latest | CatchUp::All => policy.catch_up_window.get(),
    };
    chrono::Duration::from_std(window)
        .ok()
        .and_then(|window| now.checked_sub_signed(window))
        .unwrap_or(DateTime::<Utc>::MIN_UTC)
}

/// The time to be decided on, cut where a pause begins or ends.
fn parts(scheduled: &Scheduled, after: DateTime<Utc>, now: DateTime<Utc>) -> Vec<Part> {
    let part = |after, until, kind| Part { after, until, kind };
    let pause = scheduled.paused.as_ref();
    let paused = pause.and_then(|pause| pause.within(after, now));
    let cut = match (scheduled.to_make_up, paused) {
        (Some(made_up), _) => {
            let until = made_up.until.min(now);
            let kind = match made_up.skipped_by {
                Skipper::Pause => Kind::MadeUpFor,
                Skipper::Absence => Kind::Open,
            };
            vec![
                part(after, made_up.from.min(now), Kind::Open),
                part(made_up.from, until, kind),
                part(until.max(after), now, Kind::Open),
            ]
        }
        (None, Some((from, to))) => vec![
            part(after, from, Kind::Open),
            part(from, to, Kind::Paused),
            part(to, now, Kind::Open),
        ],
        (None, None) => vec![part(after, now, Kind::Open)],
    };
    let cut = cut.into_iter();
    cut.filter(|part| part.after < part.until).collect()
}

/// Marks the ticks of a part that are older than `oldest`; returns where the eligible ones start.
fn overdue(
    scheduled: &Scheduled,
    part: Part,
    oldest: DateTime<Utc>,
    marks: &mut Vec<Mark>,
) -> DateTime<Utc> {
    let before = match just_before(oldest) {
        before if before > part.after => before.min(part.until),
        _ => return part.after,
    };
    let late = match part.kind {
        Kind::Open | Kind::Paused => MISSED,
        Kind::MadeUpFor => PAUSED,
    };
    let blackouts = &scheduled.job.policy.blackouts;
    let mut mark = |fate: Fate, after, until| {
        let span = span(scheduled, after, until);
        marks.extend(span.map(|span| Mark::Unfired(fate, span)));
    };
    let mut at = part.after;
    let closed = blackout::stretches(blackouts, part.after, before);
    for (begins, ends) in closed.into_iter().map(ticks_of) {
        let begins = begins.clamp(at, before);
        let ends = ends.clamp(begins, before);
        mark(late, at, begins);
        mark(BLACKOUT, begins, ends);
        at = ends;
    }
    mark(late, at, before);
    before
}

/// The bounds of the ticks in a stretch: the first is excluded, the second included.
fn ticks_of((begins, ends): Stretch) -> (DateTime<Utc>, DateTime<Utc>) {
    (just_before(begins), just_before(ends))
}

fn just_before(at: DateTime<Utc>) -> DateTime<Utc> {
    at.checked_sub_signed(chrono::Duration::nanoseconds(1))
        .unwrap_or(at)
}

/// The ticks in `(after, until]`, counted by arithmetic where the trigger allows it.
fn span(scheduled: &Scheduled, after: DateTime<Utc>, until: DateTime<Utc>) -> Option<Span> {
    if until <= after {
        return None;
    }
    let count = scheduled.count_between(after, until);
    let first = scheduled.next_after(after)?;
    (count > 0).then(|| Span {
        count,
        first,
        last: scheduled.last_before(first, until),
    })
}

impl Span {
    fn of(tick: DateTime<Utc>) -> Self {
        Self {
            count: 1,
            first: tick,
            last: tick,
        }
    }

    fn and(self, later: Self) -> Self {
        Self {
            count: self.count + later.count,
            last: later.last,
            ..self
        }
    }
}

#[cfg(test)]
mod tests;
