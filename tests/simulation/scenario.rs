//! What a seed says: which jobs, how many machines, and how much goes wrong.

use std::time::Duration;

use chrono::{DateTime, Utc};
use orchestrator::{
    job::{
        Backoff, CatchUp, Concurrency, Execute, FirstRun, Job, LeaseLoss, Lock, Overlap, Policy,
        Rate, RetryPolicy, RunSpec, Seconds, Trigger, interval::Interval,
    },
    schedules::JobSet,
};

use crate::random::Random;

/// Everything that is fixed before it begins.
#[derive(Debug)]
pub struct Scenario {
    pub epoch: DateTime<Utc>,
    pub jobs: JobSet,
    pub beats: usize,
    pub workers: usize,
    pub concurrency: usize,
    pub lease: Duration,
    /// `None`: every beat works.
    pub leader_lease: Option<Duration>,
    /// How many of a thousand calls go wrong.
    pub faults: u64,
    /// How long things go wrong.
    pub troubled: Duration,
    /// The mean pause between two misfortunes.
    pub pause: Duration,
    /// How likely each misfortune is.
    pub weights: [(Misfortune, u64); 7],
}

/// What happens to machines, processes, the broker and runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfortune {
    Crash,
    Freeze,
    Cut,
    Clock,
    Drain,
    BrokerDies,
    Cancel,
}

impl Scenario {
    pub fn draw(random: &mut Random) -> Self {
        let mut one_of = |choices: &[u64]| {
            let at = random.below(choices.len() as u64);
            choices[usize::try_from(at).unwrap()]
        };
        let lease = Duration::from_millis(one_of(&[1_500, 2_000, 3_000, 5_000]));
        let leader_lease = match one_of(&[0, 1, 1, 1, 1]) {
            0 => None,
            _ => Some(Duration::from_millis(one_of(&[900, 1_500, 3_000]))),
        };
        let (beats, workers) = (one_of(&[1, 2, 2, 3]), one_of(&[1, 2, 2, 3]));
        let faults = one_of(&[0, 5, 20, 60]);
        let troubled = Duration::from_secs(one_of(&[8, 15, 25]));
        let pause = Duration::from_millis(one_of(&[400, 1_000, 3_000]));
        let concurrency = one_of(&[1, 2, 8]);
        use Misfortune::{BrokerDies, Cancel, Clock, Crash, Cut, Drain, Freeze};
        let weights = [Crash, Freeze, Cut, Clock, Drain, BrokerDies, Cancel]
            .map(|what| (what, one_of(&[0, 1, 1, 4])));
        let epoch = 1_795_401_000 + i64::try_from(one_of(&[0, 7, 31, 59])).unwrap();
        let count = one_of(&[1, 2, 3, 4]);
        let jobs = (0..count).map(|number| job(random, number));
        Self {
            epoch: DateTime::from_timestamp(epoch, 0).unwrap(),
            jobs: JobSet::new(jobs.collect::<Vec<_>>()),
            beats: usize::try_from(beats).unwrap(),
            workers: usize::try_from(workers).unwrap(),
            concurrency: usize::try_from(concurrency).unwrap(),
            lease,
            leader_lease,
            faults,
            troubled,
            pause,
            weights,
        }
    }

    pub fn queues(&self) -> Vec<String> {
        vec!["default".to_owned(), "high".to_owned()]
    }
}

fn job(random: &mut Random, number: u64) -> Job {
    let seconds = Seconds::from_secs;
    let every = 1 + random.below(6);
    let interval = Interval::new(every, random.below(every)).unwrap();
    let overlap = match random.below(6) {
        0..2 => Overlap::Skip,
        2..4 => Overlap::Queue,
        4 => Overlap::Replace,
        _ => Overlap::Allow,
    };
    let policy = Policy {
        first_run: match random.below(4) {
            0 => FirstRun::Now,
            _ => FirstRun::Next,
        },
        catch_up: match random.below(3) {
            0 => CatchUp::Skip,
            1 => CatchUp::Latest,
            _ => CatchUp::All,
        },
        catch_up_window: seconds([5, 20, 3_600][usize::try_from(random.below(3)).unwrap()]),
        overlap,
        jitter: (random.below(4) == 0).then(|| seconds(1 + random.below(4))),
        expires: (random.below(5) == 0).then(|| seconds(2 + random.below(10))),
        ..Policy::default()
    };
    let mut spec = RunSpec::new(Execute::Shell("true".to_owned()));
    spec.retry = RetryPolicy {
        attempts: 1 + u32::try_from(random.below(3)).unwrap(),
        backoff: Backoff::Fixed(seconds(random.below(3))),
        not_on_exit: vec![2],
        max_crashes: 1 + u32::try_from(random.below(4)).unwrap(),
        ..RetryPolicy::default()
    };
    spec.kill.grace = seconds(1 + random.below(3));
    if random.below(3) == 0 {
        spec.lease_loss = LeaseLoss::Stop;
    }
    if random.below(5) == 0 {
        spec.timeout = Some(seconds(1 + random.below(4)));
    }
    let is_slow = every >= 3 || overlap != Overlap::Allow;
    if is_slow && random.below(4) == 0 {
        spec.lock = Some(Box::new(Lock {
            name: format!("lock-{}", random.below(2)).parse().unwrap(),
            inherit: false,
            wait: (random.below(3) == 0).then(|| seconds(4)),
        }));
    }
    if is_slow && random.below(6) == 0 {
        spec.concurrency = Some(Box::new(Concurrency {
            key: "site".parse().unwrap(),
            limit: 1 + u32::try_from(random.below(2)).unwrap(),
            wait: None,
        }));
    }
    if is_slow && random.below(8) == 0 {
        spec.rate = Some(Box::new(Rate {
            key: "pace".parse().unwrap(),
            limit: "1/s".parse().unwrap(),
            burst: 1,
        }));
    }
    Job {
        name: format!("job-{number}").parse().unwrap(),
        description: None,
        tags: Vec::new(),
        enabled: true,
        trigger: Trigger::Every(interval),
        timezone: chrono_tz::UTC,
        queue: match random.below(3) {
            0 => "high".parse().unwrap(),
            _ => "default".parse().unwrap(),
        },
        policy,
        unique: None,
        spec,
    }
}
