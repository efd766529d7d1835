//! A process's line to the broker: the trait `Broker` over the simulated server, with all that can go wrong on
//! the way. A call may be lost, come late or twice, its answer may be lost, the process may die before or
//! after its effect. What a dead process asks for never happens.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use orchestrator::broker::BrokerError;
use tokio::time::{Instant, sleep};

use crate::world::{Machine, Node, Sim, State};

/// The line of one process.
#[derive(Debug)]
pub struct Line {
    pub node: Arc<Node>,
    pub lease: Duration,
}

/// What the broker is called.
pub const NAME: &str = "the simulated broker";

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    Well,
    Lost,
    AnswerLost,
    /// It takes effect later, and nobody hears of it.
    Late(Duration),
    /// It takes effect a second time.
    Twice(Duration),
    Full,
    DiesBefore,
    DiesAfter,
}

/// On which calls what may happen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Read,
    Write,
    /// Nothing of it may come later than its caller gives up.
    Settle,
}

/// What a call does at the broker.
type Effect<T> = Arc<dyn Fn(&mut State, Instant) -> T + Send + Sync>;

impl Line {
    pub fn sim(&self) -> &Arc<Sim> {
        &self.node.sim
    }

    /// A dead process does nothing more.
    pub async fn alive(&self) {
        if !self.node.is_alive() {
            std::future::pending().await
        }
    }

    pub fn is_connected(&self) -> bool {
        self.node.machine.is_linked() && self.sim().lock().is_up
    }

    pub fn unreachable(&self, operation: &str) -> BrokerError {
        BrokerError::Unreachable {
            broker: NAME.to_owned(),
            operation: operation.to_owned(),
            reason: "simulated".to_owned(),
        }
    }

    /// How long a caller waits for an answer that does not come.
    pub fn patience(&self) -> Duration {
        let mut state = self.sim().lock();
        Duration::from_millis(match state.random.below(4) {
            0 => 5_000,
            1 => state.random.below(2_000),
            _ => state.random.below(200),
        })
    }

    /// Draws what happens to a call, and how long its two ways take.
    pub fn fate(&self, kind: Kind) -> (Fate, Duration, Duration) {
        let mut state = self.sim().lock();
        let faults = state.faults;
        let random = &mut state.random;
        let ways = [(); 2].map(|()| match random.below(8) {
            0 => Duration::from_millis(random.below(20)),
            1..4 => Duration::from_millis(random.below(3)),
            _ => Duration::ZERO,
        });
        let mut later = |most: u64| Duration::from_millis(random.below(most));
        let (long, short) = (later(12_000), later(800));
        let fate = match (random.below(1_000) < faults, kind, random.below(100)) {
            (false, ..) => Fate::Well,
            (true, _, ..25) => Fate::Lost,
            (true, _, 25..50) => Fate::AnswerLost,
            (true, _, 50..55) => Fate::DiesBefore,
            (true, _, 55..60) => Fate::DiesAfter,
            (true, Kind::Write, 60..75) => Fate::Late(long),
            (true, Kind::Write, 75..90) => Fate::Twice(long),
            (true, Kind::Write, _) => Fate::Full,
            (true, Kind::Settle, 60..80) => Fate::Late(short),
            (true, Kind::Settle, _) => Fate::Twice(short),
            (true, Kind::Read, _) => Fate::Lost,
        };
        (fate, ways[0], ways[1])
    }

    pub async fn call<T: Send + 'static>(
        &self,
        kind: Kind,
        (operation, subject): (&'static str, &str),
        effect: impl Fn(&mut State, Instant) -> T + Send + Sync + 'static,
    ) -> Result<T, BrokerError> {
        self.alive().await;
        let (fate, there, back) = self.fate(kind);
        let losses = self.node.machine.losses();
        let effect: Effect<T> = Arc::new(effect);
        pass(there).await;
        self.alive().await;
        let name = &self.node.name;
        if fate != Fate::Well {
            self.sim()
                .note(format_args!("{name} {operation} {subject}: {fate:?}"));
        }
        let is_lost = matches!(fate, Fate::Lost | Fate::DiesBefore | Fate::Late(_));
        if let Fate::Late(by) = fate {
            self.later(by, Arc::clone(&effect));
        }
        if fate == Fate::DiesBefore {
            self.node.die();
        }
        if is_lost || !self.is_connected() {
            sleep(self.patience()).await;
            self.alive().await;
            return Err(self.unreachable(operation));
        }
        if fate == Fate::Full {
            return Err(BrokerError::Full {
                broker: NAME.to_owned(),
                operation: operation.to_owned(),
                reason: "simulated".to_owned(),
            });
        }
        let answer = {
            let now = self.sim().elapsed();
            let mut state = self.sim().lock();
            state
                .trace
                .note(now, format_args!("{name} {operation} {subject}"));
            effect(&mut state, Instant::now())
        };
        self.sim().bell.notify_waiters();
        match fate {
            Fate::DiesAfter => self.node.die(),
            Fate::Twice(by) => self.later(by, effect),
            _ => {}
        }
        pass(back).await;
        self.alive().await;
        if fate == Fate::AnswerLost || losses != self.node.machine.losses() {
            sleep(self.patience()).await;
            self.alive().await;
            return Err(self.unreachable(operation));
        }
        Ok(answer)
    }

    /// Has an effect take place later, whatever became of its caller.
    fn later<T: 'static>(&self, by: Duration, effect: Effect<T>) {
        let (sim, name) = (Arc::clone(self.sim()), self.node.name.clone());
        tokio::spawn(async move {
            sleep(by).await;
            let now = sim.elapsed();
            let mut state = sim.lock();
            if state.is_up {
                state
                    .trace
                    .note(now, format_args!("a late call of {name} arrives"));
                effect(&mut state, Instant::now());
                drop(state);
                sim.bell.notify_waiters();
            }
        });
    }
}

/// The way to the broker, or back.
async fn pass(way: Duration) {
    match way {
        Duration::ZERO => {}
        way => sleep(way).await,
    }
}

/// The broker is killed. Who was connected notices.
pub fn kill(sim: &Sim, machines: &[Arc<Machine>]) {
    let all: BTreeSet<usize> = machines.iter().map(|machine| machine.index).collect();
    let now = sim.elapsed();
    {
        let mut state = sim.lock();
        state.trace.note(now, format_args!("the broker is killed"));
        state.is_up = false;
        state.server.break_off(&all);
    }
    for machine in machines {
        machine.set_link(machine.is_linked());
    }
    sim.bell.notify_waiters();
}

/// It is there again.
pub fn restart(sim: &Sim, machines: &[Arc<Machine>]) {
    let now = sim.elapsed();
    {
        let mut guard = sim.lock();
        let state = &mut *guard;
        if state.is_up {
            return;
        }
        state
            .trace
            .note(now, format_args!("the broker is there again"));
        state.is_up = true;
        let random = &mut state.random;
        state
            .server
            .restart(Instant::now(), || match random.below(10) {
                0 => Some(false),
                1 => Some(true),
                _ => None,
            });
    }
    for machine in machines {
        machine.set_link(machine.is_linked());
    }
    sim.bell.notify_waiters();
}
