//! Workers: take runs from a broker, execute them, record their outcome.
//!
//! The thin loop around [`crate::exec`] and the transitions of [`crate::run::RunRecord`]. Takes no
//! more than it can start. Owns nothing that outlives it: what it holds is on lease, and whoever
//! takes over finds everything in the record.
//!
//! A delivery goes through named steps, each in a file of its own: `claim`, then execution under a
//! renewed lease (`attempt`, `lease`, `log`, `cancel`), then `settle`.

mod alone;
mod attempt;
mod bury;
mod cancel;
mod claim;
mod gate;
mod heartbeat;
mod lease;
mod log;
mod options;
mod outage;
mod pauses;
mod permits;
mod pulse;
mod record;
mod refused;
mod registry;
mod settle;
mod shares;
mod watchman;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    broker::{BrokerError, Delivery, Observer, PullRequest, SharedBroker},
    clock,
    exec::{ExecError, Executor, Pings, Player, Secrets},
    health,
};
pub use gate::Gate;
use heartbeat::Said;
pub use options::WorkerOptions;
use outage::Outage;
use pauses::Pauses;
use permits::Waiters;
use pulse::Pulse;
use record::Unwritten;
use refused::Refused;
use registry::Registry;
pub use shares::QueueShare;
use shares::Shares;
use watchman::Watchman;

/// How long one pull waits for work.
const PULL_WAIT: Duration = Duration::from_secs(5);
/// How long the first one does.
const FIRST_PULL_WAIT: Duration = Duration::from_millis(100);
/// How often a loop that waits for its jobs comes round.
const ROUND: Duration = Duration::from_secs(5);
/// How long the last pings may take when a worker ends.
const PINGS: Duration = Duration::from_secs(5);
/// How many outcomes may be on their way to the broker, for each slot.
const RECORDING_PER_SLOT: usize = 4;

/// A worker that has not started yet.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
}

/// What all deliveries of a worker share.
#[derive(Debug)]
struct Shared {
    broker: SharedBroker,
    hands: Hands,
    options: WorkerOptions,
    registry: Registry,
    refused: Refused,
    unwritten: Unwritten,
    recording: Arc<Semaphore>,
    pauses: watch::Sender<Pauses>,
    pulse: Pulse,
    said: Said,
    watchman: Watchman,
    pings: Pings,
    observer: Observer,
    waiters: Waiters,
    /// Held while a start under a rate is reserved.
    reserving: Mutex<()>,
    no_secrets: Secrets,
    /// A broker that is away is not waited for any more.
    at_once: CancellationToken,
}

/// What does the work of an attempt.
#[derive(Debug)]
enum Hands {
    Executor(Executor),
    Player(Arc<dyn Player>),
}

impl Hands {
    /// Never returns.
    async fn tend(&self) {
        match self {
            Self::Executor(executor) => executor.tend().await,
            Self::Player(_) => std::future::pending().await,
        }
    }
}

impl Worker {
    /// Prepares a worker: threads that spawn, a private directory for results.
    pub fn new(broker: SharedBroker, mut options: WorkerOptions) -> Result<Self, ExecError> {
        options.concurrency = options.concurrency.max(1);
        let pulse = Pulse::new(broker.lease());
        let recording = Semaphore::new(options.concurrency * RECORDING_PER_SLOT);
        Ok(Self {
            shared: Arc::new(Shared {
                broker,
                hands: match options.player.take() {
                    Some(player) => Hands::Player(player),
                    None => Hands::Executor(Executor::start(
                        options.guardian.as_deref(),
                        &options.cgroup,
                    )?),
                },
                options,
                registry: Registry::default(),
                refused: Refused::default(),
                unwritten: Unwritten::default(),
                recording: Arc::new(recording),
                pauses: watch::channel(None).0,
                pulse,
                said: Said::nothing(clock::monotonic()),
                watchman: Watchman::default(),
                pings: Pings::new(),
                observer: Observer::default(),
                waiters: Waiters::default(),
                reserving: Mutex::new(()),
                no_secrets: Secrets::default(),
                at_once: CancellationToken::new(),
            }),
        })
    }

    /// Works until `drain`; then lets running jobs end, hands the rest back after the drain
    /// timeout, and returns. `at_once` cuts that short: jobs are killed.
    pub async fn run(self, drain: CancellationToken, at_once: CancellationToken) {
        let shared = self.shared;
        let beside = CancellationToken::new();
        let mut helpers = JoinSet::new();
        let (own, stop) = (|| Arc::clone(&shared), || beside.clone());
        helpers.spawn(clock::same(heartbeat::beat(own(), drain.clone(), stop())));
        helpers.spawn(clock::same(alone::watch(own(), stop())));
        helpers.spawn(clock::same(cancel::follow(own(), stop())));
        helpers.spawn(clock::same(pauses::follow(own(), stop())));
        helpers.spawn(clock::same(pulse::beat(own(), stop())));
        helpers.spawn(clock::same(watchman::watch(own(), stop())));
        helpers.spawn(clock::same(tend(own(), stop())));
        info!(target: "orchestrator::worker", worker = shared.options.id,
            broker = shared.broker.describe(), concurrency = shared.options.concurrency,
            "worker starts");
        let mut deliveries = JoinSet::new();
        take(&shared, &drain, &mut deliveries).await;
        wind_up(&shared, &at_once, &mut deliveries).await;
        beside.cancel();
        while helpers.join_next().await.is_some() {}
        shared.pings.finish(PINGS).await;
        info!(target: "orchestrator::worker", worker = shared.options.id, "worker stopped");
    }
}

/// Has the executor clear up behind abandoned runs, until `stop`.
async fn tend(shared: Arc<Shared>, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = shared.hands.tend() => {}
        () = stop.cancelled() => {}
    }
}

/// Takes runs as slots become free, until `drain`.
async fn take(shared: &Arc<Shared>, drain: &CancellationToken, deliveries: &mut JoinSet<()>) {
    let slots = Arc::new(Semaphore::new(shared.options.concurrency));
    let mut serving = Serving {
        queues: shared.options.queues.clone(),
        pauses: shared.pauses.subscribe(),
    };
    let mut shares = Shares::default();
    let mut served = Vec::new();
    // Whoever waits for this worker to be ready is told soon.
    let mut pull_wait = FIRST_PULL_WAIT;
    let mut outage = Outage::default();
    loop {
        let Some(free) = free_slots(&slots, drain, &shared.options.pulse).await else {
            return;
        };
        join_ended(deliveries);
        let open = serving.open();
        if open != served {
            shares.serve(&open);
            served = open;
        }
        if served.is_empty() {
            // Draining is seen to at the next look for free slots.
            wait_for_queues(shared, &mut serving, drain).await;
            continue;
        }
        // A change of the queues, too, ends a pull: the new ones are not to wait for it.
        let stop = drain.child_token();
        let request = PullRequest {
            shares: shares.allot(free.len()),
            max: free.len(),
            wait: pull_wait,
        };
        pull_wait = PULL_WAIT;
        let asked = clock::monotonic();
        let pulling = shared.broker.pull(request, &stop);
        match stopped_by_change(pulling, &mut serving, &stop).await {
            Ok(taken) => {
                shared.tell_pulse();
                outage.over();
                shares.taken(taken.iter().map(|delivery| &delivery.queue));
                let since = shared.pulse.held_since(asked);
                let now = clock::monotonic();
                for (delivery, slot) in taken.into_iter().zip(free) {
                    let came = now.checked_sub(delivery.held_for).unwrap_or(now);
                    let since = since.min(came);
                    let handling = attempt::handle(Arc::clone(shared), delivery, since, slot);
                    deliveries.spawn(clock::same(handling));
                }
            }
            Err(error) => {
                shared.options.pulse.fails(error.to_string());
                let pause = outage.goes_on(&error);
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(pause) => {}
                    () = drain.cancelled() => return,
                }
            }
        }
    }
}

/// Waits until there may be a queue to serve, or `drain`.
async fn wait_for_queues(shared: &Shared, serving: &mut Serving, drain: &CancellationToken) {
    match serving.is_told() {
        true => shared.options.pulse.is_well("nothing to serve"),
        false => shared
            .options
            .pulse
            .fails("not told yet which queues are paused".to_owned()),
    }
    // A pause may end by itself.
    tokio::select! {
        biased;
        () = serving.changed() => {}
        () = tokio::time::sleep(PULL_WAIT) => {}
        () = drain.cancelled() => {}
    }
}

/// Waits for a free slot and takes all that are free; `None` once draining.
async fn free_slots(
    slots: &Arc<Semaphore>,
    drain: &CancellationToken,
    pulse: &health::Pulse,
) -> Option<Vec<OwnedSemaphorePermit>> {
    let slot = Arc::clone(slots).acquire_owned();
    tokio::pin!(slot);
    let first = loop {
        // Every slot may be taken for hours.
        pulse.beats();
        tokio::select! {
            biased;
            () = drain.cancelled() => return None,
            slot = &mut slot => break slot.ok()?,
            () = tokio::time::sleep(ROUND) => {}
        }
    };
    let mut free = vec![first];
    while let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
        free.push(slot);
    }
    Some(free)
}

/// Awaits a pull; asks it to end when other queues are to be served.
async fn stopped_by_change(
    pulling: impl Future<Output = Result<Vec<Delivery>, BrokerError>>,
    serving: &mut Serving,
    stop: &CancellationToken,
) -> Result<Vec<Delivery>, BrokerError> {
    let mut pulling = std::pin::pin!(pulling);
    tokio::select! {
        biased;
        taken = &mut pulling => taken,
        () = serving.changed() => {
            stop.cancel();
            pulling.await
        }
    }
}

/// What a worker is to serve, and what is paused of it.
struct Serving {
    queues: watch::Receiver<Vec<QueueShare>>,
    pauses: watch::Receiver<Pauses>,
}

impl Serving {
    /// The queues from which may be taken now; none before it is known what is paused.
    fn open(&mut self) -> Vec<QueueShare> {
        match &*self.pauses.borrow_and_update() {
            Some(pauses) => pauses::open(&self.queues.borrow_and_update(), pauses),
            None => Vec::new(),
        }
    }

    /// Whether it is known what is paused.
    fn is_told(&self) -> bool {
        self.pauses.borrow().is_some()
    }

    /// Until there is something new. It stays new until [`Serving::open`].
    async fn changed(&mut self) {
        tokio::select! {
            biased;
            () = told(&mut self.queues) => {}
            () = told(&mut self.pauses) => {}
        }
    }
}

async fn told<T>(news: &mut watch::Receiver<T>) {
    match news.changed().await {
        Ok(()) => news.mark_changed(),
        // Nobody will say anything else.
        Err(_) => std::future::pending().await,
    }
}

/// Lets running jobs end, hands back what does not, kills what does not even then.
async fn wind_up(shared: &Arc<Shared>, at_once: &CancellationToken, deliveries: &mut JoinSet<()>) {
    join_ended(deliveries);
    if !deliveries.is_empty() {
        info!(target: "orchestrator::worker", running = deliveries.len(),
            timeout = ?shared.options.drain_timeout, "draining");
    }
    let timeout = tokio::time::sleep(shared.options.drain_timeout);
    // What waits for the broker after that comes back by its lease in any case.
    let patience = shared.options.drain_timeout + shared.broker.lease();
    let given_up = tokio::time::sleep(patience);
    tokio::pin!(timeout, given_up);
    let mut handing_back = false;
    let mut killing = false;
    while !deliveries.is_empty() {
        shared.options.pulse.beats();
        tokio::select! {
            biased;
            ended = deliveries.join_next() => tell_panic(ended),
            () = at_once.cancelled(), if !killing => {
                killing = true;
                shared.at_once.cancel();
                shared.registry.kill_all();
            }
            () = &mut timeout, if !handing_back => {
                handing_back = true;
                shared.registry.hand_back_all();
            }
            () = &mut given_up, if !shared.at_once.is_cancelled() => shared.at_once.cancel(),
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

fn join_ended(deliveries: &mut JoinSet<()>) {
    while let Some(ended) = deliveries.try_join_next() {
        tell_panic(Some(ended));
    }
}

fn tell_panic(ended: Option<Result<(), tokio::task::JoinError>>) {
    if let Some(Err(panicked)) = ended {
        error!(target: "orchestrator::worker", %panicked,
            "a run was abandoned by a defect of this program; its lease brings it back");
    }
}
