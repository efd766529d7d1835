//! A beat without anything around it, the runs that it starts, and what befalls both.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use chrono::{DateTime, Duration, Utc};
use orchestrator::{
    job::{Job, JobName, Overlap},
    plan::{
        JobState, JobStep, Move, Pause, Scheduled, SkipReason, Step, Timeline, Verdict,
        VerdictNote, Watermark, next_move,
    },
    run::{Past, RunId},
};

use super::oracle::{self, JOBS, Truth, whole};

/// What may happen.
#[derive(Debug, Clone)]
pub enum Action {
    /// So many seconds pass, and beat takes a turn.
    Pass(i64),
    /// The clock is set back by so many seconds.
    StepBack(i64),
    /// Beat dies in its next step.
    Crash(Crash),
    /// Beat is not there for so long.
    Down(i64),
    /// The files are edited, beat reads them.
    Reload(usize, Edit),
    /// The files are edited while beat is not there.
    EditWhileDown(usize, Edit, i64),
    /// A job is paused, perhaps with an end.
    Pause(usize, Option<i64>),
    /// It is resumed, perhaps with what it skipped.
    Resume(usize, bool),
    /// The oldest live run of a job ends, well or badly.
    End(usize, bool),
}

/// How far a step comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    AfterPublish,
    AfterStates,
}

/// What an edit changes.
#[derive(Debug, Clone, Copy)]
pub enum Edit {
    Trigger,
    Else,
    Enabled,
    Presence,
}

type Fate = (Verdict, Option<SkipReason>);
const WEEK: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);
const FIRED: Fate = (Verdict::Fired, None);

pub struct World {
    now: DateTime<Utc>,
    /// The definitions of the files; absent: removed.
    files: BTreeMap<usize, Job>,
    edited: BTreeSet<usize>,
    jobs: BTreeMap<JobName, Arc<Job>>,
    states: BTreeMap<JobName, JobState>,
    truths: BTreeMap<JobName, Truth>,
    pauses: BTreeMap<JobName, Pause>,
    pasts: BTreeMap<JobName, Past>,
    watermark: Watermark,
    timeline: Timeline,
    crash: Option<Crash>,
    /// What was published, ever, and what of it is live.
    published: BTreeSet<RunId>,
    live: BTreeMap<JobName, VecDeque<RunId>>,
    /// The verdict of every tick since its job was first seen.
    verdicts: BTreeMap<JobName, BTreeMap<DateTime<Utc>, Fate>>,
}

impl World {
    pub fn new() -> Self {
        let now = oracle::start();
        let mut world = Self {
            now,
            files: (0..JOBS).map(|n| (n, oracle::job(n, false))).collect(),
            edited: BTreeSet::new(),
            jobs: BTreeMap::new(),
            states: BTreeMap::new(),
            truths: BTreeMap::new(),
            pauses: BTreeMap::new(),
            pasts: BTreeMap::new(),
            watermark: Watermark {
                at: now,
                next: None,
                beat: "model".to_owned(),
                set_back_from: None,
            },
            timeline: Timeline::default(),
            crash: None,
            published: BTreeSet::new(),
            live: BTreeMap::new(),
            verdicts: BTreeMap::new(),
        };
        world.adopt();
        world
    }

    pub fn act(&mut self, action: &Action) {
        match *action {
            Action::Pass(seconds) => {
                self.now += Duration::seconds(seconds);
                self.turn();
            }
            Action::StepBack(seconds) => {
                // Further back than three hours the watermark follows: not a part of this model.
                let limit = self.watermark.at - Duration::hours(3);
                self.now = (self.now - Duration::seconds(seconds)).max(limit);
                self.turn();
            }
            Action::Crash(crash) => self.crash = Some(crash),
            Action::Down(seconds) => {
                self.now += Duration::seconds(seconds);
                self.start();
            }
            Action::Reload(job, edit) => {
                self.edit(job, edit);
                // What is due by the old files is decided by them.
                self.turn();
                if self.watermark.next.is_none() {
                    self.adopt();
                    self.turn();
                }
            }
            Action::EditWhileDown(job, edit, seconds) => {
                self.edit(job, edit);
                self.now += Duration::seconds(seconds);
                self.start();
            }
            Action::Pause(job, length) => self.pause(&name(job), length),
            Action::Resume(job, catch_up) => self.resume(&name(job), catch_up),
            Action::End(job, well) => self.end(&name(job), well),
        }
    }

    /// Lets beat come to everything that is due.
    pub fn settle(&mut self) {
        self.crash = None;
        self.now = self.now.max(self.watermark.at) + Duration::days(1);
        self.turn();
        assert_eq!(self.watermark.next, None);
    }

    /// What beat says of each job adds up to what became of its ticks.
    pub fn check_counters(&self) {
        for (name, state) in &self.states {
            let empty = BTreeMap::new();
            let verdicts = self.verdicts.get(name).unwrap_or(&empty);
            let count = |verdict| {
                let of_kind = verdicts.values().filter(|(found, _)| *found == verdict);
                of_kind.count() as u64
            };
            let ledger = &state.ledger;
            assert_eq!(ledger.missed, count(Verdict::Missed), "{name}: missed");
            assert_eq!(ledger.skipped, count(Verdict::Skipped), "{name}: skipped");
            assert_eq!(
                ledger.coalesced,
                count(Verdict::Coalesced),
                "{name}: coalesced"
            );
            let noted: u64 = ledger.notes.iter().map(|note| note.count).sum();
            assert!(
                noted <= ledger.missed + ledger.skipped + ledger.coalesced,
                "{name}"
            );
            for note in &ledger.notes {
                let inside = verdicts.range(note.first..=note.last);
                assert!(
                    inside
                        .clone()
                        .all(|(_, fate)| *fate == (note.verdict, note.reason)),
                    "{name}: a note covers ticks of another kind: {note:?}"
                );
                assert_eq!(inside.count() as u64, note.count, "{name}: {note:?}");
            }
        }
    }

    fn edit(&mut self, index: usize, edit: Edit) {
        let edited = self.edited.contains(&index);
        match edit {
            Edit::Presence => {
                if self.files.remove(&index).is_none() {
                    self.files.insert(index, oracle::job(index, edited));
                }
            }
            Edit::Trigger => {
                let Some(job) = self.files.get_mut(&index) else {
                    return;
                };
                job.trigger = oracle::job(index, !edited).trigger;
                match edited {
                    true => self.edited.remove(&index),
                    false => self.edited.insert(index),
                };
            }
            Edit::Else => {
                let Some(job) = self.files.get_mut(&index) else {
                    return;
                };
                job.description = Some(self.now.to_string());
            }
            Edit::Enabled => {
                let Some(job) = self.files.get_mut(&index) else {
                    return;
                };
                job.enabled = !job.enabled;
            }
        }
    }

    /// Beat comes up again: it finishes what was announced by what it knows, then reads the files.
    fn start(&mut self) {
        self.line_up();
        if let Some(to) = self.watermark.next {
            self.step(to, None);
        }
        self.adopt();
        self.turn();
    }

    fn adopt(&mut self) {
        let (now, watermark) = (self.now, self.watermark.at);
        let files = self
            .files
            .values()
            .map(|job| (job.name.clone(), Arc::new(job.clone())));
        self.jobs = files.collect();
        let counts_from = whole(now).max(watermark);
        for (name, job) in &self.jobs {
            let next = match self.states.get(name) {
                None => {
                    let truth = Truth::first_seen(Arc::clone(job), counts_from);
                    self.truths.insert(name.clone(), truth);
                    Some(JobState::first_seen(job, now, watermark))
                }
                Some(state) => {
                    let truth = self.truths.get_mut(name).unwrap();
                    if truth.job.fingerprint() != job.fingerprint() {
                        truth.counts_from = counts_from;
                        truth.first_run_at = None;
                        truth.anchored_at = None;
                    }
                    truth.job = Arc::clone(job);
                    state.redefined((None, job), now, watermark)
                }
            };
            if let Some(next) = next {
                self.states.insert(name.clone(), next);
            }
        }
        let known = self.states.keys().cloned();
        let gone: Vec<_> = known.filter(|name| !self.jobs.contains_key(name)).collect();
        for name in gone {
            self.states.remove(&name);
            self.truths.remove(&name);
            self.pauses.remove(&name);
            self.verdicts.remove(&name);
        }
        self.line_up();
    }

    fn line_up(&mut self) {
        let scheduled = self.jobs.iter();
        let scheduled =
            scheduled.map(|(name, job)| Scheduled::new(Arc::clone(job), &self.states[name]));
        self.timeline = Timeline::new(scheduled.collect(), self.watermark.at);
    }

    fn turn(&mut self) {
        if let Some(to) = self.watermark.next {
            self.line_up();
            self.step(to, None);
        }
        self.hear();
        match next_move(self.watermark.at, self.now) {
            Move::Wait | Move::Behind(_) => {}
            Move::Reset => panic!("the clock of this model never steps back that far"),
            Move::Plan if self.timeline.next_due().is_some_and(|due| due <= self.now) => {
                self.watermark.next = Some(self.now);
                let crash = self.crash.take();
                self.step(self.now, crash);
            }
            Move::Plan => {
                for truth in self.truths.values() {
                    let ticks = truth.ticks(self.watermark.at, self.now);
                    assert!(
                        ticks.is_empty(),
                        "{}: passed over {ticks:?}",
                        truth.job.name
                    );
                }
                self.watermark.at = self.now;
            }
        }
    }

    fn hear(&mut self) {
        for (name, job) in &self.jobs {
            let news = (self.pauses.get(name), self.pasts.get(name));
            let state = &self.states[name];
            let Some(heard) = state.heard(job, news, self.watermark.at, self.now) else {
                continue;
            };
            let truth = self.truths.get_mut(name).unwrap();
            let success = self.pasts.get(name).and_then(|past| past.last_success);
            if !job.trigger.anchor().is_epoch() {
                truth.anchored_at = success
                    .map(|(_, ended)| whole(ended))
                    .max(truth.anchored_at);
            }
            let scheduled = Scheduled::new(Arc::clone(job), &heard);
            self.timeline.replace(scheduled, self.watermark.at);
            self.states.insert(name.clone(), heard);
        }
    }

    fn step(&mut self, to: DateTime<Utc>, crash: Option<Crash>) {
        let step = self.timeline.plan(self.watermark.at, to);
        let mut told = Vec::new();
        for job in &step.jobs {
            let notes = self.publish(job, &step);
            told.push(notes);
        }
        if crash == Some(Crash::AfterPublish) {
            return;
        }
        for (job, notes) in step.jobs.iter().zip(&told) {
            self.record(job, notes);
            let name = &job.job.name;
            if let Some(next) = self.states[name].after(job, notes, (step.from, to), WEEK) {
                let scheduled = Scheduled::new(Arc::clone(&self.jobs[name]), &next);
                self.timeline.replace(scheduled, self.watermark.at);
                self.states.insert(name.clone(), next);
            }
        }
        if crash == Some(Crash::AfterStates) {
            return;
        }
        self.check_complete(&step);
        self.watermark.at = to;
        self.watermark.next = None;
        self.timeline.advance(&step);
    }

    /// What the broker makes of the fired ticks.
    fn publish(&mut self, step: &JobStep, whole: &Step) -> Vec<VerdictNote> {
        let job = &step.job;
        let state = &self.states[&job.name];
        let live = self.live.entry(job.name.clone()).or_default();
        let mut notes = Vec::new();
        for &tick in &step.decision.fire {
            if let Some(note) = state.told_before(tick, whole.to) {
                notes.push(VerdictNote::on(note.verdict, note.reason, tick));
                continue;
            }
            let run_id = RunId::for_tick(job.name.clone(), tick);
            if self.published.contains(&run_id) {
                continue;
            }
            let is_free = match job.policy.overlap {
                Overlap::Allow | Overlap::Replace => true,
                Overlap::Skip => live.is_empty(),
                Overlap::Queue => live.len() < 2,
            };
            if !is_free {
                let skipped = Some(SkipReason::Overlap);
                notes.push(VerdictNote::on(Verdict::Skipped, skipped, tick));
                continue;
            }
            if job.policy.overlap == Overlap::Replace {
                live.clear();
            }
            live.push_back(run_id.clone());
            self.published.insert(run_id);
        }
        notes
    }

    /// Writes down the verdicts of a step; a repeated one must say the same.
    fn record(&mut self, step: &JobStep, notes: &[VerdictNote]) {
        let truth = &self.truths[&step.job.name];
        let verdicts = self.verdicts.entry(step.job.name.clone()).or_default();
        let mut told: BTreeMap<DateTime<Utc>, Fate> = BTreeMap::new();
        for unfired in &step.decision.unfired {
            let (first, last) = (unfired.span.first, unfired.span.last);
            let ticks = truth.ticks(first - Duration::seconds(1), last);
            assert_eq!(ticks.len() as u64, unfired.span.count, "{unfired:?}");
            assert!(
                ticks.contains(&first) && ticks.contains(&last),
                "{unfired:?}"
            );
            for tick in ticks {
                let before = told.insert(tick, (unfired.verdict, unfired.reason));
                assert_eq!(before, None, "{tick} has two verdicts in one step");
            }
        }
        for &tick in &step.decision.fire {
            let noted = notes.iter().find(|note| note.first == tick);
            let fate = noted.map_or(FIRED, |note| (note.verdict, note.reason));
            assert_eq!(told.insert(tick, fate), None, "{tick} fires and does not");
        }
        for (tick, fate) in told {
            let paused = (Verdict::Skipped, Some(SkipReason::Paused));
            match verdicts.insert(tick, fate) {
                None => {}
                // Taken back by a resume that makes up for it.
                Some(before) if before == paused => {}
                Some(before) => assert_eq!(before, fate, "{}: {tick}", step.job.name),
            }
        }
    }

    /// Every tick of the step has a verdict now, and nothing else has.
    fn check_complete(&self, step: &Step) {
        for (name, truth) in &self.truths {
            let expected = truth.ticks(step.from, step.to);
            let empty = BTreeMap::new();
            let verdicts = self.verdicts.get(name).unwrap_or(&empty);
            let decided = verdicts.keys().copied();
            let within = decided.filter(|tick| step.from < *tick && *tick <= step.to);
            let found: BTreeSet<_> = within.collect();
            assert_eq!(found, expected, "{name} in ({}, {}]", step.from, step.to);
        }
    }

    fn pause(&mut self, name: &JobName, length: Option<i64>) {
        if !self.jobs.contains_key(name) {
            return;
        }
        let now = self.now;
        let before = self.pauses.get(name).filter(|pause| pause.covers(now));
        let pause = Pause {
            since: before.map_or(now, |pause| pause.since),
            until: length.map(|length| now + Duration::seconds(length)),
            reason: None,
            catch_up: false,
        };
        self.pauses.insert(name.clone(), pause);
    }

    fn resume(&mut self, name: &JobName, catch_up: bool) {
        let now = self.now;
        let pause = self.pauses.get_mut(name).filter(|pause| pause.covers(now));
        if let Some(pause) = pause {
            pause.until = Some(now);
            pause.catch_up = catch_up;
        }
    }

    fn end(&mut self, name: &JobName, well: bool) {
        let ended = self.live.get_mut(name).and_then(VecDeque::pop_front);
        if ended.is_some() && well {
            let past = self.pasts.entry(name.clone()).or_default();
            past.last_start = Some(self.now);
            past.last_success = Some((self.now, self.now));
        }
    }
}

fn name(index: usize) -> JobName {
    format!("job-{index}").parse().unwrap()
}
