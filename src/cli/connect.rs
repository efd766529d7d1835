//! Chooses the broker: the only place that knows which ones there are.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    broker::{
        BrokerError, SharedBroker,
        nats::{self, Credentials, NatsBroker, NatsOptions},
        socket::SocketBroker,
    },
    cli::{CliError, Exit, Globals},
    run::Authority,
};

use super::signing::Signing;

/// Where NATS is if nobody says otherwise.
const DEFAULT_NATS: &str = "nats://127.0.0.1:4222";
/// The lease of a command that takes no runs; consumers made by it get the default of a worker.
pub(super) const DEFAULT_LEASE: Duration = Duration::from_secs(15);

/// The broker of a running `up` in the data directory, else NATS. A server named by `--nats` wins.
pub(super) async fn any_broker(globals: &Globals) -> Result<SharedBroker, CliError> {
    broker_for(globals, None).await
}

/// The same, for what publishes runs: they are signed where others can write, too.
pub(super) async fn publishing_broker(
    globals: &Globals,
    signing: &Signing,
) -> Result<SharedBroker, CliError> {
    broker_for(globals, signing.authority()?).await
}

async fn broker_for(
    globals: &Globals,
    authority: Option<Authority>,
) -> Result<SharedBroker, CliError> {
    if globals.nats.is_none()
        && let Some(up) = SocketBroker::connect(&globals.data_dir).await?
    {
        return Ok(Arc::new(up));
    }
    nats_broker(globals, DEFAULT_LEASE, authority).await.map(|nats| nats as SharedBroker).map_err(|error| match error {
        Connect::Unreachable(error) if globals.nats.is_none() => error.with_help(format!(
            "no `orchestrator up` runs in {} either; start one, or a server with `nats-server -js`, \
             or name one with --nats or NATS_URL",
            globals.data_dir.display()
        )),
        Connect::Unreachable(error) => error.with_help("start one with `nats-server -js`, or name another with --nats or NATS_URL"),
        Connect::Other(error) => error,
    })
}

/// Whether a server is named at all.
pub(super) fn names_nats(globals: &Globals) -> bool {
    globals.nats.is_some() || variable("NATS_URL").is_some()
}

/// NATS, with what only this backend can do.
pub(super) async fn nats_for_a_while(globals: &Globals) -> Result<Arc<NatsBroker>, CliError> {
    nats_broker(globals, DEFAULT_LEASE, None)
        .await
        .map_err(|error| match error {
            Connect::Unreachable(error) => {
                error.with_help("start one with `nats-server -js`; without --nats and NATS_URL the embedded broker is measured")
            }
            Connect::Other(error) => error,
        })
}

/// NATS, for the services that need it.
pub(super) async fn service_broker(
    globals: &Globals,
    lease: Duration,
    authority: Option<Authority>,
) -> Result<SharedBroker, CliError> {
    nats_broker(globals, lease, authority)
        .await
        .map(|nats| nats as SharedBroker)
        .map_err(|error| match error {
            Connect::Unreachable(error) => error.with_help(
                "start one with `nats-server -js`, or name another with --nats or NATS_URL; \
             on a single machine `orchestrator up` needs none",
            ),
            Connect::Other(error) => error,
        })
}

enum Connect {
    Unreachable(CliError),
    Other(CliError),
}

/// Where NATS is.
pub(super) fn nats_url(globals: &Globals) -> String {
    let named = globals.nats.clone().or_else(|| variable("NATS_URL"));
    named.unwrap_or_else(|| DEFAULT_NATS.to_owned())
}

async fn nats_broker(
    globals: &Globals,
    lease: Duration,
    authority: Option<Authority>,
) -> Result<Arc<NatsBroker>, Connect> {
    let url = nats_url(globals);
    nats::check_url(&url).map_err(|reason| {
        let error = CliError::new(
            Exit::Usage,
            format!("not the URL of a NATS server: {reason}"),
        );
        Connect::Other(
            error.with_help("write it like nats://host:4222; several are separated by commas"),
        )
    })?;
    let options = NatsOptions {
        url,
        namespace: globals.namespace.clone(),
        replicas: usize::from(globals.replicas),
        lease,
        credentials: credentials().map_err(Connect::Other)?,
        authority,
        ..NatsOptions::default()
    };
    match NatsBroker::connect(options).await {
        Ok(broker) => Ok(broker),
        Err(error @ BrokerError::Unreachable { .. }) => Err(Connect::Unreachable(error.into())),
        Err(error) => Err(Connect::Other(error.into())),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn credentials() -> Result<Credentials, CliError> {
    let file = |name: &str| variable(name).map(PathBuf::from);
    let credentials = Credentials {
        creds_file: file("NATS_CREDS"),
        nkey: variable("NATS_NKEY"),
        user: variable("NATS_USER"),
        password: variable("NATS_PASSWORD"),
        token: variable("NATS_TOKEN"),
        ca: file("NATS_CA"),
        cert: file("NATS_CERT"),
        key: file("NATS_KEY"),
    };
    let files = [
        ("NATS_CREDS", &credentials.creds_file),
        ("NATS_CA", &credentials.ca),
        ("NATS_CERT", &credentials.cert),
        ("NATS_KEY", &credentials.key),
    ];
    for (name, path) in files {
        if let Some(path) = path
            && let Err(error) = std::fs::File::open(path)
        {
            let message = format!("{name} names {}: {error}", path.display());
            return Err(CliError::new(Exit::Usage, message));
        }
    }
    if credentials.cert.is_some() != credentials.key.is_some() {
        return Err(CliError::new(
            Exit::Usage,
            "NATS_CERT and NATS_KEY go together: one of them is missing",
        ));
    }
    Ok(credentials)
}
