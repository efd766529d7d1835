//! What beat remembers of each job: from when its trigger counts, and what became of the ticks that
//! were not run.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{JobStep, Pause, Span};
use crate::job::{FirstRun, Job, QueueName};

/// How many notes on unusual verdicts are kept of a job.
const KEPT_NOTES: usize = 100;
/// How long they are kept.
const KEPT_FOR: chrono::Duration = chrono::Duration::days(7);
/// How many former queues of a job are remembered.
const KEPT_QUEUES: usize = 4;

/// What beat remembers of a job. Small, and written only when something unusual happens: runs are
/// remembered by their records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobState {
    /// [`Job::fingerprint`] when it last changed.
    pub fingerprint: String,
    /// When the job was first seen.
    pub first_seen: DateTime<Utc>,
    /// Ticks at or before this do not count: the trigger was defined, edited or enabled then.
    pub counts_from: DateTime<Utc>,
    /// The queue of its runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueName>,
    /// The queues that it had before, the last one first: one of its runs may still be live there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_queues: Vec<QueueName>,
    /// The last pause, over or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
    /// The additional tick of `first_run = "now"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_run_at: Option<DateTime<Utc>>,
    /// The counters below include the ticks up to here, so that a repeated step adds nothing.
    pub as_of: DateTime<Utc>,
    /// Ticks that were too late to be run.
    pub missed: u64,
    /// Ticks that found a run of their job still live.
    pub skipped: u64,
    /// Ticks that a later one stands for.
    pub coalesced: u64,
    /// The last unusual verdicts, oldest first.
    #[serde(default)]
    pub notes: Vec<VerdictNote>,
}

/// What became of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It became a run.
    Fired,
    /// A later tick stands for it.
    Coalesced,
    /// It was not to be run: see [`SkipReason`].
    Skipped,
    /// It was too late.
    Missed,
}

/// Why a tick was skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// A run of its job was still live.
    #[default]
    Overlap,
    /// The job was paused.
    Paused,
}

/// An unusual verdict on some ticks in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictNote {
    /// What became of them.
    pub verdict: Verdict,
    /// Why, of skipped ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<SkipReason>,
    /// How many.
    pub count: u64,
    /// The first tick.
    pub first: DateTime<Utc>,
    /// The last tick.
    pub last: DateTime<Utc>,
    /// Of missed ones: beat had last been at work at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_from: Option<DateTime<Utc>>,
    /// Of missed ones: beat was at work again at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_to: Option<DateTime<Utc>>,
    /// The run that stands for them, or that was in their way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<crate::run::RunId>,
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
            queue: Some(job.queue.clone()),
            left_queues: Vec::new(),
            paused: None,
            first_run_at: runs_now.then(|| whole_second(from) + chrono::Duration::seconds(1)),
            as_of: from,
            missed: 0,
            skipped: 0,
            coalesced: 0,
            notes: Vec::new(),
        }
    }

    /// The state after the job's definition was read again: an edited trigger or a job that was
    /// enabled again counts from now, another queue is remembered beside the old one, anything else
    /// changes nothing. `None`: no change.
    #[must_use]
    pub fn redefined(
        &self,
        job: &Job,
        now: DateTime<Utc>,
        watermark: DateTime<Utc>,
    ) -> Option<Self> {
        let mut next = self.clone();
        next.move_to(&job.queue);
        let fingerprint = job.fingerprint();
        if fingerprint != self.fingerprint {
            next.fingerprint = fingerprint;
            next.counts_from = whole_second(now).max(watermark);
            next.first_run_at = None;
        }
        (next != *self).then_some(next)
    }

    /// The state after the job's pause was set, changed or ended. `None`: no change.
    #[must_use]
    pub fn with_pause(&self, pause: Option<&Pause>) -> Option<Self> {
        (self.paused.as_ref() != pause).then(|| Self {
            paused: pause.cloned(),
            ..self.clone()
        })
    }

    fn move_to(&mut self, queue: &QueueName) {
        let before = self.queue.replace(queue.clone());
        let left = before.filter(|before| before != queue);
        self.left_queues.retain(|other| other != queue);
        if let Some(left) = left {
            self.left_queues.insert(0, left);
            self.left_queues.truncate(KEPT_QUEUES);
        }
    }

    /// The state after a step over `(from, until]` in which `noted` ticks did not become runs.
    /// `None`: nothing to write.
    #[must_use]
    pub fn after(
        &self,
        step: &JobStep,
        noted: &[VerdictNote],
        (from, until): (DateTime<Utc>, DateTime<Utc>),
    ) -> Option<Self> {
        let unusual = step.decision.missed.is_some()
            || step.decision.coalesced.is_some()
            || step.decision.paused.is_some()
            || !noted.is_empty();
        if !unusual || until <= self.as_of {
            return None;
        }
        let mut next = self.clone();
        next.as_of = until;
        let decision = &step.decision;
        next.note_span(Verdict::Missed, None, decision.missed, None);
        let paused = Some(SkipReason::Paused);
        next.note_span(Verdict::Skipped, paused, decision.paused, None);
        next.note_span(
            Verdict::Coalesced,
            None,
            decision.coalesced,
            step.newest_run(),
        );
        for note in noted {
            next.note(note.clone());
        }
        for note in &mut next.notes {
            if note.verdict == Verdict::Missed && note.down_to.is_none() {
                (note.down_from, note.down_to) = (Some(from), Some(until));
            }
        }
        next.notes.retain(|note| until - note.last < KEPT_FOR);
        Some(next)
    }

    fn note_span(
        &mut self,
        verdict: Verdict,
        reason: Option<SkipReason>,
        span: Option<Span>,
        run: Option<crate::run::RunId>,
    ) {
        if let Some(span) = span {
            self.note(VerdictNote {
                verdict,
                reason,
                count: span.count,
                first: span.first,
                last: span.last,
                down_from: None,
                down_to: None,
                run_id: run,
            });
        }
    }

    fn note(&mut self, note: VerdictNote) {
        match note.verdict {
            Verdict::Fired => {}
            Verdict::Coalesced => self.coalesced += note.count,
            Verdict::Skipped => self.skipped += note.count,
            Verdict::Missed => self.missed += note.count,
        }
        if let Some(last) = self.notes.last_mut()
            && last.goes_on_with(&note)
        {
            last.count += note.count;
            last.last = note.last;
            return;
        }
        self.notes.push(note);
        let surplus = self.notes.len().saturating_sub(KEPT_NOTES);
        self.notes.drain(..surplus);
    }
}

impl VerdictNote {
    /// Whether `later` says the same of the ticks that follow.
    fn goes_on_with(&self, later: &Self) -> bool {
        self.verdict == later.verdict
            && self.reason == later.reason
            && self.run_id == later.run_id
            && self.down_to.is_none()
            && self.last < later.first
    }
}

fn whole_second(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(at.timestamp(), 0).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Execute, Policy, RunSpec, Trigger};

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_401_000 + second, 0).unwrap()
    }

    fn job(queue: &str) -> Job {
        Job {
            name: "crawl".parse().unwrap(),
            description: None,
            tags: Vec::new(),
            enabled: true,
            trigger: Trigger::OnDemand,
            timezone: chrono_tz::UTC,
            queue: queue.parse().unwrap(),
            policy: Policy::default(),
            spec: RunSpec::new(Execute::Shell("true".to_owned())),
        }
    }

    #[test]
    fn a_job_that_moves_remembers_the_queues_that_it_left() {
        let mut state = JobState::first_seen(&job("a"), at(0), at(0));
        assert_eq!(state.redefined(&job("a"), at(1), at(1)), None);
        for queue in ["b", "c", "a", "d", "e", "f"] {
            state = state.redefined(&job(queue), at(1), at(1)).unwrap();
        }
        let left: Vec<_> = state.left_queues.iter().map(QueueName::as_str).collect();
        assert_eq!(left, ["e", "d", "a", "c"]);
        assert_eq!(state.counts_from, at(0), "the trigger is the same");
    }
}
