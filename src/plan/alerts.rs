//! What a webhook is to be told of a job: a function of how the job stands and of what was told before.
//!
//! Nothing is queued: as long as it was not told, it follows from the state again, also on another beat.
//! Hence a message may come twice, and of several runs that ended since the last message only the newest
//! is told.

mod bring_back;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{JobState, Pause, Verdict};
use crate::{
    job::{Event, Job, JobName, Seconds},
    run::{LastRun, RunId, RunState},
};

/// The prefix of the keys `told.WEBHOOK.JOB` in the state bucket, which hold [`Told`], and of the keys
/// `told.WEBHOOK`, which hold [`Briefing`].
pub const TOLD_PREFIX: &str = "told.";

/// From where on a webhook is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Briefing {
    /// What happened before is not told.
    pub since: DateTime<Utc>,
    /// The sequence of the last dead letter that was told or that was there already.
    pub last_letter: u64,
}

/// What a webhook was told of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The end of the newest run that was told, or that needed no telling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    /// Missed ticks were told up to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed_until: Option<DateTime<Utc>>,
    /// The pause that was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_since: Option<DateTime<Utc>>,
    /// The end of the first run that failed since the last success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<DateTime<Utc>>,
    /// From when on it was overdue, if it was told so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue_since: Option<DateTime<Utc>>,
    /// When it was told last that it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_told_at: Option<DateTime<Utc>>,
    /// When it was told last that it is overdue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue_told_at: Option<DateTime<Utc>>,
}

/// How a job stands.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Its definition.
    pub job: &'a Job,
    /// Its last run.
    pub last: Option<&'a LastRun>,
    /// What beat remembers of it.
    pub state: Option<&'a JobState>,
    /// Its pause, over or not.
    pub pause: Option<&'a Pause>,
}

/// A message for a webhook. Its JSON form is a contract.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alert {
    /// What happened.
    pub event: Event,
    /// To which job; absent where a message could not be understood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobName>,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The same in words.
    pub text: String,
    /// The run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// How its program ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many ticks were missed, or letters there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// From when: of the first failure, the first missed tick, the pause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Until when: the last missed tick, the end of the pause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// When it succeeded last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success: Option<DateTime<Utc>>,
}

impl Alert {
    /// An alert without particulars.
    pub fn new(event: Event, job: Option<&JobName>, at: DateTime<Utc>, text: String) -> Self {
        Self {
            event,
            job: job.cloned(),
            at,
            text,
            run_id: None,
            exit: None,
            reason: None,
            count: None,
            since: None,
            until: None,
            last_success: None,
        }
    }
}

/// What is to be told next, and what was told thereafter. `None` for the first: nothing needs to be told,
/// but the second has changed.
pub type Next = (Option<Alert>, Told);

impl Standing<'_> {
    /// What a webhook that hears of what happened after `since` is to be told next, if anything is new.
    /// A failure, or being overdue, is told again after `repeat` at the soonest.
    pub fn news(
        &self,
        told: &Told,
        since: DateTime<Utc>,
        repeat: Seconds,
        now: DateTime<Utc>,
    ) -> Option<Next> {
        let again = |at: Option<DateTime<Utc>>| {
            at.is_none_or(|at| (now - at).to_std().is_ok_and(|past| past >= repeat.get()))
        };
        self.ended(told, since, again(told.failure_told_at), now)
            .or_else(|| self.missed(told, since))
            .or_else(|| self.paused(told, since, now))
            .or_else(|| self.overdue(told, again(told.overdue_told_at), now))
    }

    fn alert(&self, event: Event, at: DateTime<Utc>, text: String) -> Alert {
        let success = self.last.and_then(|last| last.last_success.as_ref());
        Alert {
            last_success: success.map(|success| success.finished_at),
            ..Alert::new(event, Some(&self.job.name), at, text)
        }
    }

    fn ended(
        &self,
        told: &Told,
        since: DateTime<Utc>,
        may_tell: bool,
        now: DateTime<Utc>,
    ) -> Option<Next> {
        let last = self.last.filter(|last| last.state.is_final())?;
        let at = last.finished_at?;
        if !is_new(at, told.ended_at, since, now) {
            return None;
        }
        let mut next = Told {
            ended_at: Some(at),
            ..told.clone()
        };
        let name = &self.job.name;
        let told_now = |alert: Alert| Alert {
            run_id: Some(last.run_id.clone()),
            exit: last.exit.clone(),
            ..alert
        };
        let how = last.exit.as_deref().unwrap_or("it was not started in time");
        match last.state {
            RunState::Succeeded => {
                let failing = next.failing_since.take();
                let overdue = next.overdue_since.take();
                next.failure_told_at = None;
                next.overdue_told_at = None;
                let bad_since = failing.into_iter().chain(overdue).min();
                let alert = bad_since.map(|bad_since| {
                    let text = format!("{name} recovered: {} succeeded", last.run_id);
                    Alert {
                        since: Some(bad_since),
                        ..told_now(self.alert(Event::Recovered, at, text))
                    }
                });
                Some((alert, next))
            }
            RunState::Failed | RunState::Expired => {
                let failing_since = *next.failing_since.get_or_insert(at);
                if !may_tell {
                    return Some((None, next));
                }
                next.failure_told_at = Some(now);
                let text = format!("{name} failed: {} ({how})", last.run_id);
                let alert = Alert {
                    since: Some(failing_since),
                    ..told_now(self.alert(Event::Failed, at, text))
                };
                Some((Some(alert), next))
            }
            // Its letter is told.
            RunState::Dead => {
                next.failing_since.get_or_insert(at);
                Some((None, next))
            }
            RunState::Cancelled | RunState::Queued | RunState::Running | RunState::Retrying => {
                Some((None, next))
            }
        }
    }

    fn missed(&self, told: &Told, since: DateTime<Utc>) -> Option<Next> {
        let from = told.missed_until.unwrap_or(since);
        let notes = &self.state?.ledger.notes;
        let missed = notes.iter().filter(|note| note.verdict == Verdict::Missed);
        let new = missed.filter(|note| note.down_to > Some(from));
        let (mut count, mut span, mut noticed_at) = (0, None, from);
        for note in new {
            count = note.count.saturating_add(count);
            let (first, _) = span.unwrap_or((note.first, note.last));
            span = Some((first.min(note.first), note.last));
            noticed_at = noticed_at.max(note.down_to?);
        }
        let (first, last) = span?;
        let name = &self.job.name;
        let text = match count {
            1 => format!("{name} missed its tick at {}", second(first)),
            _ => format!(
                "{name} missed {count} ticks from {} to {}",
                second(first),
                second(last)
            ),
        };
        let alert = Alert {
            count: Some(count),
            since: Some(first),
            until: Some(last),
            ..self.alert(Event::Missed, noticed_at, text)
        };
        let next = Told {
            missed_until: Some(noticed_at),
            ..told.clone()
        };
        Some((Some(alert), next))
    }

    fn paused(&self, told: &Told, since: DateTime<Utc>, now: DateTime<Utc>) -> Option<Next> {
        let pause = self.pause?;
        if !is_new(pause.since, told.paused_since, since, now) || !pause.covers(now) {
            return None;
        }
        let name = &self.job.name;
        let mut text = format!("{name} is paused");
        if let Some(until) = pause.until {
            text.push_str(&format!(" until {}", second(until)));
        }
        if let Some(reason) = &pause.reason {
            text.push_str(&format!(": {reason}"));
        }
        let alert = Alert {
            reason: pause.reason.clone(),
            since: Some(pause.since),
            until: pause.until,
            ..self.alert(Event::Paused, pause.since, text)
        };
        let next = Told {
            paused_since: Some(pause.since),
            ..told.clone()
        };
        Some((Some(alert), next))
    }

    fn overdue(&self, told: &Told, may_tell: bool, now: DateTime<Utc>) -> Option<Next> {
        let overdue_since = self.overdue_since(now)?;
        if !may_tell {
            return None;
        }
        let limit = self.job.policy.alert_if_no_success_for?;
        let success = self.last.and_then(|last| last.last_success.as_ref());
        let name = &self.job.name;
        let text = match success {
            Some(success) => format!(
                "{name} has not succeeded for {limit}: its last success was at {}",
                second(success.finished_at)
            ),
            None => format!("{name} has not succeeded for {limit}"),
        };
        let alert = Alert {
            since: Some(overdue_since),
            ..self.alert(Event::Overdue, now, text)
        };
        let next = Told {
            overdue_since: Some(overdue_since),
            overdue_told_at: Some(now),
            ..told.clone()
        };
        Some((Some(alert), next))
    }

    /// Since when the job has gone without a success for longer than it should; `None`: it has not. The
    /// time counts from its last success, from when its trigger was defined, and from the end of a pause.
    pub fn overdue_since(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let limit = self.job.policy.alert_if_no_success_for?;
        let state = self.state?;
        if !self.job.enabled || self.pause.is_some_and(|pause| pause.covers(now)) {
            return None;
        }
        let success = self.last.and_then(|last| last.last_success.as_ref());
        let success = success.map(|success| success.finished_at);
        let limit = chrono::Duration::from_std(limit.get()).ok()?;
        // One of a time to come may be off by a clock, but puts the alarm off once at most.
        let success = success.filter(|at| *at - now <= limit);
        let resumed = self.pause.and_then(|pause| pause.until);
        let from = state.defined_at().max(success.unwrap_or_default());
        let from = from.max(resumed.unwrap_or_default());
        let since = from.checked_add_signed(limit)?;
        (since <= now).then_some(since)
    }
}

/// Whether something that happened `at` comes after what was told last, or else `since`.
fn is_new(
    at: DateTime<Utc>,
    told: Option<DateTime<Utc>>,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> bool {
    match told {
        // Told by a clock that was ahead, or made up: what came since seems to be older.
        Some(told) if told > now => at != told,
        Some(told) => at > told,
        None => at > since,
    }
}

fn second(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests;
