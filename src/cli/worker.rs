//! `orchestrator worker`

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::Args;

use tokio::sync::mpsc;

use super::{
    CliError, Exit, Globals, beat::RELOADS, connect, events, gate::GateArgs, guardian, nats,
    service,
};
use crate::{
    broker::nats::without_secrets,
    exec::{Cgroup, ExecError},
    job::{Glob, Seconds},
    worker::{QueueShare, Worker, WorkerOptions},
};

/// Take runs from queues on NATS and execute them
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// A queue to serve; without a weight strictly first, with weights by share; may be repeated
    #[arg(
        long = "queue",
        env = "ORCHESTRATOR_QUEUES",
        value_name = "NAME[:WEIGHT]",
        value_delimiter = ',',
        required = true
    )]
    queues: Vec<QueueShare>,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    gate: GateArgs,

    #[command(flatten)]
    listen: service::Listen,

    /// Only look at the options and the files that they name, as before a reload; start nothing
    #[arg(long)]
    check: bool,
}

/// How much a worker takes, and how long it holds it.
#[derive(Debug, Args)]
pub(super) struct Limits {
    /// How many runs are executed at once
    #[arg(
        long,
        env = "ORCHESTRATOR_CONCURRENCY",
        value_name = "N",
        default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    pub(super) concurrency: u32,

    /// A run whose worker is silent for so long is given to another one
    #[arg(
        long,
        env = "ORCHESTRATOR_LEASE",
        value_name = "D",
        default_value = "15s"
    )]
    pub(super) lease: Lease,

    /// Where each run gets a control group, of which its `limits` are part: `auto` if one is delegated, `off`,
    /// or the path of one
    #[arg(
        long,
        env = "ORCHESTRATOR_CGROUP",
        value_name = "auto|off|PATH",
        default_value = "auto"
    )]
    pub(super) cgroup: Cgroup,

    /// Where the credentials that jobs name are: a file each [default: systemd's `CREDENTIALS_DIRECTORY`]
    #[arg(long, env = "ORCHESTRATOR_CREDENTIALS_DIR", value_name = "DIR")]
    pub(super) credentials_dir: Option<PathBuf>,

    /// A variable of the worker that jobs find in their environment, beside PATH, HOME and the like; `*` stands for any
    /// part of a name; may be repeated
    #[arg(
        long,
        env = "ORCHESTRATOR_PASS_ENV",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub(super) pass_env: Vec<Glob>,

    /// How long running jobs may go on after SIGTERM, before they are handed back [default: 60s, `up`: 10s]
    #[arg(long, env = "ORCHESTRATOR_DRAIN_TIMEOUT", value_name = "D")]
    pub(super) drain_timeout: Option<Seconds>,
}

/// How long a worker drains unless told otherwise.
const DRAIN: Duration = Duration::from_secs(60);

/// A lease between a second and an hour.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease(pub(super) Duration);

impl std::str::FromStr for Lease {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = text
            .parse::<Seconds>()
            .map_err(|error| error.to_string())?
            .get();
        match duration.as_millis() {
            1_000..=3_600_000 => Ok(Self(duration)),
            _ => Err("a lease lies between 1s and 1h".to_owned()),
        }
    }
}

pub(super) async fn run(args: WorkerArgs, globals: &Globals) -> Result<(), CliError> {
    events::init(globals);
    let (ask, reload) = mpsc::channel(RELOADS);
    // First of all: without a handler SIGHUP would end the process.
    let stop = service::follow_signals([ask])?;
    let url = nats::options(globals)?.url;
    let gate = args.gate.load(&url)?;
    if args.check {
        return Ok(());
    }
    let [pulse] = args.listen.start(["worker"], &stop).await?;
    let mut hand_on = hand_on(globals);
    hand_on.extend(args.gate.variable());
    let (gate, following) = args.gate.follow(url, gate, (reload, pulse.clone()));
    let broker = connect::service_broker(globals, args.limits.lease.0, None).await?;
    let options = WorkerOptions {
        concurrency: args.limits.concurrency as usize,
        drain_timeout: args.limits.drain_timeout.map_or(DRAIN, Seconds::get),
        hand_on,
        guardian: Some(guardian::EXECUTABLE.into()),
        cgroup: args.limits.cgroup,
        pulse,
        gate,
        pass_env: args.limits.pass_env.into(),
        credentials: credentials(args.limits.credentials_dir),
        ..WorkerOptions::new(service::instance_id(), args.queues)
    };
    let worker = Worker::new(broker, options)?;
    worker.run(stop.drain.clone(), stop.at_once.clone()).await;
    stop.at_once.cancel();
    following.abort();
    Ok(())
}

impl From<ExecError> for CliError {
    fn from(error: ExecError) -> Self {
        Self::new(Exit::Failed, error)
    }
}

/// The directory of credentials, absolute.
pub(super) fn credentials(given: Option<PathBuf>) -> Option<PathBuf> {
    let of_the_unit = || std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let directory = given.or_else(of_the_unit)?;
    Some(std::path::absolute(&directory).unwrap_or(directory))
}

/// What a job's own `orchestrator` commands need to reach the same broker.
pub(super) fn hand_on(globals: &Globals) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::from([(
        "ORCHESTRATOR_NAMESPACE".to_owned(),
        globals.namespace.clone(),
    )]);
    if let Ok(dir) = std::path::absolute(&globals.data_dir) {
        let dir = dir.to_string_lossy().into_owned();
        variables.insert("ORCHESTRATOR_DATA_DIR".to_owned(), dir);
    }
    // Where the broker is, but not how to get in.
    let named = [
        ("ORCHESTRATOR_NATS", globals.nats.clone()),
        ("NATS_URL", std::env::var("NATS_URL").ok()),
    ];
    for (name, url) in named {
        let url = url.map(|url| without_secrets(&url));
        variables.extend(url.map(|url| (name.to_owned(), url)));
    }
    variables.extend(globals.access.variables());
    variables
}
