//! What beat would do over a stretch of time, with the real planner and policies and nothing else:
//! no broker, no clock. Ticks are handed out one by one, so that years need no memory.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::{JobState, JobStep, Scheduled, SkipReason, Span, Timeline, Verdict};
use crate::{
    job::{Anchor, Job, JobName, Overlap},
    run::Past,
};

/// A time in which no beat is at work, from its start to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Downtime {
    /// The last instant at which beat was there.
    pub from: DateTime<Utc>,
    /// When it is there again.
    pub to: DateTime<Utc>,
}

/// What is to be simulated.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The jobs; all are known at `from`.
    pub jobs: Vec<Arc<Job>>,
    /// Ticks after this are simulated.
    pub from: DateTime<Utc>,
    /// Ticks up to this are simulated.
    pub to: DateTime<Utc>,
    /// When beat is not there.
    pub down: Vec<Downtime>,
    /// How long every run takes, those named in `durations` aside.
    pub duration: Duration,
    /// How long the runs of these jobs take.
    pub durations: HashMap<JobName, Duration>,
}

/// A tick and what would become of it.
#[derive(Debug, Clone)]
pub struct SimulatedTick<'a> {
    /// Its job.
    pub job: &'a Arc<Job>,
    /// The nominal instant.
    pub tick: DateTime<Utc>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why, of skipped ones.
    pub reason: Option<SkipReason>,
    /// When its run starts, of fired ones: workers are assumed to be free.
    pub starts_at: Option<DateTime<Utc>>,
}

/// Hands every tick of the scenario to `visit`, step by step in the order of time.
pub fn simulate(scenario: &Scenario, mut visit: impl FnMut(&SimulatedTick<'_>)) {
    let state = |job: &Arc<Job>| JobState::first_seen(job, scenario.from, scenario.from);
    let mut jobs = scenario.jobs.clone();
    jobs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let scheduled = jobs
        .iter()
        .map(|job| Scheduled::new(Arc::clone(job), &state(job)));
    let mut timeline = Timeline::new(scheduled.collect(), scenario.from);
    let anchored = jobs
        .iter()
        .filter(|job| !job.trigger.anchor().is_epoch())
        .map(|job| (job.name.clone(), (Arc::clone(job), state(job))));
    let mut world = World {
        scenario,
        anchored: anchored.collect(),
        news: BTreeMap::new(),
        live: HashMap::new(),
    };
    let mut watermark = scenario.from;
    while let Some(due) = timeline.next_due().filter(|&due| due <= scenario.to) {
        let now = scenario.back_at(due).min(scenario.to);
        // As beat does: what was heard changes what is due.
        if world.hear(now, &mut timeline, watermark) {
            continue;
        }
        let step = timeline.plan(watermark, now);
        for job in &step.jobs {
            world.carry_out(job, now, &mut visit);
        }
        timeline.advance(&step);
        watermark = now;
    }
}

impl Scenario {
    /// When beat comes to what is due at `due`.
    fn back_at(&self, due: DateTime<Utc>) -> DateTime<Utc> {
        let mut now = due;
        // One downtime may lead into the next.
        for _ in 0..=self.down.len() {
            let within = |down: &&Downtime| down.from < now && now < down.to;
            match self.down.iter().find(within) {
                Some(down) => now = down.to,
                None => break,
            }
        }
        now
    }

    fn duration_of(&self, job: &JobName) -> chrono::Duration {
        let duration = self.durations.get(job).unwrap_or(&self.duration);
        chrono::Duration::from_std(*duration).unwrap_or(chrono::Duration::MAX)
    }
}

/// What goes on around beat.
struct World<'s> {
    scenario: &'s Scenario,
    /// The jobs whose ticks depend on their runs, with what beat knows of them.
    anchored: HashMap<JobName, (Arc<Job>, JobState)>,
    /// What is going to be heard of them, and when.
    news: BTreeMap<(DateTime<Utc>, JobName), Past>,
    /// When the live runs of a job end: the one that runs, then the one that waits.
    live: HashMap<JobName, VecDeque<DateTime<Utc>>>,
}

impl World<'_> {
    /// Tells beat the first news up to `now`; false if there is none.
    fn hear(
        &mut self,
        now: DateTime<Utc>,
        timeline: &mut Timeline,
        watermark: DateTime<Utc>,
    ) -> bool {
        let first = self.news.first_entry();
        let Some(first) = first.filter(|first| first.key().0 <= now) else {
            return false;
        };
        let ((_, name), past) = first.remove_entry();
        if let Some((job, state)) = self.anchored.get_mut(&name)
            && let Some(heard) = state.heard(job, (None, Some(&past)), watermark, now)
        {
            *state = heard;
            timeline.replace(Scheduled::new(Arc::clone(job), state), watermark);
        }
        true
    }

    fn carry_out(
        &mut self,
        step: &JobStep,
        now: DateTime<Utc>,
        visit: &mut impl FnMut(&SimulatedTick<'_>),
    ) {
        let job = &step.job;
        let mut tell = |tick, verdict, reason, starts_at| {
            visit(&SimulatedTick {
                job,
                tick,
                verdict,
                reason,
                starts_at,
            });
        };
        for unfired in &step.decision.unfired {
            for tick in ticks(job, unfired.span) {
                tell(tick, unfired.verdict, unfired.reason, None);
            }
        }
        for &tick in &step.decision.fire {
            match self.start(step, tick, now) {
                Some(at) => tell(tick, Verdict::Fired, None, Some(at)),
                None => tell(tick, Verdict::Skipped, Some(SkipReason::Overlap), None),
            }
        }
    }

    /// When the run of a tick starts; `None` if live runs are in its way.
    fn start(
        &mut self,
        step: &JobStep,
        tick: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let job = &step.job;
        let wished = step.starts_at(tick).max(now);
        let live = self.live.get_mut(&job.name);
        let ends: &[DateTime<Utc>] = match live {
            Some(live) => {
                live.retain(|&ends| ends > now);
                live.make_contiguous()
            }
            None => &[],
        };
        let starts_at = match (job.policy.overlap, ends) {
            (Overlap::Allow | Overlap::Replace, _) | (_, []) => wished,
            (Overlap::Queue, [running]) => wished.max(*running),
            (Overlap::Skip | Overlap::Queue, _) => return None,
        };
        let duration = self.scenario.duration_of(&job.name);
        let ends = starts_at.checked_add_signed(duration);
        let ends = ends.unwrap_or(DateTime::<Utc>::MAX_UTC);
        match job.policy.overlap {
            Overlap::Allow => {}
            Overlap::Replace | Overlap::Skip | Overlap::Queue if ends <= now => {
                // Most runs end before the next tick: they need no memory.
                self.live.remove(&job.name);
            }
            Overlap::Replace => {
                self.live.insert(job.name.clone(), VecDeque::from([ends]));
            }
            Overlap::Skip | Overlap::Queue => {
                let live = self.live.entry(job.name.clone()).or_default();
                live.push_back(ends);
            }
        }
        self.announce(job, starts_at, ends);
        Some(starts_at)
    }

    fn announce(&mut self, job: &Job, starts_at: DateTime<Utc>, ends: DateTime<Utc>) {
        let heard_at = match job.trigger.anchor() {
            Anchor::Epoch => return,
            Anchor::LastStart => starts_at,
            Anchor::LastSuccess => ends,
        };
        let past = Past {
            last_start: Some(starts_at),
            last_success: Some((starts_at, ends)),
        };
        self.news.insert((heard_at, job.name.clone()), past);
    }
}

/// The ticks of a span; the first may be the additional one of `first_run = "now"`.
fn ticks(job: &Job, span: Span) -> impl Iterator<Item = DateTime<Utc>> + '_ {
    std::iter::successors(Some(span.first), |&tick| job.next_after(tick))
        .take_while(move |&tick| tick <= span.last)
}

#[cfg(test)]
mod tests;
