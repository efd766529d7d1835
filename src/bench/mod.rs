//! Measures an installation beside the limits of what it is built on: how fast processes can be spawned here, and
//! what its broker can do.
//!
//! What is compared is measured in the same round, one after the other, and compared by the median of the rounds'
//! ratios: machines are noisy, ratios less so. Nothing is decided here and nothing is kept.

mod latency;
mod limits;
mod runs;

use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use crate::{
    broker::{BrokerError, SharedBroker},
    exec::{Cgroup, ExecError},
    job::{JobName, QueueName},
};
use runs::Work;

/// What is measured, and how often.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// How often everything is measured; at least 1.
    pub rounds: usize,
    /// Programs a round.
    pub programs: usize,
    /// How many programs are executed at once.
    pub concurrency: usize,
    /// Runs a round that execute nothing.
    pub noops: usize,
    /// How many of those are executed at once.
    pub noop_concurrency: usize,
    /// Runs of which the delay from publish to start is taken, in all.
    pub delays: usize,
    /// Where programs have control groups.
    pub cgroup: Cgroup,
    /// What ends their processes if this one is killed.
    pub guardian: Option<std::path::PathBuf>,
}

/// What came out; rates are per second, and medians.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The broker as a user knows it.
    pub broker: String,
    /// How many processors this process may use.
    pub processors: usize,
    /// How often everything was measured.
    pub rounds: usize,
    /// `/bin/true` through the broker and a worker, beside spawning it from one task, as an ordinary asynchronous
    /// program does.
    pub programs: Compared,
    /// The same, beside as many threads that do nothing but spawn and wait: all that the machine can do.
    pub programs_by_threads: Compared,
    /// Runs that execute nothing, from publish to acknowledgement, beside the broker's operations for them.
    pub noops: Compared,
    /// From the call that publishes a run to the first output of its shell; nothing else going on.
    pub delay_ms: Delays,
    /// The same from the call that spawns the shell: what of `delay_ms` is the shell's own.
    pub shell_ms: Delays,
}

/// A rate beside its limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    /// Runs a second.
    pub rate: f64,
    /// What would be possible.
    pub limit: f64,
    /// The first by the second.
    pub ratio: f64,
    /// How many were executed at once.
    pub concurrency: usize,
    /// How many there were in a round.
    pub count: usize,
}

/// Percentiles of delays, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Delays {
    /// Half were shorter.
    pub p50: f64,
    /// Nine of ten were shorter.
    pub p90: f64,
    /// All but one in a hundred were shorter.
    pub p99: f64,
    /// The longest.
    pub max: f64,
    /// How many were taken.
    pub count: usize,
}

/// Why nothing can be told.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The broker did not do its part.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The executor could not be set up.
    #[error(transparent)]
    Executor(#[from] ExecError),
    /// Something of the machine is missing.
    #[error("cannot measure: {what}: {source}")]
    Machine {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Nothing happened for too long.
    #[error("cannot measure: {0} for a minute")]
    Stuck(&'static str),
    /// A name or a message could not be made.
    #[error("cannot measure: {0}")]
    Invalid(String),
}

/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures on `broker`, which should have nothing else to do: its queues are used, and runs and records stay in it.
/// `tell` is told what is measured now.
pub async fn run(
    broker: &SharedBroker,
    options: &BenchOptions,
    tell: impl Fn(String),
) -> Result<Report, BenchError> {
    let rounds = options.rounds.max(1);
    let (mut programs, mut threads, mut noops) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        tell(format!("round {} of {rounds}: programs", round + 1));
        let (count, concurrency) = (options.programs, options.concurrency);
        let by_task = limits::spawns(count, concurrency).await?;
        let by_threads = limits::spawns_by_threads(count, concurrency).await?;
        let work = Work::Programs(options.programs, options.concurrency);
        let measured = runs::work(broker, options, work).await?;
        programs.push((measured.worked, by_task));
        threads.push((measured.worked, by_threads));
        tell(format!("round {} of {rounds}: the broker alone", round + 1));
        let limit = limits::operations(broker, options.noops, options.noop_concurrency).await?;
        let work = Work::Nothing(options.noops, options.noop_concurrency);
        let measured = runs::work(broker, options, work).await?;
        noops.push((measured.all, limit));
    }
    tell(format!("delays of {} runs", options.delays));
    let (delays, shells) = latency::delays(broker, options).await?;
    Ok(Report {
        broker: broker.describe(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        rounds,
        programs: compared(&programs, options.programs, options.concurrency),
        programs_by_threads: compared(&threads, options.programs, options.concurrency),
        noops: compared(&noops, options.noops, options.noop_concurrency),
        delay_ms: percentiles(delays),
        shell_ms: percentiles(shells),
    })
}

/// Medians of pairs of a rate and its limit.
fn compared(pairs: &[(f64, f64)], count: usize, concurrency: usize) -> Compared {
    let of = |part: fn(&(f64, f64)) -> f64| median(pairs.iter().map(part).collect());
    Compared {
        rate: of(|pair| pair.0),
        limit: of(|pair| pair.1),
        ratio: of(|pair| pair.0 / pair.1),
        concurrency,
        count,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn percentiles(mut delays: Vec<Duration>) -> Delays {
    delays.sort_unstable();
    // The smallest delay that is not shorter than so many of a hundred.
    let at = |percent: usize| {
        let rank = (delays.len() * percent).div_ceil(100).max(1);
        let delay = delays.get(rank - 1);
        delay.map_or(f64::NAN, |delay| delay.as_secs_f64() * 1e3)
    };
    Delays {
        p50: at(50),
        p90: at(90),
        p99: at(99),
        max: at(100),
        count: delays.len(),
    }
}

fn rate(count: usize, took: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let count = count as f64;
    count / took.as_secs_f64()
}

/// The job of all measurements.
fn job_name() -> Result<JobName, BenchError> {
    "bench".parse().map_err(invalid)
}

/// One for each measurement, so that none sees what another left.
fn new_queue() -> Result<QueueName, BenchError> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("bench-{}", &id[..8]).parse().map_err(invalid)
}

fn invalid(error: impl std::fmt::Display) -> BenchError {
    BenchError::Invalid(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_delays_that_were_taken() {
        let delays = percentiles((1..=200).map(Duration::from_millis).collect());
        assert_eq!(
            (delays.p50, delays.p90, delays.p99, delays.max),
            (100.0, 180.0, 198.0, 200.0)
        );
        assert!(percentiles(Vec::new()).p50.is_nan());
    }

    #[test]
    fn ratios_are_compared_within_a_round() {
        // A machine that is twice as fast in the second round.
        let compared = compared(&[(50.0, 100.0), (120.0, 200.0), (55.0, 100.0)], 10, 1);
        assert!((compared.ratio - 0.55).abs() < 1e-9);
        assert!((compared.rate - 55.0).abs() < 1e-9);
    }
}
