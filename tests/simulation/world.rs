//! The simulated world: machines with clocks of their own, processes that run, stand still and die on them,
//! the broker between them, and one source of chance for all of it.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use orchestrator::clock::simulated::World;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{checker::Checker, random::Random, server::Server};

/// How long machines have been up when a simulation begins.
const UP: Duration = Duration::from_secs(3600);

/// How often a process may read the clock at one moment.
const AT_ONCE: u32 = 20_000;

/// The world of one seed.
pub struct Sim {
    state: Mutex<State>,
    /// Rung whenever a run may be there to be taken.
    pub bell: Notify,
    pub started: Instant,
    pub epoch: DateTime<Utc>,
}

/// What changes in it.
pub struct State {
    pub random: Random,
    pub trace: Trace,
    pub server: Server,
    pub checker: Checker,
    /// How many of a thousand calls go wrong.
    pub faults: u64,
    /// Whether the broker runs.
    pub is_up: bool,
}

impl Sim {
    pub fn new(state: State, epoch: DateTime<Utc>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(state),
            bell: Notify::new(),
            started: Instant::now(),
            epoch,
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn elapsed(&self) -> Duration {
        Instant::now() - self.started
    }

    /// The right time.
    pub fn now(&self) -> DateTime<Utc> {
        self.epoch + TimeDelta::from_std(self.elapsed()).unwrap()
    }

    pub fn uptime(&self) -> Duration {
        UP + self.elapsed()
    }

    /// The moment of an uptime.
    pub fn moment(&self, uptime: Duration) -> Instant {
        self.started + uptime.saturating_sub(UP)
    }

    pub fn note(&self, what: fmt::Arguments<'_>) {
        let at = self.elapsed();
        self.lock().trace.note(at, what);
    }
}

/// What happened, as a digest and, if somebody wants to read it, as text.
#[derive(Debug, Default)]
pub struct Trace {
    digest: u64,
    pub events: u64,
    pub lines: Option<Vec<String>>,
}

impl Trace {
    pub fn new(is_kept: bool) -> Self {
        Self {
            digest: 0xcbf2_9ce4_8422_2325,
            events: 0,
            lines: is_kept.then(Vec::new),
        }
    }

    pub fn note(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        self.events += 1;
        write!(self, "{}:{what}", at.as_millis()).unwrap();
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>8.3} {what}", at.as_secs_f64()));
        }
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }
}

/// FNV-1a.
impl fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

/// A computer: its clock and its connection outlive the processes that run on it.
pub struct Machine {
    pub index: usize,
    pub name: String,
    /// How far its clock is off, in milliseconds.
    offset: AtomicI64,
    link: Mutex<Link>,
    node: Mutex<Option<Arc<Node>>>,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    is_up: bool,
    /// Since when the connection has not been lost.
    since: Instant,
    /// How often it was.
    losses: u64,
}

impl Machine {
    pub fn new(index: usize, name: String) -> Arc<Self> {
        Arc::new(Self {
            index,
            name,
            offset: AtomicI64::new(0),
            link: Mutex::new(Link {
                is_up: true,
                since: Instant::now(),
                losses: 0,
            }),
            node: Mutex::new(None),
        })
    }

    pub fn set_clock(&self, milliseconds: i64) {
        self.offset.store(milliseconds, Ordering::Relaxed);
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap()
    }

    pub fn is_linked(&self) -> bool {
        self.link().is_up
    }

    pub fn losses(&self) -> u64 {
        self.link().losses
    }

    /// The connection is lost, and comes back when `is_up`.
    pub fn set_link(&self, is_up: bool) {
        let mut link = self.link();
        link.losses += 1;
        link.since = Instant::now();
        link.is_up = is_up;
    }

    pub fn node(&self) -> Option<Arc<Node>> {
        self.node.lock().unwrap().clone()
    }

    /// A process starts on it.
    pub fn start(self: &Arc<Self>, sim: &Arc<Sim>, count: u64) -> Arc<Node> {
        let node = Arc::new(Node {
            name: format!("{}.{count}", self.name),
            machine: Arc::clone(self),
            sim: Arc::clone(sim),
            chance: Mutex::new(Random(sim.lock().random.below(u64::MAX))),
            frozen: AtomicBool::new(false),
            reads: Mutex::default(),
            asleep: Mutex::new(Vec::new()),
            died: CancellationToken::new(),
            drain: CancellationToken::new(),
        });
        *self.node.lock().unwrap() = Some(Arc::clone(&node));
        node
    }
}

/// A process of beat or of a worker, from its start to its death.
pub struct Node {
    pub name: String,
    pub machine: Arc<Machine>,
    pub sim: Arc<Sim>,
    chance: Mutex<Random>,
    frozen: AtomicBool,
    /// How often it has read the clock at the same moment.
    reads: Mutex<(Duration, u32)>,
    asleep: Mutex<Vec<Waker>>,
    pub died: CancellationToken,
    /// It was asked to stop.
    pub drain: CancellationToken,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Node {
    pub fn is_alive(&self) -> bool {
        !self.died.is_cancelled()
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    /// It dies, and all that it executes with it.
    pub fn die(&self) {
        if self.is_alive() {
            self.died.cancel();
            let now = self.sim.elapsed();
            let mut state = self.sim.lock();
            state.trace.note(now, format_args!("{} dies", self.name));
            state.checker.died(&self.name, now);
            let machine = BTreeSet::from([self.machine.index]);
            state.server.break_off(&machine);
        }
    }

    /// How long ago its machine's connection was lost, or came back. A process that starts later knows of it too:
    /// that is more than the NATS adapter tells (decision 17).
    pub fn undisturbed_for(&self) -> Duration {
        let link = *self.machine.link();
        match (link.is_up, link.losses) {
            (false, _) => Duration::ZERO,
            (true, 0) => Duration::MAX,
            (true, _) => Instant::now() - link.since,
        }
    }

    /// A loop that reads the clock again and again lets no time go by.
    fn does_not_spin(&self) {
        let now = self.sim.elapsed();
        let mut reads = self.reads.lock().unwrap();
        *reads = match *reads {
            (at, count) if at == now => (at, count + 1),
            _ => (now, 1),
        };
        assert!(reads.1 < AT_ONCE, "{} spins at {now:?}", self.name);
    }

    pub fn set_frozen(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
        if !frozen {
            for waker in self.asleep.lock().unwrap().drain(..) {
                waker.wake();
            }
        }
    }
}

impl World for Node {
    fn now(&self) -> DateTime<Utc> {
        self.does_not_spin();
        let offset = self.machine.offset.load(Ordering::Relaxed);
        self.sim.now() + TimeDelta::milliseconds(offset)
    }

    fn monotonic(&self) -> std::time::Instant {
        Instant::now().into_std()
    }

    fn uptime(&self) -> Duration {
        self.sim.uptime()
    }

    fn random(&self) -> u64 {
        self.chance.lock().unwrap().below(u64::MAX)
    }

    fn stands_still(&self, context: &Context<'_>) -> bool {
        let frozen = self.is_frozen();
        if frozen {
            self.asleep.lock().unwrap().push(context.waker().clone());
        }
        frozen
    }
}
