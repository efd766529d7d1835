//! `orchestrator up`

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use clap::Args;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing::{error, info};

use super::{
    CliError, Exit, Globals,
    beat::{Keeping, RELOADS},
    events,
    gate::PolicyArgs,
    guardian,
    schedules::SchedulesArgs,
    service, snapshots,
    worker::{Limits, credentials, hand_on},
};
use crate::{
    beat::{Beat, BeatOptions},
    broker::{
        SharedBroker,
        embedded::{EmbeddedBroker, EmbeddedOptions},
        socket,
    },
    health::Pulse,
    job::{QueueName, Seconds},
    store::StoreError,
    worker::{QueueShare, Worker, WorkerOptions},
};

/// Beat and workers in one process on the embedded broker: nothing else to install
#[derive(Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    schedules: SchedulesArgs,

    /// A queue to serve, instead of all that the schedules name; may be repeated
    #[arg(
        long = "queue",
        env = "ORCHESTRATOR_QUEUES",
        value_name = "NAME[:WEIGHT]",
        value_delimiter = ','
    )]
    queues: Vec<QueueShare>,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    keeping: Keeping,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    listen: service::Listen,

    /// How often a snapshot of the state is written, from which `up` goes on should its store be damaged
    #[arg(
        long,
        env = "ORCHESTRATOR_SNAPSHOT_EVERY",
        value_name = "D",
        default_value = "1m"
    )]
    snapshot_every: Seconds,
}

/// Between two snapshots.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// How long `up` drains unless told otherwise: somebody is watching.
const DRAIN: Duration = Duration::from_secs(10);

pub(super) async fn run(mut args: UpArgs, globals: &Globals) -> Result<(), CliError> {
    events::init(globals);
    let (ask, mut reload) = mpsc::channel(RELOADS);
    let (ask_gate, reload_gate) = mpsc::channel(RELOADS);
    // First of all: without a handler SIGHUP would end the process.
    let stop = service::follow_signals([ask.clone(), ask_gate])?;
    let gate = args.policy.load()?;
    let loaded = args.schedules.load()?;
    let sources = vec![args.schedules.schedules];
    let [beat_pulse, worker_pulse] = args.listen.start(["beat", "worker"], &stop).await?;
    let options = EmbeddedOptions {
        lease: args.limits.lease.0,
        ..EmbeddedOptions::default()
    };
    let (embedded, aside) = EmbeddedBroker::open_or_set_aside(&globals.data_dir, options)?;
    let broker: SharedBroker = Arc::clone(&embedded) as SharedBroker;
    snapshots::take_up(&broker, &globals.data_dir, aside.as_ref()).await?;
    let server = serve_others(&broker, globals)?;
    let watching = service::watch_schedules(&sources, ask, stop.drain.clone());

    info!(target: "orchestrator::service", data_dir = %globals.data_dir.display(),
        jobs = loaded.set.len(), "up");
    let credentials = credentials(args.limits.credentials_dir.take());
    let beat_options = BeatOptions {
        schedules: sources,
        credentials: credentials.clone(),
        ..beat_options(&args.keeping, beat_pulse.clone())
    };
    let beat = Beat::start(Arc::clone(&broker), beat_options, loaded.set).await?;
    let queues = match args.queues.is_empty() {
        true => every_queue(beat.queues()),
        false => watch::channel(args.queues).1,
    };
    let (gate, following) = args
        .policy
        .follow(gate, (reload_gate, worker_pulse.clone()));
    let worker_options = WorkerOptions {
        hand_on: hand_on(globals),
        pulse: worker_pulse,
        gate,
        credentials,
        ..worker_options(args.limits, queues)
    };
    let worker = Worker::new(Arc::clone(&broker), worker_options)?;
    let (drain, beats_end) = (stop.drain.clone(), beat_pulse);
    let beating = tokio::spawn(async move {
        beat.run(&mut reload, &drain).await;
        beats_end.has_ended();
    });
    let snapshots = tokio::spawn(snapshots::keep(
        Arc::clone(&embedded),
        globals.data_dir.as_path().into(),
        args.snapshot_every.get().max(SHORTEST_PAUSE),
        stop.at_once.child_token(),
    ));
    let working = worker.run(stop.drain.clone(), stop.at_once.clone());
    let broken = until_broken(working, &embedded, &stop).await;
    end_of(beating, "beat ended badly").await;
    if let Some(watching) = watching {
        watching.abort();
    }
    stop.at_once.cancel();
    following.abort();
    end_of(snapshots, "the last snapshot failed").await;
    server.shutdown().await;
    embedded.shutdown().await;
    info!(target: "orchestrator::service", "down");
    broken.map_or(Ok(()), |error| Err(error.into()))
}

/// Waits for the end of a part; a bad one is told in these words.
async fn end_of(part: JoinHandle<()>, bad: &'static str) {
    if let Err(error) = part.await {
        error!(target: "orchestrator::service", %error, "{bad}");
    }
}

/// Lets other commands in, through a socket in the data directory.
fn serve_others(
    broker: &SharedBroker,
    globals: &Globals,
) -> Result<socket::SocketServer, CliError> {
    socket::serve(&globals.data_dir, Arc::clone(broker)).map_err(|error| {
        let dir = globals.data_dir.display();
        let message = format!("no socket can be made in {dir}: {error}");
        CliError::new(Exit::Failed, message)
    })
}

/// What beat is told by the options.
fn beat_options(keeping: &Keeping, pulse: Pulse) -> BeatOptions {
    BeatOptions {
        id: service::instance_id(),
        schedules: Vec::new(),
        own: None,
        keep_verdicts: keeping.verdicts(),
        // Nobody else has this broker.
        leader_lease: None,
        ping: keeping.ping(),
        pulse,
        credentials: None,
    }
}

/// What the worker is told by the options.
fn worker_options(limits: Limits, queues: watch::Receiver<Vec<QueueShare>>) -> WorkerOptions {
    WorkerOptions {
        concurrency: limits.concurrency as usize,
        drain_timeout: limits.drain_timeout.map_or(DRAIN, Seconds::get),
        guardian: Some(guardian::EXECUTABLE.into()),
        cgroup: limits.cgroup,
        pass_env: limits.pass_env.into(),
        ..WorkerOptions::following(service::instance_id(), queues)
    }
}

/// Works until told to stop, or until the store has failed: then everything ends at once.
async fn until_broken(
    working: impl Future<Output = ()>,
    embedded: &EmbeddedBroker,
    stop: &service::Stop,
) -> Option<StoreError> {
    let mut working = std::pin::pin!(working);
    tokio::select! {
        () = &mut working => None,
        error = embedded.broken() => {
            error!(target: "orchestrator::service", %error, "ending: nothing can be stored any more");
            stop.ends();
            working.await;
            Some(error)
        }
    }
}

/// Serves every queue that the schedules name, whatever is added later.
fn every_queue(
    mut named: watch::Receiver<BTreeSet<QueueName>>,
) -> watch::Receiver<Vec<QueueShare>> {
    let (tell, shares) = watch::channel(share_out(&named.borrow_and_update()));
    tokio::spawn(async move {
        // Ends with beat, which owns the other side, or with the last worker.
        while named.changed().await.is_ok() {
            let share = share_out(&named.borrow_and_update());
            if tell.send(share).is_err() {
                return;
            }
        }
    });
    shares
}

/// `critical` strictly first; the others share, the well-known ones by their rank.
fn share_out(named: &BTreeSet<QueueName>) -> Vec<QueueShare> {
    let weight = |queue: &QueueName| match queue.as_str() {
        "critical" => None,
        "high" => Some(5),
        "low" => Some(1),
        _ => Some(3),
    };
    let share = |queue: &QueueName| QueueShare {
        queue: queue.clone(),
        weight: weight(queue),
    };
    named.iter().map(share).collect()
}
