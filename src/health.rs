//! Whether this process gets on: what its loops say of themselves, and who is told of it.
//!
//! `/livez` answers 200 as long as every loop comes round; else whoever watches should restart the
//! process. `/readyz` answers 200 as long as it does its work: not while it starts, drains, or waits for
//! the broker. A service manager is told the same ([`crate::manager`]), by the loops themselves: whatever they say
//! is passed on at once, and nobody speaks for a loop that stands still.

mod probes;

use std::{
    fmt::Debug,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::clock;
pub use probes::listen;

/// A loop that says nothing for so long does not come round any more. The calls of a loop have shorter
/// time-outs.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the loops of a process are.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    parts: Mutex<Vec<Pulse>>,
    draining: AtomicBool,
    listener: OnceLock<Box<dyn Listener>>,
}

/// Who is told what the loops say, in the loop that says it: it must not wait for anything.
pub trait Listener: Debug + Send + Sync {
    /// Something was said.
    fn told(&self, health: &Health, news: News);
}

/// What was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// How a loop is: as a rule, that it came round.
    CameRound,
    /// What is configured is to be read again.
    Reloads,
    /// It was read again.
    Reloaded,
    /// Nothing new is taken any more.
    Drains,
}

/// How one loop is; it says so itself.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<Part>);

#[derive(Debug)]
struct Part {
    name: &'static str,
    health: Weak<Inner>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    condition: Condition,
    note: Option<String>,
    has_ended: bool,
}

#[derive(Debug, Clone)]
enum Condition {
    Starting,
    Well(&'static str),
    Failing(String),
}

/// How a process is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Whether every loop comes round.
    pub live: bool,
    /// Whether the work is done.
    pub ready: bool,
    /// Whether nothing new is taken.
    pub draining: bool,
    /// The loops.
    pub parts: Vec<PartReport>,
}

/// How one loop is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartReport {
    /// Which.
    pub name: &'static str,
    /// Whether it comes round.
    pub live: bool,
    /// Whether it does its work.
    pub ready: bool,
    /// What it does, or why not.
    pub detail: String,
    /// What else there is to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// How long ago it said so, in seconds.
    pub seconds_ago: f64,
}

impl Health {
    /// Tells `listener` whatever is said from now on; there is one at most.
    pub fn tell(&self, listener: Box<dyn Listener>) {
        // A second one is not heard of.
        let _ = self.0.listener.set(listener);
    }

    /// A loop that is to be watched.
    pub fn part(&self, name: &'static str) -> Pulse {
        let pulse = Pulse::new(name, Arc::downgrade(&self.0));
        lock(&self.0.parts).push(pulse.clone());
        pulse
    }

    /// What is configured is to be read again; whoever does says [`Pulse::has_reloaded`].
    pub fn reloads(&self) {
        self.say(News::Reloads);
    }

    /// Nothing new is taken any more.
    pub fn drains(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        self.say(News::Drains);
    }

    /// How it is at `now`.
    pub fn report(&self, now: Instant) -> Report {
        let parts: Vec<_> = lock(&self.0.parts)
            .iter()
            .map(|pulse| pulse.report(now))
            .collect();
        let draining = self.0.draining.load(Ordering::Relaxed);
        Report {
            live: parts.iter().all(|part| part.live),
            ready: !draining && parts.iter().all(|part| part.live && part.ready),
            draining,
            parts,
        }
    }

    /// Whether every loop came round since `then`.
    pub fn came_round_since(&self, then: Instant) -> bool {
        let parts = lock(&self.0.parts);
        parts.iter().all(|pulse| {
            let seen = lock(&pulse.0.seen);
            seen.has_ended || seen.at > then
        })
    }

    fn say(&self, news: News) {
        if let Some(listener) = self.0.listener.get() {
            listener.told(self, news);
        }
    }
}

impl Pulse {
    /// A loop that nobody watches.
    pub fn unwatched(name: &'static str) -> Self {
        Self::new(name, Weak::new())
    }

    fn new(name: &'static str, health: Weak<Inner>) -> Self {
        Self(Arc::new(Part {
            name,
            health,
            seen: Mutex::new(Seen {
                at: clock::monotonic(),
                condition: Condition::Starting,
                note: None,
                has_ended: false,
            }),
        }))
    }

    /// It came round, and does its work.
    pub fn is_well(&self, doing: &'static str) {
        self.came_round(|seen| seen.condition = Condition::Well(doing));
    }

    /// It came round, but cannot do its work.
    pub fn fails(&self, reason: String) {
        self.came_round(|seen| seen.condition = Condition::Failing(reason));
    }

    /// Somebody else found that it cannot do its work. That does not say that it comes round.
    pub fn is_held_up(&self, reason: String) {
        lock(&self.0.seen).condition = Condition::Failing(reason);
        self.tell(News::CameRound);
    }

    /// Somebody else found that it can do its work again.
    pub fn is_held_up_no_more(&self, doing: &'static str) {
        lock(&self.0.seen).condition = Condition::Well(doing);
        self.tell(News::CameRound);
    }

    /// It gets on, in the middle of something.
    pub fn beats(&self) {
        self.came_round(|_| ());
    }

    /// It is over, and is not to be waited for.
    pub fn has_ended(&self) {
        self.came_round(|seen| seen.has_ended = true);
    }

    /// It has read again what is configured; what there is to know of that.
    pub fn has_reloaded(&self, note: Option<String>) {
        lock(&self.0.seen).note = note;
        self.tell(News::Reloaded);
    }

    /// How long it has said nothing.
    pub fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(lock(&self.0.seen).at)
    }

    fn came_round(&self, change: impl FnOnce(&mut Seen)) {
        {
            let mut seen = lock(&self.0.seen);
            seen.at = clock::monotonic();
            change(&mut seen);
        }
        self.tell(News::CameRound);
    }

    fn tell(&self, news: News) {
        if let Some(inner) = self.0.health.upgrade() {
            Health(inner).say(news);
        }
    }

    fn report(&self, now: Instant) -> PartReport {
        let seen = lock(&self.0.seen);
        let ago = now.saturating_duration_since(seen.at);
        let live = seen.has_ended || ago <= PATIENCE;
        let (ready, detail) = match &seen.condition {
            Condition::Starting => (false, "starting"),
            Condition::Well(doing) => (true, *doing),
            Condition::Failing(reason) => (false, reason.as_str()),
        };
        PartReport {
            name: self.0.name,
            live,
            ready,
            detail: match live {
                true => detail.to_owned(),
                false => format!("does not get on; before: {detail}"),
            },
            note: seen.note.clone(),
            seconds_ago: ago.as_secs_f64(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_nothing_is_dead_and_who_cannot_work_is_not_ready() {
        let health = Health::default();
        let (beat, worker) = (health.part("beat"), health.part("worker"));
        let start = clock::monotonic();
        let at = |later: u64| {
            let report = health.report(start + Duration::from_secs(later));
            (report.live, report.ready)
        };
        assert_eq!(at(0), (true, false), "starting");
        beat.is_well("leading");
        worker.is_well("taking runs");
        assert_eq!(at(1), (true, true));
        worker.fails("the broker is away".to_owned());
        assert_eq!(at(1), (true, false));
        worker.is_well("taking runs");
        assert_eq!(at(59), (true, true));
        assert_eq!(at(70), (false, false), "nobody said anything");
        worker.has_ended();
        let report = health.report(start + Duration::from_secs(70));
        assert_eq!(report.parts[0].detail, "does not get on; before: leading");
        assert!(report.parts[1].live, "it has ended");
        health.drains();
        assert_eq!(at(1), (true, false));
    }
}
