//! Beat: turns ticks into runs.
//!
//! The thin loop around `plan/`: it sleeps until a tick is due, announces the step, publishes its
//! runs, notes unusual verdicts and commits the watermark. It owns the job set and the per-job
//! state; it never executes anything. Killed at any point it repeats the announced step, which is
//! harmless (see [`crate::plan::Watermark`]).

mod behind;
mod carry_out;
mod copy;
mod definitions;
mod error;
mod guard;
mod herald;
mod installation;
mod leader;
mod memory;
mod newcomer;
mod others;
mod outage;
mod own;
mod publish;
mod reload;
mod serve;
mod shared;
mod states;
mod succession;
mod sweep;
mod switch;
mod takeover;
mod telling;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::{
    broker::SharedBroker,
    clock,
    exec::{PingEvent, Pings},
    health::Pulse,
    job::{Job, QueueName},
    plan::{Differing, Move, Timeline, next_move},
    schedules::JobSet,
};
pub use error::BeatError;
use leader::{Candidate, Term};
use memory::{Memory, Shared};
use outage::Outage;
pub use own::{OwnError, OwnState};
use publish::Tried;
use reload::InForce;
pub use reload::ReloadCause;
pub use serve::serve;

/// The longest sleep: timers see neither clock steps nor suspend, so the clock is read again.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);
/// How far the stored watermark may fall behind while nothing is due.
const IDLE_COMMIT: Duration = Duration::from_secs(60);
/// How often the watermark moves while nothing is due, if something is to be kept: a pause, the end of a run. With it
/// go the copies.
const NEWS_COMMIT: Duration = Duration::from_secs(1);
/// How often stored runs that have ended are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(300);
/// A beat that works whoever else does says three times in this that it is there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How many of the next ticks are told at the start.
const TOLD: usize = 10;

/// What a beat is called and where it reads.
#[derive(Debug)]
pub struct BeatOptions {
    /// Distinguishes this beat from others in logs and in the watermark.
    pub id: String,
    /// Files and directories that hold the schedules.
    pub schedules: Vec<PathBuf>,
    /// This beat's own copy of its state; `None` where the broker is on the same disk.
    pub own: Option<OwnState>,
    /// How long it is remembered of each job which ticks were not run, and why.
    pub keep_verdicts: Duration,
    /// How long a leader may be silent before another beat takes over; `None`: each beat works, and
    /// no tick is fired twice all the same.
    pub leader_lease: Option<Duration>,
    /// Where the secrets of webhooks are.
    pub credentials: Option<PathBuf>,
    /// Where it says how it is.
    pub pulse: Pulse,
    /// Where to tell once a minute that a beat is at work; see [`Pings`].
    pub ping: Option<String>,
}

/// A running beat.
#[derive(Debug)]
pub struct Beat {
    broker: SharedBroker,
    options: Arc<BeatOptions>,
    jobs: JobSet,
    memory: Memory,
    timeline: Timeline,
    /// The queues that the jobs in force name.
    queues: watch::Sender<BTreeSet<QueueName>>,
    /// The jobs and webhooks in force, for those who tell of them.
    in_force: watch::Sender<JobSet>,
    /// Set whenever memory and broker may differ: after a start, an outage, an overtaking.
    must_recover: bool,
    /// How the schedules of the beat before differed, if another one led.
    differing: Option<Differing>,
    /// Read, but not yet in force.
    wanted: Option<reload::Wanted>,
    /// What the clock showed last.
    looked_at: Option<DateTime<Utc>>,
    told: Arc<telling::Told>,
    swept_at: Option<std::time::Instant>,
    /// The sequence at which the next sweep goes on.
    sweep_from: u64,
    pings: Pings,
    /// What the dead-man switch was told last, and when.
    pinged: Option<(PingEvent, std::time::Instant)>,
}

impl Beat {
    /// Takes up the schedule where the last beat left it.
    pub async fn start(
        broker: SharedBroker,
        options: BeatOptions,
        set: JobSet,
    ) -> Result<Self, BeatError> {
        Self::start_shared(broker, Arc::new(options), set).await
    }

    async fn start_shared(
        broker: SharedBroker,
        options: Arc<BeatOptions>,
        set: JobSet,
    ) -> Result<Self, BeatError> {
        let memory = Memory::load(&broker, &options, clock::now()).await?;
        let in_force = definitions::definitions(&broker).await?;
        let differing = takeover::compare(&broker, &options, (&in_force, &set)).await?;
        let mut beat = Self {
            broker,
            options,
            jobs: in_force,
            memory,
            timeline: Timeline::default(),
            queues: watch::Sender::default(),
            in_force: watch::Sender::default(),
            must_recover: true,
            differing,
            wanted: Some(reload::Wanted::set(set)),
            looked_at: None,
            told: Arc::default(),
            swept_at: None,
            sweep_from: 0,
            pings: Pings::new(),
            pinged: None,
        };
        beat.bring_into_force().await?;
        for (tick, job) in beat.upcoming(TOLD) {
            let at = tick.with_timezone(&job.timezone).to_rfc3339();
            info!(target: "orchestrator::beat", job = %job.name, at, queue = %job.queue, "next tick");
        }
        Ok(beat)
    }

    /// The next tick of the jobs that are due soonest.
    pub fn upcoming(&self, limit: usize) -> Vec<(DateTime<Utc>, Arc<Job>)> {
        let soonest = self.timeline.upcoming(limit);
        soonest.map(|(tick, job)| (tick, Arc::clone(job))).collect()
    }

    /// The queues that the jobs in force name, now and after every reload.
    pub fn queues(&self) -> watch::Receiver<BTreeSet<QueueName>> {
        self.queues.subscribe()
    }

    /// Fires ticks until `stop`. Reloads the schedules whenever `reload` says so.
    pub async fn run(self, reload: &mut mpsc::Receiver<ReloadCause>, stop: &CancellationToken) {
        let one_of_many = Candidate {
            broker: Arc::clone(&self.broker),
            beat: self.options.id.clone(),
            home: None,
            lease: HEARTBEAT,
            is_one_of_many: true,
            pulse: self.options.pulse.clone(),
        };
        let term = one_of_many.join();
        self.run_until(&term, reload, stop).await;
        term.resign().await;
    }

    /// The same, as long as this beat leads. Returns the jobs that were read last, and what was read
    /// since with errors.
    async fn run_for(
        self,
        term: &Term,
        reload: &mut mpsc::Receiver<ReloadCause>,
        stop: &CancellationToken,
    ) -> (JobSet, Option<reload::Wanted>) {
        let beat = self.run_until(term, reload, stop).await;
        match beat.wanted {
            Some(wanted) => match wanted.set {
                Some(set) => (set, None),
                None => (beat.jobs, Some(wanted)),
            },
            None => (beat.jobs, None),
        }
    }

    async fn run_until(
        mut self,
        term: &Term,
        reload: &mut mpsc::Receiver<ReloadCause>,
        stop: &CancellationToken,
    ) -> Self {
        let mut outage = Outage::default();
        let over = term.over();
        let herald = self.send_herald(term.failing());
        while !over.is_cancelled() {
            let (pause, behind) = match self.turn().await {
                Ok(pause) => {
                    term.succeeded(self.options.own.as_ref());
                    outage.over();
                    (pause, None)
                }
                Err(error) => {
                    match &error {
                        BeatError::Overtaken => term.doubt(),
                        error => term.is_held_up(error),
                    }
                    let is_behind = matches!(error, BeatError::ClockBehind { .. });
                    self.must_recover = !is_behind;
                    self.options.pulse.fails(error.to_string());
                    (outage.goes_on(&error), is_behind.then_some(error))
                }
            };
            term.turned();
            match behind {
                Some(error) => self.ping(PingEvent::Fail, &error.to_string()),
                None if !outage.goes_on_now() => self.ping(PingEvent::Success, ""),
                None => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = over.cancelled() => break,
                Some(cause) = reload.recv() => self.reload(cause).await,
                () = self.memory.learn() => {}
                () = sleep(pause) => {}
            }
        }
        herald.recall().await;
        info!(target: "orchestrator::beat", beat = self.options.id, "beat stopped");
        self
    }

    /// Does what is due; returns how long nothing more will be.
    async fn turn(&mut self) -> Result<Duration, BeatError> {
        if self.must_recover || self.memory.is_deaf() {
            self.recover().await?;
            self.must_recover = false;
        }
        self.look_at_clock().await?;
        // What is due by the old files is decided by them: a reload costs no tick.
        self.take_over_news().await?;
        self.decide_on_what_is_due().await?;
        if self.bring_into_force().await? == InForce::Others {
            self.take_over_news().await?;
            self.decide_on_what_is_due().await?;
        }
        self.sweep_now_and_then().await?;
        self.clock_is_not_behind()?;
        let now = clock::now();
        let next = self.timeline.next_due().map_or(LONGEST_SLEEP, |due| {
            (due - now).to_std().unwrap_or_default()
        });
        let longest = match self.memory.is_kept() {
            true => LONGEST_SLEEP,
            false => NEWS_COMMIT,
        };
        Ok(next.min(longest))
    }

    /// How long the watermark may stand while nothing is due.
    fn idle_commit(&self) -> Duration {
        match self.memory.is_kept() {
            true => IDLE_COMMIT,
            false => NEWS_COMMIT,
        }
    }

    async fn decide_on_what_is_due(&mut self) -> Result<(), BeatError> {
        let now = clock::now();
        let at = self.memory.watermark().at;
        match next_move(at, now) {
            Move::Wait | Move::Behind(_) => {}
            Move::Reset => self.set_back(now).await?,
            Move::Plan if self.timeline.next_due().is_some_and(|due| due <= now) => {
                point!("beat-due");
                self.announce(now).await?;
                self.step(now, Tried::Never).await?;
            }
            Move::Plan => {
                let idle = (now - at).to_std().unwrap_or_default();
                if idle >= self.idle_commit() {
                    self.commit(now).await?;
                }
            }
        }
        Ok(())
    }

    /// Writes what was heard of pauses and of finished runs into the job states, between two steps: a
    /// repeated step sees the same.
    async fn take_over_news(&mut self) -> Result<(), BeatError> {
        self.memory.mend(&self.broker, &self.jobs).await?;
        let changed = self.memory.heard(&self.jobs, clock::now());
        for (job, state) in &changed {
            let paused_until = state.paused.as_ref().and_then(|pause| pause.until);
            debug!(target: "orchestrator::beat", %job, paused = state.paused.is_some(),
                paused_until = paused_until.map(|at| at.to_rfc3339()),
                anchored_at = state.anchored_at.map(|at| at.to_rfc3339()), "news taken over");
        }
        self.change(changed).await?;
        self.memory.taken_over();
        Ok(())
    }

    /// Makes memory agree with the broker, and finishes a step that was announced.
    async fn recover(&mut self) -> Result<(), BeatError> {
        let set = self.jobs.clone();
        if self.memory.refresh(&self.broker, &set).await? == Shared::Restored {
            self.wanted.get_or_insert(reload::Wanted::set(set));
        }
        self.line_up();
        if let Some(to) = self.memory.watermark().next {
            info!(target: "orchestrator::beat", from = %self.memory.watermark().at, %to,
                "repeating a step that was begun");
            point!("beat-repeating");
            self.step(to, Tried::Before).await?;
        }
        self.bring_back(clock::now()).await?;
        self.swept_at = None;
        Ok(())
    }

    /// Carries out the announced step to `to` and commits it.
    async fn step(&mut self, to: DateTime<Utc>, tried: Tried) -> Result<(), BeatError> {
        let step = self.timeline.plan(self.memory.watermark().at, to);
        if tried == Tried::Before {
            self.begin_again(&step).await?;
            point!("beat-begun-again");
        }
        let states = self.carry_out(&step, tried).await?;
        point!("beat-before-states");
        self.change(states).await?;
        self.commit(to).await?;
        self.told.forget();
        self.timeline.advance(&step);
        Ok(())
    }

    /// Says which step is to follow, before any of its effects.
    async fn announce(&mut self, to: DateTime<Utc>) -> Result<(), BeatError> {
        let announced = self.memory.watermark().announced(to, &self.options.id);
        self.memory.move_watermark(&self.broker, announced).await?;
        debug!(target: "orchestrator::beat", %to, "step announced");
        point!("beat-announced");
        Ok(())
    }

    async fn commit(&mut self, at: DateTime<Utc>) -> Result<(), BeatError> {
        point!("beat-before-commit");
        let committed = self.memory.watermark().committed(at, &self.options.id);
        self.memory.move_watermark(&self.broker, committed).await?;
        point!("beat-committed");
        self.memory.keep_own(self.options.own.as_ref()).await;
        point!("beat-own-kept");
        Ok(())
    }

    fn line_up(&mut self) {
        let scheduled = self.memory.schedule(&self.jobs);
        self.timeline = Timeline::new(scheduled, self.memory.watermark().at);
    }
}
