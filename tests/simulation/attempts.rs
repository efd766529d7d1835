//! What must hold when a process begins: it was claimed, nobody else holds its run, its lock or the place of its
//! job, but for those that have lost their lease and may go on until they learn of it.

use std::time::Duration;

use orchestrator::{
    job::{LeaseLoss, Overlap, RunSpec},
    run::{RunId, RunMessage},
};

use crate::checker::Checker;

/// An attempt that was begun.
#[derive(Debug)]
pub struct Begun {
    pub run_id: RunId,
    pub fence: u64,
    pub worker: String,
    pub stops: bool,
    pub lock: Option<String>,
    pub began: Duration,
    pub ended: Option<Duration>,
    pub died: bool,
}

impl Checker {
    /// A process begins; returns its number.
    pub fn begins(
        &mut self,
        (message, fence): (&RunMessage, u64),
        worker: &str,
        now: Duration,
    ) -> usize {
        self.figures.attempts += 1;
        let run_id = &message.run_id;
        let spec = &message.spec;
        let lock = spec.lock.as_ref().map(|lock| lock.name.source().to_owned());
        let mut wrong = Vec::new();
        let record = self.records.get(run_id);
        if record.is_none_or(|record| record.fence < fence) {
            wrong.push("was not claimed".to_owned());
        }
        let again = |begun: &&Begun| begun.run_id == *run_id && begun.fence == fence;
        if self.begun.iter().any(|begun| again(&begun)) {
            wrong.push("began before".to_owned());
        }
        if !self.stored.contains_key(run_id) {
            wrong.push("was never published".to_owned());
        }
        let overlaps = self.overlap(run_id);
        for other in self.begun.iter().filter(|begun| begun.ended.is_none()) {
            let same_run = other.run_id == *run_id;
            let same_job = other.run_id.job() == run_id.job() && !overlaps;
            let is_held = self
                .records
                .get(&other.run_id)
                .is_some_and(|record| record.is_held_under(other.fence));
            let what = format!(
                "while {} under {} runs on {} since {:?}",
                other.run_id, other.fence, other.worker, other.began
            );
            if lock.is_some() && lock == other.lock {
                wrong.push(format!("has the lock {lock:?} {what}"));
            } else if (same_run || same_job) && (other.stops || is_held) {
                wrong.push(format!("overlaps: {what}"));
            }
        }
        for what in wrong {
            self.broken(format!("{worker} begins {run_id} under {fence}: {what}"));
        }
        self.begun.push(Begun {
            run_id: run_id.clone(),
            fence,
            worker: worker.to_owned(),
            stops: stops(spec),
            lock,
            began: now,
            ended: None,
            died: false,
        });
        self.begun.len() - 1
    }

    fn overlap(&self, run_id: &RunId) -> bool {
        self.jobs
            .get(run_id.job())
            .is_none_or(|job| job.policy.overlap == Overlap::Allow)
    }

    pub fn ends(&mut self, id: usize, now: Duration) {
        self.begun[id].ended.get_or_insert(now);
    }

    pub fn name(&self, id: usize) -> String {
        let begun = &self.begun[id];
        format!("{} under {} on {}", begun.run_id, begun.fence, begun.worker)
    }

    /// A process of beat or a worker died, and what it executed with it.
    pub fn died(&mut self, worker: &str, now: Duration) {
        self.figures.deaths += 1;
        for begun in &mut self.begun {
            if begun.worker == worker && begun.ended.is_none() {
                begun.ended = Some(now);
                begun.died = true;
            }
        }
    }

    /// What was executed by a worker that died after `since`, and was not begun again nor has ended by `until`.
    pub fn not_taken_over(&self, worker: &str) -> Vec<String> {
        let died = self
            .begun
            .iter()
            .filter(|begun| begun.died && begun.worker == worker);
        let lost = died.filter(|begun| {
            let record = self.records.get(&begun.run_id);
            record.is_some_and(|record| record.is_held_under(begun.fence))
        });
        lost.map(|begun| format!("{} under {}", begun.run_id, begun.fence))
            .collect()
    }

    pub fn running(&self) -> usize {
        self.begun
            .iter()
            .filter(|begun| begun.ended.is_none())
            .count()
    }
}

/// Whether it must not outlive its lease.
fn stops(spec: &RunSpec) -> bool {
    spec.lock.is_some() || spec.lease_loss == LeaseLoss::Stop
}
