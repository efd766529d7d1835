//! The only place that reads the machine's clocks. Everything else is handed an instant.

#[cfg(feature = "simulation")]
pub mod simulated;

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

/// Wall-clock time now. It may step in either direction; never use it to measure a duration.
#[allow(
    clippy::disallowed_methods,
    reason = "the one reader of the wall clock"
)]
pub fn now() -> DateTime<Utc> {
    #[cfg(feature = "simulation")]
    if let Some(now) = simulated::ask(|world| world.now()) {
        return now;
    }
    Utc::now()
}

/// A monotonic instant, to measure durations on this machine.
#[allow(
    clippy::disallowed_methods,
    reason = "the one reader of the monotonic clock"
)]
pub fn monotonic() -> Instant {
    #[cfg(feature = "simulation")]
    if let Some(now) = simulated::ask(|world| world.monotonic()) {
        return now;
    }
    Instant::now()
}

/// Blocks this thread. For threads and processes without a runtime.
#[allow(clippy::disallowed_methods, reason = "the one that sleeps")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// How long the machine has been up, its sleep included: the same for all its processes, and the
/// time that passes for a server elsewhere while this machine sleeps.
pub fn uptime() -> Duration {
    #[cfg(feature = "simulation")]
    if let Some(uptime) = simulated::ask(|world| world.uptime()) {
        return uptime;
    }
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

/// Has a task that is about to be spawned read the same clocks as the one that spawns it: those of the machine,
/// unless a test governs them.
#[cfg(not(feature = "simulation"))]
pub(crate) fn same<F: Future>(future: F) -> F {
    future
}

/// Has a task that is about to be spawned read the same clocks as the one that spawns it: those of the machine,
/// unless a test governs them.
#[cfg(feature = "simulation")]
pub(crate) fn same<F: Future>(future: F) -> simulated::Within<F> {
    simulated::Within {
        world: simulated::current(),
        future: Box::pin(future),
    }
}
