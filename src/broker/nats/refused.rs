//! Why a connection was not made, in words that say what to change.

use std::{error::Error, io};

use async_nats::{ConnectError, ConnectErrorKind};
use rustls::{AlertDescription, CertificateError, InvalidMessage};

use crate::broker::BrokerError;

/// Who did not want whom.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// The server does not want us.
    Us(String),
    /// We do not want the server, or it is not there.
    Server(String),
}

pub(super) fn cannot_connect(broker: String, who: &str, error: &ConnectError) -> BrokerError {
    let operation = "connect".to_owned();
    match refusal(who, error) {
        Refusal::Us(reason) => BrokerError::NotPermitted {
            broker,
            operation,
            reason,
        },
        Refusal::Server(reason) => BrokerError::Unreachable {
            broker,
            operation,
            reason,
        },
    }
}

fn refusal(who: &str, error: &ConnectError) -> Refusal {
    if let Some(tls) = tls_error(error) {
        return of_tls(tls);
    }
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => {
            Refusal::Us(format!("the server does not let {who} in"))
        }
        ConnectErrorKind::Authentication => Refusal::Us(format!(
            "the server's challenge could not be signed for {who}: {error}"
        )),
        _ if is_broken_off(error) => Refusal::Server(format!(
            "{error}: the server ended the connection; if it wants a certificate of ours, give --nats-cert and --nats-key"
        )),
        _ => Refusal::Server(error.to_string()),
    }
}

/// What TLS had to say, somewhere in the chain of causes.
fn tls_error(error: &ConnectError) -> Option<&rustls::Error> {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        if let Some(inner) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            && let Some(tls) = inner.downcast_ref::<rustls::Error>()
        {
            return Some(tls);
        }
        cause = error.source();
    }
    None
}

fn is_broken_off(error: &ConnectError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            use io::ErrorKind as Kind;
            return matches!(
                error.kind(),
                Kind::ConnectionReset | Kind::BrokenPipe | Kind::UnexpectedEof
            );
        }
        cause = error.source();
    }
    false
}

fn of_tls(error: &rustls::Error) -> Refusal {
    use AlertDescription as Alert;
    match error {
        rustls::Error::InvalidCertificate(wrong) => Refusal::Server(of_certificate(wrong)),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Refusal::Server(
            "the server does not speak TLS: use nats:// without --nats-ca, --nats-cert and --nats-tls-first, or switch TLS on there".to_owned(),
        ),
        rustls::Error::AlertReceived(
            alert @ (Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied),
        ) => Refusal::Us(format!(
            "the server wants a certificate that it trusts, and says {alert:?}: give one with --nats-cert and --nats-key"
        )),
        other => Refusal::Server(format!("TLS failed: {other}")),
    }
}

fn of_certificate(wrong: &CertificateError) -> String {
    use CertificateError as Wrong;
    match wrong {
        Wrong::UnknownIssuer => {
            "the server's certificate is not trusted: name its authority with --nats-ca".to_owned()
        }
        Wrong::Expired | Wrong::ExpiredContext { .. } => {
            format!(
                "the server's certificate has expired: {wrong}; renew it there, or mend this machine's clock"
            )
        }
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
            format!("the server's certificate is not valid yet: {wrong}; mend the clocks")
        }
        Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => format!(
            "the server's certificate is for another name: {wrong}; use a name that it has in the URL"
        ),
        other => format!("the server's certificate is refused: {other}"),
    }
}
