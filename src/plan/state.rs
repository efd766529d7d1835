//! What beat remembers of each job: from when and where its trigger counts, whether it is paused, and
//! what became of the ticks that were not run.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Gap, JobStep, Ledger, MakeUp, Pause, Skipper, Undecided, Verdict, VerdictNote,
    edited::{has_tick, ticks_in_common},
};
use crate::{
    job::{Anchor, FirstRun, Job, QueueName},
    run::{Past, latest},
};

/// How many former queues of a job are remembered.
const KEPT_QUEUES: usize = 4;
/// How long what is known of a job is kept after it was removed from the schedules: a mistake is noticed by then.
const KEPT_WHEN_GONE: TimeDelta = TimeDelta::days(7);
/// A job that is back so soon was not meant to go, as when a beat with other files led for a moment: its ticks are made
/// up for.
const SLIP: TimeDelta = TimeDelta::minutes(10);

/// What beat remembers of a job. Small, and written only when something unusual happens: runs are
/// remembered by their records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobState {
    /// [`Job::fingerprint`] when it last changed.
    pub fingerprint: String,
    /// When the job was first seen.
    pub first_seen: DateTime<Utc>,
    /// Ticks at or before this do not count: the trigger was defined, edited, enabled or anchored
    /// anew then.
    pub counts_from: DateTime<Utc>,
    /// When the trigger was defined, edited or enabled, if it was anchored anew since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defined_at: Option<DateTime<Utc>>,
    /// The queue of its runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueName>,
    /// The queues that it had before, the last one first: one of its runs may still be live there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_queues: Vec<QueueName>,
    /// Where the grid of an interval starts that counts from a run: a whole second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchored_at: Option<DateTime<Utc>>,
    /// The last pause, over or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
    /// The ticks that the pause skipped and that the next step is to make up for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_make_up: Option<MakeUp>,
    /// The additional tick of `first_run = "now"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_run_at: Option<DateTime<Utc>>,
    /// Ticks at or before `counts_from` that count all the same: the trigger was edited before they were decided on, and
    /// has them before and after. Oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carried: Vec<DateTime<Utc>>,
    /// The job is defined no longer: its ticks were decided on up to here. It may come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_since: Option<DateTime<Utc>>,
    /// The ticks on which nobody decided, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// The counters below include the ticks up to here, so that a repeated step adds nothing.
    pub as_of: DateTime<Utc>,
    /// What became of the ticks that were not run.
    #[serde(flatten)]
    pub ledger: Ledger,
}

impl JobState {
    /// The state of a job that was never seen before. `watermark` is beat's: no tick at or before
    /// it may come into being.
    pub fn first_seen(job: &Job, now: DateTime<Utc>, watermark: DateTime<Utc>) -> Self {
        let from = whole_second(now).max(watermark);
        let runs_now = job.enabled && job.policy.first_run == FirstRun::Now;
        Self {
            fingerprint: job.fingerprint(),
            first_seen: now,
            counts_from: from,
            defined_at: None,
            queue: Some(job.queue.clone()),
            left_queues: Vec::new(),
            anchored_at: None,
            paused: None,
            to_make_up: None,
            first_run_at: runs_now.then(|| whole_second_after(from)),
            carried: Vec::new(),
            gone_since: None,
            gaps: Vec::new(),
            as_of: from,
            ledger: Ledger::default(),
        }
    }

    /// The state after the job's definition was read again: an edited trigger or a job that was
    /// enabled again counts from now, another queue is remembered beside the old one, one that comes back
    /// goes on as before, anything else changes nothing. `None`: no change.
    ///
    /// Of the ticks since `watermark` an edit takes none away that the job has by the definition `before` as well: they
    /// were to be decided on, and still are.
    #[must_use]
    pub fn redefined(
        &self,
        (before, job): (Option<&Job>, &Job),
        now: DateTime<Utc>,
        watermark: DateTime<Utc>,
    ) -> Option<Self> {
        let mut next = self.clone();
        next.move_to(&job.queue);
        let gone_since = next.gone_since.take();
        let fingerprint = job.fingerprint();
        if fingerprint != self.fingerprint {
            next.fingerprint = fingerprint;
            next.counts_from = whole_second(now).max(watermark);
            next.defined_at = None;
            next.first_run_at = None;
            next.anchored_at = None;
            next.give_up_making_up();
            if let Some(gone_since) = gone_since {
                next.leave_out((gone_since, watermark), Undecided::Removed);
            }
            let before = before.filter(|before| before.fingerprint() == self.fingerprint);
            let undecided = (watermark.max(self.counts_from), next.counts_from);
            // Those that an edit before this one has carried over, and nobody has decided on since.
            next.carried
                .retain(|tick| *tick > watermark && has_tick(job, *tick));
            let common = before.map(|before| ticks_in_common((before, job), undecided));
            next.carried.extend(common.unwrap_or_default());
        } else if let Some(gone_since) = gone_since {
            next.come_back(gone_since, watermark);
        }
        (next != *self).then_some(next)
    }

    /// The state after what was heard of the job: its pause, and its runs. `None`: no change.
    ///
    /// A run of a time to come anchors nothing: whoever told of it has a clock that is wrong, or lies. Else the job
    /// would have no tick until then.
    ///
    /// To be applied between two steps only, so that a repeated step decides as the first time.
    #[must_use]
    pub fn heard(
        &self,
        job: &Job,
        (pause, past): (Option<&Pause>, Option<&Past>),
        watermark: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        let mut next = self.clone();
        let anchor = job.trigger.anchor();
        let told = past.and_then(|past| past.anchored(anchor));
        // By a clock that was set back, what is past may seem to come.
        let latest = latest(now.max(watermark));
        let has_been = |at: &DateTime<Utc>| *at <= latest;
        // What was known stays, should the last run have been forgotten.
        next.anchored_at = match anchor {
            Anchor::Epoch => None,
            Anchor::LastSuccess | Anchor::LastStart => {
                let told = told.filter(has_been).map(whole_second);
                told.max(self.anchored_at.filter(has_been))
            }
        };
        if next.anchored_at != self.anchored_at {
            // Up to here the former grid was decided on; it cannot be walked again.
            next.defined_at = Some(self.defined_at());
            next.counts_from = next.counts_from.max(watermark);
            next.to_make_up = None;
        }
        if self.paused.as_ref() != pause {
            next.paused = pause.cloned();
            let over = pause.filter(|pause| pause.catch_up && pause.until.is_some());
            let over = over.filter(|_| job.enabled);
            next.to_make_up = over.map(|over| next.made_up_for(over, watermark));
        }
        (next != *self).then_some(next)
    }

    /// When the trigger was defined, edited or enabled; the state of a job that is back after long counts anew.
    pub fn defined_at(&self) -> DateTime<Utc> {
        self.defined_at.unwrap_or(self.counts_from)
    }

    /// The state of a job that is defined no longer. `None`: no change.
    #[must_use]
    pub fn gone(&self, watermark: DateTime<Utc>) -> Option<Self> {
        let is_news = self.gone_since.is_none();
        is_news.then(|| Self {
            gone_since: Some(watermark),
            ..self.clone()
        })
    }

    /// Whether the job has been gone for so long that nothing of it need be remembered.
    pub fn is_gone_for_good(&self, watermark: DateTime<Utc>) -> bool {
        let gone_for = self.gone_since.map(|since| watermark - since);
        gone_for.is_some_and(|gone_for| gone_for > KEPT_WHEN_GONE)
    }

    /// Nobody decided on its ticks in `(gone_since, watermark]`.
    fn come_back(&mut self, gone_since: DateTime<Utc>, watermark: DateTime<Utc>) {
        let paused_until = self
            .paused
            .as_ref()
            .map(|pause| pause.until.unwrap_or(DateTime::<Utc>::MAX_UTC));
        let from = paused_until.map_or(gone_since, |until| until.max(gone_since));
        let is_slip = watermark - gone_since <= SLIP;
        let made_up_from = if is_slip {
            from.min(watermark)
        } else {
            watermark
        };
        self.leave_out((gone_since, made_up_from), Undecided::Removed);
        match is_slip {
            true if from < watermark => {
                let absence = MakeUp {
                    from,
                    until: watermark,
                    skipped_by: Skipper::Absence,
                };
                // One that was to be decided on before it went still is, and so is what has come since.
                let until = |before: MakeUp| before.until.max(watermark);
                self.to_make_up = Some(self.to_make_up.map_or(absence, |before| MakeUp {
                    until: until(before),
                    ..before
                }));
            }
            true => {}
            false => {
                self.counts_from = self.counts_from.max(watermark);
                self.defined_at = None;
                self.give_up_making_up();
            }
        }
    }

    /// What a pause that is over has skipped, as far as it is noted or not decided on yet.
    fn made_up_for(&self, over: &Pause, watermark: DateTime<Utc>) -> MakeUp {
        let until = over.until.unwrap_or(watermark);
        match self.ledger.paused_after(over.since.max(self.counts_from)) {
            // A clock that was set back may have ended the pause before its last skipped tick.
            Some((first, last)) => MakeUp {
                from: first
                    .checked_sub_signed(chrono::Duration::nanoseconds(1))
                    .unwrap_or(first),
                until: until.max(last),
                skipped_by: Skipper::Pause,
            },
            None => MakeUp {
                from: over.since.max(watermark),
                until,
                skipped_by: Skipper::Pause,
            },
        }
    }

    /// The note on a tick that was made when the step to `until` was carried out before, if that came
    /// so far: its repetition says the same, though the run that was in the way may be gone by now.
    pub fn told_before(&self, tick: DateTime<Utc>, until: DateTime<Utc>) -> Option<&VerdictNote> {
        self.ledger.on(tick).filter(|_| self.as_of >= until)
    }

    pub(super) fn move_to(&mut self, queue: &QueueName) {
        let before = self.queue.replace(queue.clone());
        let left = before.filter(|before| before != queue);
        self.left_queues.retain(|other| other != queue);
        if let Some(left) = left {
            self.left_queues.insert(0, left);
            self.left_queues.truncate(KEPT_QUEUES);
        }
    }

    /// The state after a step over `(from, until]` in which `noted` ticks did not become runs; notes
    /// are kept for `kept_for`. `None`: nothing to write.
    #[must_use]
    pub fn after(
        &self,
        step: &JobStep,
        noted: &[VerdictNote],
        (from, until): (DateTime<Utc>, DateTime<Utc>),
        kept_for: Duration,
    ) -> Option<Self> {
        let unusual = !step.decision.unfired.is_empty() || !noted.is_empty();
        if !(unusual || self.to_make_up.is_some()) || until <= self.as_of {
            return None;
        }
        let mut next = self.clone();
        next.as_of = until;
        if let Some(made_up) = next.to_make_up.take() {
            next.ledger.take_back_paused(made_up);
        }
        let unfired = step.decision.unfired.iter().map(|unfired| {
            let mut note = VerdictNote::from(*unfired);
            if note.verdict == Verdict::Coalesced {
                note.run_id = step.newest_run();
            }
            note
        });
        for mut note in unfired.chain(noted.iter().cloned()) {
            if note.verdict == Verdict::Missed {
                (note.down_from, note.down_to) = (Some(from), Some(until));
            }
            next.ledger.add(&step.job, note);
        }
        next.ledger.forget(until, kept_for);
        Some(next)
    }
}

pub(super) fn whole_second_after(at: DateTime<Utc>) -> DateTime<Utc> {
    let next = whole_second(at).checked_add_signed(chrono::Duration::seconds(1));
    next.unwrap_or(at)
}

pub(super) fn whole_second(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(at.timestamp(), 0).unwrap_or(at)
}

#[cfg(test)]
mod tests;
