//! Violations of permissions. The server tells them beside the call that they belong to, which would
//! otherwise wait for an answer until its time is up.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use tokio::sync::broadcast;

/// How many violations somebody who looks for one of his own may fall behind.
const KEPT: usize = 256;

/// What the server did not permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    act: Act,
    subject: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Publish,
    Subscribe,
}

impl Violation {
    /// Reads `Permissions Violation for Publish to "SUBJECT"` and its like.
    fn read(text: &str) -> Option<Self> {
        let lower = text.to_lowercase();
        let at = lower.find("permissions violation")?;
        let act = match lower.get(at..)?.contains("subscription") {
            true => Act::Subscribe,
            false => Act::Publish,
        };
        let subject = text.get(at..)?.split('"').nth(1)?.to_owned();
        Some(Self { act, subject })
    }

    pub(super) fn is_publish_to(&self, subject: &str) -> bool {
        self.act == Act::Publish && self.subject == subject
    }

    /// The subject, or one with more words.
    pub(super) fn is_publish_under(&self, subject: &str) -> bool {
        let rest = self.subject.strip_prefix(subject);
        self.act == Act::Publish
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let act = match self.act {
            Act::Publish => "publish to",
            Act::Subscribe => "subscribe to",
        };
        write!(f, "may not {act} {}", self.subject)
    }
}

/// The violations of one connection.
#[derive(Debug)]
pub(super) struct Violations {
    who: String,
    inbox: String,
    told: broadcast::Sender<Violation>,
    /// The inbox that no answer reaches: the client does not subscribe a second time.
    deaf: Mutex<Option<Violation>>,
}

impl Violations {
    /// Of a user who gets its answers under `inbox`.
    pub(super) fn new(who: String, inbox: &str) -> Self {
        Self {
            who,
            inbox: format!("{inbox}."),
            told: broadcast::channel(KEPT).0,
            deaf: Mutex::default(),
        }
    }

    /// Takes what the server said; whether it was a violation, and by whom.
    pub(super) fn tell(&self, text: &str) -> Option<String> {
        let violation = Violation::read(text)?;
        let described = self.describe(&violation);
        if self.is_of_inbox(&violation) {
            *self.lock() = Some(violation.clone());
        }
        // Nobody may be waiting.
        let _ = self.told.send(violation);
        Some(described)
    }

    /// Another connection, perhaps with other permissions.
    pub(super) fn start_afresh(&self) {
        *self.lock() = None;
    }

    /// Hears of violations from now on.
    pub(super) fn listen(&self) -> Listening<'_> {
        Listening {
            violations: self,
            told: self.told.subscribe(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Violation>> {
        self.deaf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_of_inbox(&self, violation: &Violation) -> bool {
        violation.act == Act::Subscribe && violation.subject.starts_with(&self.inbox)
    }

    fn describe(&self, violation: &Violation) -> String {
        let hint = match self.is_of_inbox(violation) {
            true => {
                "; its answers come there: name the inbox that it may use with --nats-inbox-prefix"
            }
            false => "",
        };
        format!("{} {violation}{hint}", self.who)
    }
}

/// Somebody who waits for an answer, or for the violation that stands for it.
pub(super) struct Listening<'a> {
    violations: &'a Violations,
    told: broadcast::Receiver<Violation>,
}

impl Listening<'_> {
    /// Waits until the server does not permit what `concerns`, or has not permitted our inbox.
    pub(super) async fn refusal(&mut self, concerns: impl Fn(&Violation) -> bool) -> String {
        let all = self.violations;
        loop {
            if let Some(deaf) = all.lock().as_ref() {
                return all.describe(deaf);
            }
            match self.told.recv().await {
                Ok(violation) if concerns(&violation) || all.is_of_inbox(&violation) => {
                    return all.describe(&violation);
                }
                // Others', or so many that some were not heard: then the call's own time-out ends it.
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_is_read_from_what_servers_say() {
        let read = |text: &str| Violation::read(text).map(|found| (found.act, found.subject));
        assert_eq!(
            read(r#"Permissions Violation for Publish to "orch.jobs.high.x""#),
            Some((Act::Publish, "orch.jobs.high.x".to_owned()))
        );
        assert_eq!(
            read(r#"permissions violation for subscription to "_INBOX.a.*" using queue "q""#),
            Some((Act::Subscribe, "_INBOX.a.*".to_owned()))
        );
        assert_eq!(
            read(r#"Permissions Violation for Publish with Reply of "a.b""#),
            Some((Act::Publish, "a.b".to_owned()))
        );
        assert_eq!(read("Slow Consumer"), None);
        assert_eq!(read("Permissions Violation"), None);
    }

    #[tokio::test]
    async fn everybody_hears_of_his_own_and_of_the_inbox() {
        let violations = Violations::new("the user w".to_owned(), "_INBOX_w");
        let mut mine = violations.listen();
        violations.tell(r#"Permissions Violation for Publish to "other""#);
        violations.tell(r#"Permissions Violation for Publish to "mine""#);
        let refusal = mine.refusal(|told| told.is_publish_to("mine")).await;
        assert_eq!(refusal, "the user w may not publish to mine");
        violations.tell(r#"Permissions Violation for Subscription to "_INBOX_w.x.*""#);
        let mut late = violations.listen();
        let refusal = late.refusal(|_| false).await;
        assert!(refusal.contains("--nats-inbox-prefix"), "{refusal}");
    }
}
