//! Lives one seed: starts beats and workers, lets things go wrong, mends all of it, waits until all has come to
//! rest, and has the checker conclude.

use std::{sync::Arc, time::Duration};

use orchestrator::{
    beat::{self, BeatOptions},
    broker::{self, Broker, Bucket},
    clock::simulated::{World, within},
    health::Pulse,
    job::Seconds,
    run::RunRecord,
    worker::{Worker, WorkerOptions},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    checker::{Checker, Figures},
    line::{self, Line},
    programs::Programs,
    random::Random,
    scenario::{Misfortune, Scenario},
    server::Server,
    world::{Machine, Node, Sim, State, Trace},
};

/// How long a takeover may take beyond the lease when nothing else is wrong.
const TAKEOVER: Duration = Duration::from_millis(1_500);
/// How far the watermark may be behind when nothing is wrong: no job's ticks are further apart.
const BEHIND: Duration = Duration::from_secs(8);
/// How long it may take until all runs have ended after the last was published.
const REST: Duration = Duration::from_secs(600);
/// How long it may take from the last outcome to all that follows from it.
const SETTLED: Duration = Duration::from_secs(2);

/// What became of a seed.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub violations: Vec<String>,
    pub digest: u64,
    pub events: u64,
    pub figures: Figures,
    /// How long it took in there.
    pub lasted: Duration,
    pub lines: Vec<String>,
    pub scenario: String,
}

/// Lives a seed, in a runtime of its own.
pub fn live(seed: u64, is_traced: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut random = Random(seed);
        let scenario = Scenario::draw(&mut random);
        let state = State {
            random,
            trace: Trace::new(is_traced),
            server: Server::new(scenario.lease),
            checker: Checker::new(scenario.jobs.clone()),
            faults: scenario.faults,
            is_up: true,
        };
        let sim = Sim::new(state, scenario.epoch);
        let life = Life {
            beats: machines(0, "beat", scenario.beats),
            workers: machines(scenario.beats, "worker", scenario.workers),
            over: CancellationToken::new(),
            beats_over: CancellationToken::new(),
            scenario,
            sim,
        };
        life.live(seed).await
    })
}

fn machines(from: usize, name: &str, count: usize) -> Vec<Arc<Machine>> {
    (0..count)
        .map(|n| Machine::new(from + n, format!("{name}{n}")))
        .collect()
}

struct Life {
    scenario: Scenario,
    sim: Arc<Sim>,
    beats: Vec<Arc<Machine>>,
    workers: Vec<Arc<Machine>>,
    /// Nothing is started any more.
    over: CancellationToken,
    beats_over: CancellationToken,
}

impl Life {
    async fn live(self, seed: u64) -> Outcome {
        let life = Arc::new(self);
        let mut services = JoinSet::new();
        for machine in &life.beats {
            services.spawn(Arc::clone(&life).keep(Arc::clone(machine), Kind::Beat));
        }
        for machine in &life.workers {
            services.spawn(Arc::clone(&life).keep(Arc::clone(machine), Kind::Worker));
        }
        life.trouble().await;
        life.heal();
        life.calm().await;
        life.rest().await;
        let sim = &life.sim;
        let mut guard = sim.lock();
        let state = &mut *guard;
        state.checker.conclude(&state.server, Instant::now());
        Outcome {
            seed,
            violations: std::mem::take(&mut state.checker.violations),
            digest: state.trace.digest(),
            events: state.trace.events,
            figures: state.checker.figures,
            lasted: sim.elapsed(),
            lines: state.trace.lines.take().unwrap_or_default(),
            scenario: format!("{:?}", life.scenario),
        }
    }

    fn machines(&self) -> impl Iterator<Item = &Arc<Machine>> {
        self.beats.iter().chain(&self.workers)
    }

    fn below(&self, limit: u64) -> u64 {
        self.sim.lock().random.below(limit)
    }

    fn milliseconds(&self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_millis()).unwrap();
        Duration::from_millis(self.below(most.max(1)))
    }

    /// Runs a service on a machine, and starts it again when it has ended: as systemd does.
    async fn keep(self: Arc<Self>, machine: Arc<Machine>, kind: Kind) {
        let over = match kind {
            Kind::Beat => &self.beats_over,
            Kind::Worker => &self.over,
        };
        let mut count = 0;
        while !over.is_cancelled() {
            count += 1;
            let node = machine.start(&self.sim, count);
            self.sim.note(format_args!("{} starts", node.name));
            let service = Arc::clone(&self).serve(kind, Arc::clone(&node));
            let mut task = tokio::spawn(within(Arc::clone(&node) as Arc<dyn World>, service));
            let ended = tokio::select! {
                biased;
                () = node.died.cancelled() => None,
                ended = &mut task => Some(ended),
                () = over.cancelled() => {
                    node.drain.cancel();
                    Some((&mut task).await)
                }
            };
            match ended {
                None => task.abort(),
                Some(ended) => {
                    if let Err(error) = ended {
                        let what = format!("{} failed: {error}", node.name);
                        self.sim.lock().checker.broken(what);
                    }
                    node.die();
                }
            }
            sleep(self.milliseconds(Duration::from_secs(3))).await;
        }
    }

    async fn serve(self: Arc<Self>, kind: Kind, node: Arc<Node>) {
        let line = Arc::new(Line {
            node: Arc::clone(&node),
            lease: self.scenario.lease,
        });
        match kind {
            Kind::Beat => {
                let options = BeatOptions {
                    id: node.name.clone(),
                    schedules: Vec::new(),
                    own: None,
                    keep_verdicts: Duration::from_secs(86_400),
                    leader_lease: self.scenario.leader_lease,
                    credentials: None,
                    pulse: Pulse::unwatched("beat"),
                    ping: None,
                };
                let set = self.scenario.jobs.clone();
                let (_ask, reload) = mpsc::channel(1);
                let served = beat::serve(line, options, set, reload, node.drain.clone()).await;
                if let Err(error) = served {
                    self.sim.note(format_args!("{} ends: {error}", node.name));
                }
            }
            Kind::Worker => {
                let queues = self.scenario.queues();
                let queues = queues.iter().map(|queue| queue.parse().unwrap());
                let options = WorkerOptions {
                    concurrency: self.scenario.concurrency,
                    drain_timeout: Duration::from_secs(2),
                    player: Some(Arc::new(Programs {
                        node: Arc::clone(&node),
                    })),
                    ..WorkerOptions::new(node.name.clone(), queues.collect())
                };
                let worker = Worker::new(line, options).unwrap();
                worker
                    .run(node.drain.clone(), CancellationToken::new())
                    .await;
            }
        }
    }

    /// Things go wrong.
    async fn trouble(self: &Arc<Self>) {
        let until = Instant::now() + self.scenario.troubled;
        let total: u64 = self.scenario.weights.iter().map(|(_, weight)| weight).sum();
        while Instant::now() < until {
            sleep(self.milliseconds(self.scenario.pause * 2)).await;
            if total == 0 {
                continue;
            }
            let mut at = self.below(total);
            let what = self.scenario.weights.iter().find(|(_, weight)| {
                let hit = at < *weight;
                at = at.wrapping_sub(*weight);
                hit
            });
            let &(what, _) = what.unwrap();
            self.strike(what).await;
        }
    }

    async fn strike(self: &Arc<Self>, what: Misfortune) {
        let count = self.beats.len() + self.workers.len();
        let at = self.below(count as u64);
        let machine = self.machines().nth(usize::try_from(at).unwrap()).unwrap();
        let machine = Arc::clone(machine);
        let node = machine.node().filter(|node| node.is_alive());
        let length = self.milliseconds(self.scenario.lease * 5 / 2);
        let name = node.as_ref().map_or("", |node| &node.name).to_owned();
        self.sim
            .note(format_args!("{what:?} {name} {}", length.as_millis()));
        match (what, node) {
            (Misfortune::Crash, Some(node)) => node.die(),
            (Misfortune::Freeze, Some(node)) => {
                node.set_frozen(true);
                tokio::spawn(async move {
                    sleep(length).await;
                    node.set_frozen(false);
                });
            }
            (Misfortune::Cut, _) => {
                machine.set_link(false);
                self.sim.bell.notify_waiters();
                let index = [machine.index].into();
                self.sim.lock().server.break_off(&index);
                tokio::spawn(async move {
                    sleep(length).await;
                    machine.set_link(true);
                });
            }
            (Misfortune::Clock, _) => {
                let offset = i64::try_from(self.below(40_000)).unwrap() - 20_000;
                machine.set_clock(offset);
            }
            (Misfortune::Drain, Some(node)) => node.drain.cancel(),
            (Misfortune::BrokerDies, _) => {
                let all: Vec<_> = self.machines().cloned().collect();
                line::kill(&self.sim, &all);
                let sim = Arc::clone(&self.sim);
                tokio::spawn(async move {
                    sleep(length).await;
                    line::restart(&sim, &all);
                });
            }
            (Misfortune::Cancel, _) => self.cancel().await,
            (Misfortune::Crash | Misfortune::Freeze | Misfortune::Drain, None) => {}
        }
    }

    /// Somebody cancels a run that is being executed.
    async fn cancel(&self) {
        let running = self.sim.lock().checker.running_records();
        if running.is_empty() {
            return;
        }
        let at = usize::try_from(self.below(running.len() as u64)).unwrap();
        let run_id = &running[at];
        let operator = Machine::new(usize::MAX, "operator".to_owned());
        let line = Line {
            node: operator.start(&self.sim, 0),
            lease: self.scenario.lease,
        };
        let asking = async {
            let entry = line.get(Bucket::Runs, &run_id.key()).await.ok()??;
            let record: RunRecord = serde_json::from_slice(&entry.value).ok()?;
            let about = (Some(entry.revision), None);
            let now = self.sim.now();
            broker::request_cancel(&line, record, about, None, now)
                .await
                .ok()
        };
        // The operator may give up, too.
        let _ = tokio::time::timeout(Duration::from_secs(3), asking).await;
    }

    /// All is well from now on.
    fn heal(&self) {
        self.sim.note(format_args!("all is well"));
        self.sim.lock().faults = 0;
        let all: Vec<_> = self.machines().cloned().collect();
        for machine in &all {
            if !machine.is_linked() {
                machine.set_link(true);
            }
            machine.set_clock(0);
            if let Some(node) = machine.node() {
                node.set_frozen(false);
            }
        }
        line::restart(&self.sim, &all);
    }

    /// The schedule goes on, and a worker that dies is stood in for.
    async fn calm(&self) {
        // What was taken early may be left alone for a lease, and what was late may come still.
        sleep(self.scenario.lease * 2 + Duration::from_secs(14)).await;
        let at = usize::try_from(self.below(self.workers.len() as u64)).unwrap();
        let victim = self.workers[at].node().filter(|node| node.is_alive());
        if let Some(victim) = victim {
            victim.die();
            sleep(self.scenario.lease + TAKEOVER + Duration::from_secs(3)).await;
            let mut state = self.sim.lock();
            // Where slots are few, others may have them.
            let has_room = self.scenario.concurrency >= 8;
            for lost in state
                .checker
                .not_taken_over(&victim.name)
                .iter()
                .filter(|_| has_room)
            {
                let lease = Seconds::new(self.scenario.lease);
                let what = format!(
                    "{lost} on {}, which died, was not taken over within the lease of {lease}",
                    victim.name
                );
                state.checker.broken(what);
            }
        }
        let now = self.sim.now();
        let mut state = self.sim.lock();
        let watermark = state.checker.watermark();
        if watermark.is_none_or(|at| at + BEHIND < now) {
            let what = format!("the watermark is at {watermark:?} when it is {now}");
            state.checker.broken(what);
        }
    }

    /// No more ticks; all that was accepted comes to its end.
    async fn rest(&self) {
        self.beats_over.cancel();
        let until = Instant::now() + REST;
        loop {
            sleep(Duration::from_secs(1)).await;
            let beats = self.beats.iter().filter_map(|machine| machine.node());
            let beats = beats.filter(|node| node.is_alive()).count();
            let mut state = self.sim.lock();
            let unfinished = state.checker.unfinished();
            let running = state.checker.running();
            if beats == 0 && running == 0 && unfinished.is_empty() {
                break;
            }
            if Instant::now() > until {
                let what =
                    format!("not at rest: {beats} beats, {running} processes, and {unfinished:?}");
                state.checker.broken(what);
                break;
            }
        }
        // What follows from the last outcome.
        sleep(SETTLED).await;
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Beat,
    Worker,
}
