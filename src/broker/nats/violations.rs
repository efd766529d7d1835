//! Violations of permissions. The server tells them beside the call that they belong to, which would
//! otherwise wait for an answer until its time is up.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::broadcast;

/// How many violations somebody who looks for one of his own may fall behind.
const KEPT: usize = 256;

/// How often the same one is logged.
const TELL_AGAIN: Duration = Duration::from_secs(60);

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
    /// What was logged, and when.
    logged: Mutex<HashMap<String, Instant>>,
}

impl Violations {
    /// Of a user who gets its answers under `inbox`.
    pub(super) fn new(who: String, inbox: &str) -> Self {
        let who = match inbox {
            "_INBOX" => who,
            own => format!("{who} ({own})"),
        };
        Self {
            who,
            inbox: format!("{inbox}."),
            told: broadcast::channel(KEPT).0,
            deaf: Mutex::default(),
            logged: Mutex::default(),
        }
    }

    /// The server has let this user in before, and does not now.
    pub(super) fn shut_out(&self) -> String {
        format!(
            "the server does not let {} in any more; trying again: have it put back there, or restart with the \
             credentials that replace its own",
            self.who
        )
    }

    /// Whether this is to be logged: what is tried again and again is told now and then.
    pub(super) fn is_news(&self, described: &str, now: Instant) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.retain(|_, at| now.saturating_duration_since(*at) < TELL_AGAIN);
        if logged.len() >= KEPT {
            return false;
        }
        match logged.entry(described.to_owned()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(vacant) => {
                vacant.insert(now);
                true
            }
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
        assert_eq!(refusal, "the user w (_INBOX_w) may not publish to mine");
        let now = crate::clock::monotonic();
        let told = |later: u64| violations.is_news(&refusal, now + Duration::from_secs(later));
        assert_eq!([told(0), told(59), told(61)], [true, false, true]);
        violations.tell(r#"Permissions Violation for Subscription to "_INBOX_w.x.*""#);
        let mut late = violations.listen();
        let refusal = late.refusal(|_| false).await;
        assert!(refusal.contains("--nats-inbox-prefix"), "{refusal}");
    }
}
