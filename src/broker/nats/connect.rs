//! The connection: how it is made, and made again.

use std::{net::IpAddr, sync::Arc, time::Duration};

use async_nats::{ConnectErrorKind, ConnectOptions, Event, ServerError};
use tokio::net::TcpStream;
use tracing::{debug, info, warn};

use super::{
    NatsBroker, PATIENCE,
    begun::Begun,
    burst::Burst,
    credentials::Credentials,
    disturbed::Disturbed,
    names::Names,
    pace::Batches,
    refused,
    setup::{Missing, Setup},
    violations::Violations,
};
use crate::{broker::BrokerError, clock, run::Authority};

/// How long it may take to find out whether somebody is there at all.
const DIAL: Duration = Duration::from_secs(1);

/// Where a server is and how to get in.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// `nats://host:port`, `tls://…`; several separated by commas.
    pub url: String,
    /// First word of all names: letters, digits, `-` and `_`.
    pub namespace: String,
    /// How to get in.
    pub credentials: Credentials,
    /// What the subjects begin with on which answers come; a user may be permitted one of its own only.
    pub inbox_prefix: String,
    /// Whether TLS begins before the server has said anything (`handshake_first` there).
    pub tls_first: bool,
    /// How long a delivered run may go without renewal.
    pub lease: Duration,
    /// Copies of every stream and bucket in a cluster, 1 to 5.
    pub replicas: usize,
    /// What a question does about a stream that is missing.
    pub missing: Missing,
    /// When runs that are published at the same time are stored as one.
    pub batches: Batches,
    /// How long the first connection may take.
    pub connect_timeout: Duration,
    /// With whose key runs are signed, if they are.
    pub authority: Option<Authority>,
}

impl Default for NatsOptions {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".to_owned(),
            namespace: "orch".to_owned(),
            credentials: Credentials::default(),
            inbox_prefix: "_INBOX".to_owned(),
            tls_first: false,
            lease: Duration::from_secs(15),
            replicas: 1,
            missing: Missing::default(),
            batches: Batches::default(),
            connect_timeout: Duration::from_secs(5),
            authority: None,
        }
    }
}

/// Whether `text` can be the first word of our names in NATS: letters, digits, `-` and `_`.
pub fn is_namespace(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !text.is_empty() && text.chars().all(plain)
}

/// What is wrong with `nats://HOST:PORT[,…]`, if anything.
pub fn check_url(urls: &str) -> Result<(), String> {
    for url in urls.split(',') {
        let parsed = url.trim().parse::<async_nats::ServerAddr>();
        parsed.map_err(|error| format!("`{}`: {error}", without_secrets(url)))?;
    }
    Ok(())
}

/// Whether all of `nats://HOST:PORT[,…]` are this machine: nobody from outside writes there, unless somebody lets
/// them in.
pub fn is_on_loopback(urls: &str) -> bool {
    let is_loopback = |url: &str| {
        let Ok(server) = url.trim().parse::<async_nats::ServerAddr>() else {
            return false;
        };
        let host = server.host();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = host.parse::<IpAddr>();
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    };
    urls.split(',').all(is_loopback)
}

impl NatsBroker {
    /// Connects. Fails at once if nobody answers; after that it reconnects by itself, without
    /// limit, and calls made meanwhile fail as [`BrokerError::Unreachable`].
    pub async fn connect(options: NatsOptions) -> Result<Arc<Self>, BrokerError> {
        let url = without_secrets(&options.url);
        let broker = format!("NATS at {url}");
        let refuse = |reason: String| BrokerError::Failed {
            broker: broker.clone(),
            operation: "connect".to_owned(),
            reason,
        };
        if !is_namespace(&options.namespace) {
            return Err(refuse(format!(
                "`{}` is not a namespace: it has letters, digits, `-` and `_`",
                options.namespace
            )));
        }
        let who = options.credentials.who();
        let violations = Arc::new(Violations::new(who.clone(), &options.inbox_prefix));
        let disturbed = Arc::new(Disturbed::default());
        let connect = build(&options, (&violations, &disturbed));
        let connect = connect.await.map_err(refuse)?;
        let servers: Vec<&str> = options.url.split(',').map(str::trim).collect();
        let work = connect.connect(servers);
        let client = match tokio::time::timeout(options.connect_timeout, work).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) if error.kind() != ConnectErrorKind::TimedOut => {
                return Err(refused::cannot_connect(broker, &who, &error));
            }
            Ok(Err(_)) | Err(_) => {
                return Err(BrokerError::Unreachable {
                    broker,
                    operation: "connect".to_owned(),
                    reason: silence(&options).await,
                });
            }
        };
        let names = Names::new(&options.namespace);
        let broker = Arc::new(Self {
            burst: Burst::start(client.clone(), options.batches, Arc::clone(&disturbed)),
            client,
            url,
            lease: options.lease,
            setup: Setup::new(options.replicas, options.batches, options.missing),
            names,
            violations,
            disturbed,
            begun: Begun::default(),
            authority: options.authority,
        });
        broker.check_jetstream().await?;
        Ok(broker)
    }
}

/// Whether somebody accepts connections at one of `nats://HOST:PORT[,…]`, whoever it is.
pub async fn is_there(urls: &str) -> bool {
    for url in urls.split(',') {
        let Ok(server) = url.trim().parse::<async_nats::ServerAddr>() else {
            continue;
        };
        let host = server.host().trim_matches(['[', ']']);
        let dialled = TcpStream::connect((host, server.port()));
        if let Ok(Ok(_)) = tokio::time::timeout(DIAL, dialled).await {
            return true;
        }
    }
    false
}

/// What no word of a server means.
async fn silence(options: &NatsOptions) -> String {
    const TLS: &str = "if it begins with TLS (`handshake_first`), give --nats-tls-first";
    let waited = options.connect_timeout;
    match is_there(&options.url).await {
        true => format!(
            "a server accepts connections there, and says nothing within {waited:?}: it hangs, and is to be started again; {TLS}"
        ),
        false => format!("no answer within {waited:?}; {TLS}"),
    }
}

/// One server that accepts connections and says nothing leaves time for the others.
fn patience_with_one(options: &NatsOptions) -> Duration {
    match options.url.split(',').count() {
        0 | 1 => options.connect_timeout,
        several => options.connect_timeout / u32::try_from(several + 1).unwrap_or(u32::MAX),
    }
}

async fn build(
    options: &NatsOptions,
    (violations, disturbed): (&Arc<Violations>, &Arc<Disturbed>),
) -> Result<ConnectOptions, String> {
    let (told, noted) = (Arc::clone(violations), Arc::clone(disturbed));
    let mut connect = ConnectOptions::new()
        .name("orchestrator")
        .connection_timeout(patience_with_one(options))
        .request_timeout(Some(PATIENCE))
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            if noted.is_new(&event) {
                tell(&event, &told);
            }
            noted.note(&event);
            std::future::ready(())
        });
    if options.tls_first {
        connect = connect.tls_first().require_tls(true);
    }
    connect = connect.custom_inbox_prefix(&options.inbox_prefix);
    options.credentials.clone().apply(connect).await
}

/// 50 ms, doubling up to 4 s, up to half of it taken off so that a herd does not come back at once.
fn reconnect_delay(attempts: usize) -> Duration {
    let exponent = u32::try_from(attempts).unwrap_or(u32::MAX).min(7);
    let nominal = Duration::from_millis(50 * (1 << exponent)).min(Duration::from_secs(4));
    let random = uuid::Uuid::new_v4().as_bytes()[0];
    nominal.mul_f64(1.0 - f64::from(random) / 512.0)
}

fn tell(event: &Event, violations: &Violations) {
    match event {
        Event::Disconnected => {
            warn!(target: "orchestrator::broker", "the connection to NATS is lost: reconnecting");
        }
        Event::Connected => {
            violations.start_afresh();
            info!(target: "orchestrator::broker", "connected to NATS");
        }
        Event::ServerError(ServerError::Other(text)) => match violations.tell(text) {
            Some(reason) => {
                if violations.is_news(&reason, clock::monotonic()) {
                    warn!(target: "orchestrator::broker", reason, "NATS does not permit it");
                }
            }
            None => warn!(target: "orchestrator::broker", event = %event, "NATS"),
        },
        Event::ClientError(error) if error.to_string().contains("authorization violation") => {
            warn!(target: "orchestrator::broker", reason = violations.shut_out(), "NATS");
        }
        // Of our own accord: a connection that is lost is made again.
        Event::Closed => debug!(target: "orchestrator::broker", "the connection to NATS is closed"),
        other => warn!(target: "orchestrator::broker", event = %other, "NATS"),
    }
}

/// The same URLs without the user, password or token that may stand in front of an `@`.
pub fn without_secrets(urls: &str) -> String {
    let clean = |url: &str| match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_owned(),
        (_, None) => url.to_owned(),
    };
    let clean: Vec<_> = urls.split(',').map(|url| clean(url.trim())).collect();
    clean.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(without_secrets("nats://u:p@host:4222"), "nats://host:4222");
        assert_eq!(without_secrets("token@host, nats://b"), "host,nats://b");
    }

    #[tokio::test]
    async fn reconnects_without_limit() {
        let violations = Arc::new(Violations::new("a user".to_owned(), "_INBOX"));
        let disturbed = Arc::default();
        let options = build(&NatsOptions::default(), (&violations, &disturbed)).await;
        let options = format!("{:?}", options.unwrap());
        assert!(options.contains("\"max_reconnects\": None"), "{options}");
    }

    #[test]
    fn loopback_is_this_machine_alone() {
        for here in [
            "nats://127.0.0.1:4222",
            "127.9.9.9",
            "localhost",
            "nats://LOCALHOST:4222,nats://[::1]:4222",
            "tls://user:pass@localhost:4222",
        ] {
            assert!(is_on_loopback(here), "{here}");
        }
        for elsewhere in [
            "nats://10.0.0.1:4222",
            "nats://nats:4222",
            "nats://127.0.0.1:4222, nats://10.0.0.1:4222",
            "nats://127.0.0.1.example.org",
            "nats://127.0.0.1@10.0.0.1:4222",
            "nats://[2001:db8::1]:4222",
            "",
        ] {
            assert!(!is_on_loopback(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn reconnects_ever_more_slowly_but_within_bounds() {
        for attempts in [0, 1, 5, 100, usize::MAX] {
            let delay = reconnect_delay(attempts);
            assert!(delay >= Duration::from_millis(25) && delay <= Duration::from_secs(4));
        }
    }
}
