//! Sends single messages, and keeps away for a while from a webhook that did not take one.

use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::Destination;
use crate::{
    beat::herald::Failing,
    clock,
    exec::WebhookError,
    job::{Event, JobName},
    plan::Alert,
};

/// The first pause after a failure; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// What was not taken for so long is given up.
const GIVE_UP: Duration = Duration::from_secs(24 * 3600);

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Posted {
    /// It was taken, or is given up.
    Done,
    /// It is to be sent again later.
    NotNow,
}

/// The way to a destination.
#[derive(Debug)]
pub(super) struct Post {
    wait_until: Option<Instant>,
    pause: Duration,
    failing: Failing,
}

/// What a webhook is sent.
#[derive(Serialize)]
struct Message<'a> {
    version: u8,
    id: &'a str,
    webhook: &'a str,
    #[serde(flatten)]
    alert: &'a Alert,
}

impl Post {
    /// A way on which nothing has failed yet; what fails is noted in `failing`.
    pub(super) fn new(failing: Failing) -> Self {
        Self {
            wait_until: None,
            pause: PAUSE,
            failing,
        }
    }

    /// Whether nothing is to be sent yet, because the destination did not take the last message.
    pub(super) fn is_waiting(&self) -> bool {
        self.waits_until().is_some()
    }

    /// When something can be sent again, if not now.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        self.wait_until.filter(|until| *until > Instant::now())
    }

    /// Sends a message once.
    pub(super) async fn send(&mut self, destination: &Destination, alert: &Alert) -> Posted {
        let (webhook, sender) = match destination {
            Destination::Webhook(webhook, sender) => (webhook, sender),
            Destination::Log(..) => {
                log(alert);
                return Posted::Done;
            }
        };
        let (name, event) = (webhook.name.as_str(), alert.event.name());
        let job = alert.job.as_ref().map(JobName::as_str);
        let id = id(name, alert);
        let message = Message {
            version: 1,
            id: &id,
            webhook: name,
            alert,
        };
        let now = clock::now();
        let sent = match serde_json::to_vec(&message) {
            Ok(body) => sender.send(webhook, &id, body, now).await,
            Err(error) => Err(WebhookError::Refused(error.to_string())),
        };
        if sent.is_err() {
            self.failing.note(&webhook.name, now);
        }
        let age = (now - alert.at).to_std().unwrap_or_default();
        match sent {
            Ok(()) => {
                info!(target: "orchestrator::notify", webhook = name, event, job, "told");
                self.failing.forget(&webhook.name);
                (self.wait_until, self.pause) = (None, PAUSE);
                Posted::Done
            }
            Err(WebhookError::NotNow(error)) if age < GIVE_UP => {
                warn!(target: "orchestrator::notify", webhook = name, event, job, error,
                    again_in_s = self.pause.as_secs(), "a webhook did not take a message");
                self.wait_until = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                Posted::NotNow
            }
            Err(WebhookError::NotNow(error) | WebhookError::Refused(error)) => {
                error!(target: "orchestrator::notify", webhook = name, event, job, error,
                    "a webhook did not take a message: it is given up");
                Posted::Done
            }
        }
    }
}

fn log(alert: &Alert) {
    let job = alert.job.as_ref().map(JobName::as_str);
    match alert.event {
        Event::Overdue => warn!(target: "orchestrator::beat", job, "{}", alert.text),
        Event::Failed | Event::Dead | Event::Missed | Event::Paused | Event::Recovered => {
            info!(target: "orchestrator::beat", job, "{}", alert.text);
        }
    }
}

/// The same however often this is told.
fn id(webhook: &str, alert: &Alert) -> String {
    let job = alert.job.as_ref().map_or("", JobName::as_str);
    let (event, at) = (alert.event.name(), alert.at.timestamp_micros());
    let digest = Sha256::digest(format!("{webhook}\n{event}\n{job}\n{at}"));
    let hex = digest.iter().take(12).map(|byte| format!("{byte:02x}"));
    format!("msg_{}", hex.collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::{DateTime, Utc};

    use super::*;
    use crate::{
        exec::WebhookSender,
        job::{About, Seconds, Webhook},
    };

    /// A webhook whose URL cannot be known yet: its credential is missing.
    fn nowhere() -> Destination {
        let webhook = Webhook {
            name: "ops".parse().unwrap(),
            url: "{credential.url}".parse().unwrap(),
            secret: None,
            on: Event::ALL.into(),
            about: About::default(),
            repeat: Seconds::from_secs(60),
        };
        Destination::Webhook(webhook, Arc::new(WebhookSender::new(None)))
    }

    #[tokio::test]
    async fn what_is_not_taken_is_sent_again_later_and_later_and_given_up_after_a_day() {
        let (nowhere, mut post) = (nowhere(), Post::new(Failing::default()));
        let alert = |at| Alert::new(Event::Failed, None, at, "a test".to_owned());
        let lately = alert(clock::now());
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let before = Instant::now();
            assert_eq!(post.send(&nowhere, &lately).await, Posted::NotNow);
            let until = post.waits_until().unwrap();
            let pause = Duration::from_secs(seconds);
            assert!(before + pause <= until && until <= Instant::now() + pause);
        }
        let of_yesterday = alert(clock::now() - GIVE_UP);
        assert_eq!(post.send(&nowhere, &of_yesterday).await, Posted::Done);
    }

    #[test]
    fn an_id_belongs_to_what_happened_not_to_its_telling() {
        let at: DateTime<Utc> = "2026-11-24T10:00:00Z".parse().unwrap();
        let name: JobName = "crawl".parse().unwrap();
        let alert = |text: &str| Alert::new(Event::Failed, Some(&name), at, text.to_owned());
        assert_eq!(id("ops", &alert("a")), id("ops", &alert("b")));
        assert_ne!(id("ops", &alert("a")), id("other", &alert("a")));
    }
}
