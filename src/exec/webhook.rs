//! Sends what happened to a webhook, signed as <https://www.standardwebhooks.com> has it: `webhook-id`,
//! `webhook-timestamp` and `webhook-signature`, an HMAC-SHA256 over both and the body.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac};
use reqwest::header::CONTENT_TYPE;
use sha2::Sha256;
use thiserror::Error;

use super::{
    http::{Clients, causes},
    in_time::{PATIENCE, in_time},
    secrets::credential,
};
use crate::job::{CredentialName, Values, Webhook};

/// How long one message may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How an encoded secret begins.
const ENCODED: &str = "whsec_";

/// Why a webhook did not take a message.
#[derive(Debug, Error)]
pub enum WebhookError {
    /// It may take it later.
    #[error("{0}")]
    NotNow(String),
    /// It will not take it.
    #[error("{0}")]
    Refused(String),
}

/// Sends messages to webhooks.
#[derive(Debug, Default)]
pub struct WebhookSender {
    clients: Clients,
    credentials: Option<PathBuf>,
}

/// Those of one webhook, by their names.
struct Credentials(BTreeMap<String, String>);

impl Values for Credentials {
    fn built_in(&self, _name: &str) -> Option<String> {
        None
    }

    fn argument(&self, _name: &str) -> Option<String> {
        None
    }

    fn credential(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }
}

impl WebhookSender {
    /// Reads secrets from files in `credentials`.
    pub fn new(credentials: Option<PathBuf>) -> Self {
        Self {
            clients: Clients::default(),
            credentials,
        }
    }

    /// Sends a message. `id` is the same however often it is sent.
    ///
    /// # Errors
    /// What the webhook, or the way to it, said; neither its URL nor its secret is named.
    pub async fn send(
        &self,
        webhook: &Webhook,
        id: &str,
        body: Vec<u8>,
        now: DateTime<Utc>,
    ) -> Result<(), WebhookError> {
        let credentials = self.credentials_of(webhook).await;
        let credentials = credentials.map_err(WebhookError::NotNow)?;
        let url = webhook.url.render(&credentials);
        let url = url.map_err(|error| WebhookError::Refused(error.to_string()))?;
        let client = self.clients.get().map_err(WebhookError::NotNow)?;
        let timestamp = now.timestamp();
        let mut request = client
            .post(url)
            .timeout(TIMEOUT)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp);
        let secret = webhook.secret.as_ref();
        if let Some(secret) = secret.and_then(|name| credentials.credential(name.as_str())) {
            let signature = sign(&secret, id, timestamp, &body);
            request = request.header("webhook-signature", signature);
        }
        let answer = request.body(body).send().await;
        let answer = answer.map_err(|error| match error.is_builder() {
            true => WebhookError::Refused("its URL is not one".to_owned()),
            false => WebhookError::NotNow(causes(&error)),
        })?;
        answered(answer.status().as_u16())
    }

    /// What a webhook is told: nothing, if one of them cannot be read.
    async fn credentials_of(&self, webhook: &Webhook) -> Result<Credentials, String> {
        let names = webhook.url.credentials().map(str::parse::<CredentialName>);
        let names = names.chain(webhook.secret.clone().map(Ok));
        let names: Vec<_> = names
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?;
        if names.is_empty() {
            return Ok(Credentials(BTreeMap::new()));
        }
        let directory = self.credentials.clone();
        let read = move || {
            let read = names.into_iter().map(|name| {
                let value = credential(&name, directory.as_deref())?;
                Ok((name.to_string(), value))
            });
            read.collect::<Result<_, String>>()
        };
        let read = in_time(PATIENCE, read).await;
        read.unwrap_or_else(|| Err("its credentials cannot be read: nothing answers".to_owned()))
            .map(Credentials)
    }
}

/// What an answer means.
fn answered(status: u16) -> Result<(), WebhookError> {
    match status {
        200..=299 => Ok(()),
        // What is signed for one place is not carried to another one.
        300..=399 => Err(WebhookError::Refused(format!(
            "status {status}: redirects are not followed, so give the URL that it leads to"
        ))),
        408 | 425 | 429 | 500.. => Err(WebhookError::NotNow(format!("status {status}"))),
        _ => Err(WebhookError::Refused(format!("status {status}"))),
    }
}

/// `v1,` and the HMAC-SHA256 of `ID.TIMESTAMP.BODY` in base64. A secret that begins with `whsec_` is base64
/// itself, every other one is taken as it is.
fn sign(secret: &str, id: &str, timestamp: i64, body: &[u8]) -> String {
    let encoded = secret.strip_prefix(ENCODED);
    let decoded = encoded.and_then(|encoded| STANDARD.decode(encoded).ok());
    let key = decoded.unwrap_or_else(|| secret.as_bytes().to_vec());
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key) else {
        // A key of any length will do.
        return String::new();
    };
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_refused_with_the_mend() {
        let is_refused = |status| matches!(answered(status), Err(WebhookError::Refused(_)));
        for taken in [200, 204, 299] {
            assert!(answered(taken).is_ok(), "{taken}");
        }
        for refused in [301, 308, 400, 404, 410] {
            assert!(is_refused(refused), "{refused}");
        }
        for later in [408, 425, 429, 500, 503] {
            let answered = answered(later);
            assert!(matches!(answered, Err(WebhookError::NotNow(_))), "{later}");
        }
        let told = answered(308).unwrap_err().to_string();
        assert!(told.contains("redirects are not followed"), "{told}");
    }

    /// The example of the specification's own libraries.
    #[test]
    fn the_signature_is_that_of_the_standard() {
        let signed = sign(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_ne!(
            signed,
            sign("other", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"")
        );
    }
}
