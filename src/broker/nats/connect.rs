//! The connection: credentials, reconnecting, and violations of permissions, which the server tells
//! beside the call that they belong to.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{ConnectOptions, Event, ServerError};
use tracing::{info, warn};

use super::{NatsBroker, PATIENCE, names::Names, setup::Setup};
use crate::{broker::BrokerError, clock, run::Authority};

/// Where a server is and how to get in.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// `nats://host:port`, `tls://…`; several separated by commas.
    pub url: String,
    /// First word of all names: letters, digits, `-` and `_`.
    pub namespace: String,
    /// How to get in.
    pub credentials: Credentials,
    /// How long a delivered run may go without renewal.
    pub lease: Duration,
    /// Copies of every stream and bucket in a cluster, 1 to 5.
    pub replicas: usize,
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
            lease: Duration::from_secs(15),
            replicas: 1,
            connect_timeout: Duration::from_secs(5),
            authority: None,
        }
    }
}

/// How to get in; what is not given is not used.
#[derive(Clone, Default)]
pub struct Credentials {
    /// A `.creds` file.
    pub creds_file: Option<PathBuf>,
    /// The seed of an nkey.
    pub nkey: Option<String>,
    /// With `password`.
    pub user: Option<String>,
    /// With `user`.
    pub password: Option<String>,
    /// A token.
    pub token: Option<String>,
    /// Certificates that are trusted.
    pub ca: Option<PathBuf>,
    /// Our certificate; with `key`.
    pub cert: Option<PathBuf>,
    /// Our private key; with `cert`.
    pub key: Option<PathBuf>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// The last violation of permissions that the server told.
#[derive(Debug, Default)]
pub(super) struct Violations(Mutex<Option<(Instant, String)>>);

impl Violations {
    fn tell(&self, text: String) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((clock::monotonic(), text));
    }

    /// What was told since `start`.
    pub(super) fn since(&self, start: Instant) -> Option<String> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, text) = last.as_ref()?;
        (*at >= start).then(|| text.clone())
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
        let violations = Arc::new(Violations::default());
        let disturbed = Arc::new(Disturbed::default());
        let connect = build(&options, (&violations, &disturbed));
        let connect = connect.await.map_err(refuse)?;
        let servers: Vec<&str> = options.url.split(',').map(str::trim).collect();
        let work = connect.connect(servers);
        let client = match tokio::time::timeout(options.connect_timeout, work).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(cannot_connect(broker, &error)),
            Err(_) => {
                return Err(BrokerError::Unreachable {
                    broker,
                    operation: "connect".to_owned(),
                    reason: format!("no answer within {:?}", options.connect_timeout),
                });
            }
        };
        let names = Names::new(&options.namespace);
        let broker = Arc::new(Self {
            client,
            url,
            lease: options.lease,
            setup: Setup::new(options.replicas),
            names,
            violations,
            disturbed,
            authority: options.authority,
        });
        broker.check_jetstream().await?;
        Ok(broker)
    }
}

async fn build(
    options: &NatsOptions,
    (violations, disturbed): (&Arc<Violations>, &Arc<Disturbed>),
) -> Result<ConnectOptions, String> {
    let (told, noted) = (Arc::clone(violations), Arc::clone(disturbed));
    let mut connect = ConnectOptions::new()
        .name("orchestrator")
        .connection_timeout(options.connect_timeout)
        .request_timeout(Some(PATIENCE))
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            tell(&event, &told);
            noted.note(&event);
            std::future::ready(())
        });
    let Credentials {
        creds_file,
        nkey,
        user,
        password,
        token,
        ca,
        cert,
        key,
    } = options.credentials.clone();
    if let (Some(user), password) = (user, password.unwrap_or_default()) {
        connect = connect.user_and_password(user, password);
    }
    if let Some(token) = token {
        connect = connect.token(token);
    }
    if let Some(seed) = nkey {
        connect = connect.nkey(seed);
    }
    if let Some(path) = creds_file {
        let shown = path.display().to_string();
        let read = connect.credentials_file(path).await;
        connect = read.map_err(|error| format!("{shown}: {error}"))?;
    }
    if let Some(path) = ca {
        connect = connect.add_root_certificates(path).require_tls(true);
    }
    if let (Some(cert), Some(key)) = (cert, key) {
        connect = connect.add_client_certificate(cert, key).require_tls(true);
    }
    Ok(connect)
}

/// When the connection was lost, or made again after that.
#[derive(Debug, Default)]
pub(super) struct Disturbed(Mutex<Option<Instant>>);

impl Disturbed {
    fn note(&self, event: &Event) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Disconnected => *last = Some(clock::monotonic()),
            // The first one disturbs nothing.
            Event::Connected if last.is_some() => *last = Some(clock::monotonic()),
            _ => {}
        }
    }

    pub(super) fn ago(&self) -> Duration {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.map_or(Duration::MAX, |last| {
            clock::monotonic().saturating_duration_since(last)
        })
    }
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
        Event::Connected => info!(target: "orchestrator::broker", "connected to NATS"),
        Event::ServerError(ServerError::Other(text)) if is_violation(text) => {
            warn!(target: "orchestrator::broker", reason = text, "NATS does not permit it");
            violations.tell(text.clone());
        }
        other => warn!(target: "orchestrator::broker", event = %other, "NATS"),
    }
}

fn is_violation(text: &str) -> bool {
    text.to_lowercase().contains("permissions violation")
}

fn cannot_connect(broker: String, error: &async_nats::ConnectError) -> BrokerError {
    use async_nats::ConnectErrorKind as Kind;
    let (operation, reason) = ("connect".to_owned(), error.to_string());
    match error.kind() {
        Kind::Authentication | Kind::AuthorizationViolation => BrokerError::NotPermitted {
            broker,
            operation,
            reason,
        },
        _ => BrokerError::Unreachable {
            broker,
            operation,
            reason,
        },
    }
}

/// A URL may carry user, password or token in front of an `@`.
fn without_secrets(urls: &str) -> String {
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
