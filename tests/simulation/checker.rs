//! What must hold whatever goes wrong, checked at every write, at every beginning of a process, and at the end.
//!
//! It judges by what is public: the shared keys, the stored runs, and what the processes did.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use orchestrator::{
    broker::{Bucket, Outgoing},
    job::{JobName, Trigger},
    plan::{JOB_STATE_PREFIX, JobState, WATERMARK_KEY, Watermark},
    run::{Attempt, AttemptEnd, RunId, RunRecord, RunState},
    schedules::JobSet,
};
use tokio::time::Instant;

use crate::{attempts::Begun, server::Server};

/// What is known so far.
#[derive(Debug)]
pub struct Checker {
    pub jobs: JobSet,
    pub violations: Vec<String>,
    /// How often the broker took each run.
    pub stored: BTreeMap<RunId, u64>,
    pub records: BTreeMap<RunId, RunRecord>,
    pub begun: Vec<Begun>,
    watermark: Option<Watermark>,
    pub figures: Figures,
}

/// How much happened.
#[derive(Debug, Default, Clone, Copy)]
pub struct Figures {
    pub runs: u64,
    pub attempts: u64,
    pub deaths: u64,
    pub fenced: u64,
    pub notes: u64,
}

impl Checker {
    pub fn new(jobs: JobSet) -> Self {
        Self {
            jobs,
            violations: Vec::new(),
            stored: BTreeMap::new(),
            records: BTreeMap::new(),
            begun: Vec::new(),
            watermark: None,
            figures: Figures::default(),
        }
    }

    pub fn broken(&mut self, what: String) {
        self.violations.push(what);
    }

    pub fn stored(&mut self, run: &Outgoing) {
        *self.stored.entry(run.run_id.clone()).or_default() += 1;
        self.figures.runs += 1;
    }

    /// Somebody removes a stored run for good.
    pub fn removes(&mut self, who: &str, how: &str, sequence: u64, server: &Server) {
        let Some(stored) = server.stored(sequence) else {
            return;
        };
        let run_id = &stored.run.run_id;
        let ended = self
            .records
            .get(run_id)
            .is_some_and(|record| record.state.is_final());
        if !ended {
            self.broken(format!("{who}: {how} of {run_id}, which has not ended"));
        }
    }

    /// A key was written by compare-and-set.
    pub fn wrote(
        &mut self,
        who: &str,
        (bucket, key, value): (Bucket, &str, &[u8]),
        server: &Server,
        now: Instant,
    ) {
        match (bucket, key) {
            (Bucket::Runs, _) => match serde_json::from_slice(value) {
                Ok(record) => self.recorded(who, record),
                Err(error) => self.broken(format!("{who} wrote a record that is none: {error}")),
            },
            (Bucket::State, WATERMARK_KEY) => match serde_json::from_slice(value) {
                Ok(watermark) => self.moved(who, watermark, server, now),
                Err(error) => self.broken(format!("{who} wrote a watermark that is none: {error}")),
            },
            _ => {}
        }
    }

    fn recorded(&mut self, who: &str, record: RunRecord) {
        let run_id = record.run_id.clone();
        let job = self.jobs.get(run_id.job()).cloned();
        let before = self.records.insert(run_id.clone(), record.clone());
        let mut wrong = Vec::new();
        if let Some(before) = &before {
            if before.state.is_final() {
                wrong.push(format!(
                    "ended as {}, and is changed to {}",
                    before.state, record.state
                ));
            }
            if record.fence < before.fence || record.fence > before.fence + 1 {
                wrong.push(format!("fence {} after {}", record.fence, before.fence));
            }
            if before.state == RunState::Running
                && !record.is_held_under(before.fence)
                && let Some(last) = record.attempts.iter().find(|a| a.fence == before.fence)
            {
                self.figures.fenced += u64::from(last.end == Some(AttemptEnd::Lost));
                wrong.extend(self.closed(who, &run_id, last));
            }
        }
        if let Some(job) = job {
            let retry = &job.spec.retry;
            if record.attempts_used > retry.attempts || record.crashes > retry.max_crashes + 1 {
                wrong.push(format!(
                    "{} attempts used, {} crashes",
                    record.attempts_used, record.crashes
                ));
            }
        }
        for what in wrong {
            self.broken(format!("{who} wrote the record of {run_id}: {what}"));
        }
    }

    /// An attempt was closed by this write.
    fn closed(&self, who: &str, run_id: &RunId, last: &Attempt) -> Option<String> {
        let begun = self
            .begun
            .iter()
            .find(|begun| begun.run_id == *run_id && begun.fence == last.fence);
        match last.end? {
            AttemptEnd::Lost => None,
            end if last.worker != who => Some(format!("{end:?} of an attempt of {}", last.worker)),
            AttemptEnd::HandedBack => begun
                .filter(|begun| begun.ended.is_none())
                .map(|_| "handed back while it runs".to_owned()),
            end => match begun {
                Some(begun) if begun.ended.is_some() => None,
                Some(_) => Some(format!("{end:?} while it runs")),
                None => Some(format!("{end:?} of an attempt that never began")),
            },
        }
    }

    /// Every tick that the watermark passes has its verdict by then.
    fn moved(&mut self, who: &str, to: Watermark, server: &Server, now: Instant) {
        if let Some(from) = self.watermark.replace(to.clone()) {
            if to.at < from.at {
                self.broken(format!(
                    "{who} set the watermark back from {} to {}",
                    from.at, to.at
                ));
            }
            if to.at > from.at {
                self.verdicts(who, (from.at, to.at), server, now);
            }
        }
    }

    /// Counts the verdicts of each tick in `(from, to]`.
    fn verdicts(
        &mut self,
        who: &str,
        (from, to): (DateTime<Utc>, DateTime<Utc>),
        server: &Server,
        now: Instant,
    ) {
        let jobs = self.jobs.clone();
        for job in jobs.iter() {
            let Some(state) = job_state(server, &job.name, now) else {
                continue;
            };
            for tick in ticks(&job.trigger, from.max(state.counts_from), to) {
                let run_id = RunId::for_tick(job.name.clone(), tick);
                // One that came late and was called off is dropped.
                let record = self.records.get(&run_id);
                let fired = self.stored.contains_key(&run_id)
                    && !record.is_some_and(RunRecord::is_called_off);
                let noted = state.ledger.on(tick);
                match (fired, noted) {
                    (true, None) => {}
                    (false, Some(_)) => self.figures.notes += 1,
                    (false, None) => {
                        self.broken(format!("{who}: the tick {run_id} has no verdict at {to}"));
                    }
                    (true, Some(note)) => self.broken(format!(
                        "{who}: the tick {run_id} has two verdicts: fired and {:?}",
                        note.verdict
                    )),
                }
            }
        }
    }

    /// No run is of a time that is no tick.
    fn only_ticks(&mut self, server: &Server, now: Instant) {
        for run_id in self.stored.keys() {
            let Some((job, tick)) = self.jobs.get(run_id.job()).zip(run_id.tick()) else {
                self.violations
                    .push(format!("{run_id} is of no job and no tick"));
                continue;
            };
            let before = tick - chrono::TimeDelta::seconds(1);
            let first_run = job_state(server, &job.name, now).and_then(|state| state.first_run_at);
            if ticks(&job.trigger, before, tick).is_empty() && first_run != Some(tick) {
                self.violations.push(format!("{run_id} is of no tick"));
            }
        }
    }

    /// The runs that were accepted and have not ended.
    pub fn unfinished(&self) -> BTreeSet<RunId> {
        let runs = self.stored.keys();
        let open = runs.filter(|run| {
            let record = self.records.get(run);
            !record.is_some_and(|record| record.state.is_final())
        });
        open.cloned().collect()
    }

    pub fn running_records(&self) -> Vec<RunId> {
        let running = self.records.values();
        let running = running.filter(|record| record.state == RunState::Running);
        running.map(|record| record.run_id.clone()).collect()
    }

    pub fn watermark(&self) -> Option<DateTime<Utc>> {
        Some(self.watermark.as_ref()?.at)
    }

    /// After all has come to rest.
    pub fn conclude(&mut self, server: &Server, now: Instant) {
        if let Some(watermark) = self.watermark.clone() {
            self.figures.notes = 0;
            self.verdicts(
                "at the end",
                (DateTime::<Utc>::MIN_UTC, watermark.at),
                server,
                now,
            );
        }
        self.only_ticks(server, now);
        for stored in server.all() {
            let record = self.records.get(&stored.run.run_id);
            if !record.is_some_and(|record| record.state.is_final()) {
                let what = format!("{} is stored and has not ended", stored.run.run_id);
                self.violations.push(what);
            }
        }
        let buried: BTreeSet<_> = server
            .dead
            .iter()
            .filter_map(|(_, letter)| letter.run_id.clone())
            .collect();
        for record in self.records.values() {
            let run_id = &record.run_id;
            if record.state == RunState::Dead && !buried.contains(run_id) {
                self.violations
                    .push(format!("{run_id} is dead without a letter"));
            }
            let kept = server.get(Bucket::Runs, &run_id.key(), now);
            let same = kept.is_some_and(|entry| {
                serde_json::from_slice::<RunRecord>(&entry.value).is_ok_and(|kept| kept == *record)
            });
            if !same {
                self.violations
                    .push(format!("the record of {run_id} is not kept"));
            }
        }
    }
}

fn job_state(server: &Server, job: &JobName, now: Instant) -> Option<JobState> {
    let key = format!("{JOB_STATE_PREFIX}{job}");
    let entry = server.get(Bucket::State, &key, now)?;
    serde_json::from_slice(&entry.value).ok()
}

/// The ticks in `(from, to]`, counted by hand: whole multiples of the interval, moved by its offset.
fn ticks(trigger: &Trigger, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let Trigger::Every(interval) = trigger else {
        return Vec::new();
    };
    let length = i64::try_from(interval.length().as_secs()).unwrap();
    let offset = interval
        .next_after(DateTime::UNIX_EPOCH)
        .map_or(0, |first| first.timestamp() % length);
    let mut second = from.timestamp().div_euclid(length) * length + offset - length;
    let mut ticks = Vec::new();
    while second <= to.timestamp() {
        let tick = DateTime::from_timestamp(second, 0).unwrap();
        if from < tick && tick <= to {
            ticks.push(tick);
        }
        second += length;
    }
    ticks
}
