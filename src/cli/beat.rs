//! `orchestrator beat`

use std::{ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use tokio::sync::mpsc;
use tracing::info;

use super::{
    CliError, Exit, Globals, connect, events, globals::DEFAULT_NAMESPACE, nats,
    schedules::SchedulesArgs, service, signing::Signing, worker::credentials,
};
use crate::{
    beat::{self, BeatError, BeatOptions, OwnError, OwnState},
    job::{Seconds, SecondsError},
    store::StoreError,
};

/// Turn the ticks of the schedules into runs, on NATS
#[derive(Debug, Args)]
pub struct BeatArgs {
    #[command(flatten)]
    schedules: SchedulesArgs,

    #[command(flatten)]
    keeping: Keeping,

    #[command(flatten)]
    signing: Signing,

    #[command(flatten)]
    listen: service::Listen,

    /// Of several beats one leads and the others stand by: how long the leader may be silent before
    /// another one takes over, or `off`
    ///
    /// Without it all beats work at the same time. No tick is fired twice either way.
    #[arg(
        long,
        env = "ORCHESTRATOR_LEADER_LEASE",
        value_name = "D|off",
        default_value = "3s"
    )]
    leader_lease: LeaderLease,

    /// Where the credentials that webhooks name are: a file each [default: systemd's `CREDENTIALS_DIRECTORY`]
    #[arg(long, env = "ORCHESTRATOR_CREDENTIALS_DIR", value_name = "DIR")]
    credentials_dir: Option<PathBuf>,

    /// Only look at the options and the files that they name, as before a reload; start nothing
    #[arg(long)]
    check: bool,
}

/// How long a leader may be silent; `None`: nobody leads.
#[derive(Debug, Clone, Copy)]
struct LeaderLease(Option<Duration>);

impl FromStr for LeaderLease {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const RANGE: RangeInclusive<Duration> =
            Duration::from_millis(300)..=Duration::from_secs(3600);
        if text == "off" {
            return Ok(Self(None));
        }
        let lease: Seconds = text
            .parse()
            .map_err(|error: SecondsError| error.to_string())?;
        match RANGE.contains(&lease.get()) {
            true => Ok(Self(Some(lease.get()))),
            false => Err("between 300ms and 1h, or `off`".to_owned()),
        }
    }
}

/// What beat keeps.
#[derive(Debug, Args)]
pub(super) struct Keeping {
    /// For how long `explain` knows of ticks that were not run; of each job the last hundred notes
    #[arg(
        long,
        env = "ORCHESTRATOR_KEEP_VERDICTS",
        value_name = "D",
        default_value = "7days"
    )]
    keep_verdicts: Seconds,

    /// A URL that is told once a minute that beat gets on, for a service such as healthchecks.io that
    /// raises the alarm when nothing comes; URL/fail while beat waits for its clock
    #[arg(long, env = "ORCHESTRATOR_BEAT_PING", value_name = "URL", value_parser = ping_url)]
    beat_ping: Option<String>,
}

fn ping_url(text: &str) -> Result<String, String> {
    let has_scheme = ["http://", "https://"]
        .iter()
        .any(|scheme| text.starts_with(scheme));
    match has_scheme {
        true => Ok(text.to_owned()),
        false => Err("write a URL such as https://hc-ping.com/UUID".to_owned()),
    }
}

impl Keeping {
    pub(super) fn verdicts(&self) -> Duration {
        self.keep_verdicts.get()
    }

    pub(super) fn ping(&self) -> Option<String> {
        self.beat_ping.clone()
    }
}

/// Where beat keeps its own copy: of each namespace one, for what is known of one says nothing of another.
fn own_directory(globals: &Globals) -> PathBuf {
    let name = match globals.namespace.as_str() {
        DEFAULT_NAMESPACE => "beat".to_owned(),
        other => format!("beat-{other}"),
    };
    globals.data_dir.join(name)
}

/// The reloads that may wait; one is as good as many.
pub(super) const RELOADS: usize = 1;

pub(super) async fn run(args: BeatArgs, globals: &Globals) -> Result<(), CliError> {
    events::init(globals);
    let (ask, reload) = mpsc::channel(RELOADS);
    // First of all: without a handler SIGHUP would end the process.
    let stop = service::follow_signals([ask.clone()])?;
    let loaded = args.schedules.load()?;
    let authority = args.signing.authority()?;
    if args.check {
        nats::options(globals)?;
        return Ok(());
    }
    let sources = vec![args.schedules.schedules];
    let [pulse] = args.listen.start(["beat"], &stop).await?;
    let own = OwnState::open(&own_directory(globals))?;
    let broker = connect::service_broker(globals, connect::DEFAULT_LEASE, authority).await?;
    let watch = service::watch_schedules(&sources, ask, stop.drain.clone());
    let options = BeatOptions {
        id: service::instance_id(),
        schedules: sources,
        own: Some(own),
        keep_verdicts: args.keeping.verdicts(),
        leader_lease: args.leader_lease.0,
        ping: args.keeping.ping(),
        pulse,
        credentials: credentials(args.credentials_dir),
    };
    info!(target: "orchestrator::beat", broker = broker.describe(), jobs = loaded.set.len(),
        "beat starts");
    beat::serve(broker, options, loaded.set, reload, stop.drain.clone()).await?;
    stop.at_once.cancel();
    if let Some(watch) = watch {
        watch.abort();
    }
    Ok(())
}

impl From<BeatError> for CliError {
    fn from(error: BeatError) -> Self {
        match error {
            BeatError::Broker(error) => error.into(),
            BeatError::Own(error) => error.into(),
            BeatError::Overtaken => Self::new(Exit::Conflict, error)
                .with_help("another beat starts at the same moment; start this one again"),
            BeatError::NotEncoded { .. } | BeatError::ClockBehind { .. } => {
                Self::new(Exit::Failed, error)
            }
        }
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        let exit = match error {
            StoreError::Held { .. } => Exit::Conflict,
            StoreError::NotPermitted { .. } => Exit::NotPermitted,
            _ => Exit::Failed,
        };
        Self::new(exit, error)
    }
}

impl From<OwnError> for CliError {
    fn from(error: OwnError) -> Self {
        match error {
            OwnError::Store(error) => error.into(),
            OwnError::NotUnderstood { .. } => Self::new(Exit::Failed, error),
        }
    }
}
