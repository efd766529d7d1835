//! Chooses the broker: the only place that knows which ones there are.

use std::{sync::Arc, time::Duration};

use crate::{
    broker::{
        BrokerError, SharedBroker,
        nats::{Missing, NatsBroker, NatsOptions, is_there},
        socket::SocketBroker,
    },
    cli::{CliError, Globals, nats},
    run::Authority,
};

use super::signing::Signing;

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
    if !nats::is_asked_for(globals)
        && let Some(up) = SocketBroker::connect(&globals.data_dir).await?
    {
        return Ok(Arc::new(up));
    }
    nats_broker(globals, DEFAULT_LEASE, authority, Missing::LeaveOut).await.map(|nats| nats as SharedBroker).map_err(|error| match error {
        Connect::Unreachable(error) if !nats::is_asked_for(globals) => error.with_help(format!(
            "no `orchestrator up` runs in {} either; start one, or a server with `nats-server -js`, \
             or name one with --nats or NATS_URL",
            globals.data_dir.display()
        )),
        Connect::Unreachable(error) => error.with_help("start one with `nats-server -js`, or name another with --nats or NATS_URL"),
        Connect::Other(error) => error,
    })
}

/// NATS, with what only this backend can do.
pub(super) async fn nats_for_a_while(globals: &Globals) -> Result<Arc<NatsBroker>, CliError> {
    nats_broker(globals, DEFAULT_LEASE, None, Missing::Make)
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
    nats_broker(globals, lease, authority, Missing::Make)
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

async fn nats_broker(
    globals: &Globals,
    lease: Duration,
    authority: Option<Authority>,
    missing: Missing,
) -> Result<Arc<NatsBroker>, Connect> {
    let options = NatsOptions {
        lease,
        authority,
        missing,
        ..nats::options(globals).map_err(Connect::Other)?
    };
    let url = options.url.clone();
    match NatsBroker::connect(options).await {
        Ok(broker) => Ok(broker),
        // What a server that is there lacks the error says itself.
        Err(error @ BrokerError::Unreachable { .. }) => Err(match is_there(&url).await {
            true => Connect::Other(error.into()),
            false => Connect::Unreachable(error.into()),
        }),
        Err(error @ BrokerError::NotPermitted { .. }) => {
            let help = "--nats-creds, --nats-nkey, --nats-user with --nats-password-file, --nats-token-file and --nats-context \
                name credentials; docs/nats.md says what else does";
            Err(Connect::Other(CliError::from(error).with_help(help)))
        }
        Err(error) => Err(Connect::Other(error.into())),
    }
}
