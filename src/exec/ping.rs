//! Dead-man pings: somebody else is told that work began and how it ended, and raises the alarm when nothing
//! comes. The form is that of healthchecks.io: `URL/start`, `URL`, `URL/EXIT`, `URL/fail`, with `rid`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::Url;
use sha2::{Digest, Sha256};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use super::http::{Clients, Leaving, Redirects, causes, send};

/// How many are on their way at once; what is beyond that is not sent.
const AT_ONCE: usize = 64;
/// How long one may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The pauses before it is sent again.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// How much of a reason is sent.
const REASON: usize = 10_000;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Work began.
    Start,
    /// It succeeded.
    Success,
    /// It failed with this exit code.
    Exit(u8),
    /// It failed in another way.
    Fail,
    /// It ended, but that says nothing about its health.
    Log,
}

/// Sends pings beside the work: it neither waits for them nor fails with them.
#[derive(Debug, Default)]
pub struct Pings {
    clients: Arc<Clients>,
    room: Option<Arc<Semaphore>>,
    sending: Mutex<JoinSet<()>>,
    /// The last ping about each thing.
    last: Mutex<HashMap<String, Turn>>,
}

/// When a ping may be sent: those about the same thing go one after the other, or a start that was late would look
/// like work that never ends.
#[derive(Debug, Clone, Default)]
struct Turn {
    /// A later one waits: this one is not sent again.
    overtaken: CancellationToken,
    /// It was sent or given up.
    over: CancellationToken,
}

impl Pings {
    /// Nothing is on its way.
    pub fn new() -> Self {
        Self {
            room: Some(Arc::new(Semaphore::new(AT_ONCE))),
            ..Self::default()
        }
    }

    /// Tells `url` what happened to `about`, which names what belongs together: one after the other, in the order of
    /// the calls. To be called within a runtime.
    pub fn send(&self, url: &str, event: Event, about: Option<&str>, reason: &str) {
        let Some(target) = target(url, event, about) else {
            warn!(target: "orchestrator::ping", about, "`ping` is not a URL");
            return;
        };
        let room = self.room.as_ref().map(Arc::clone);
        let Some(Ok(place)) = room.map(Semaphore::try_acquire_owned) else {
            warn!(target: "orchestrator::ping", about, ?event, "too many pings are on their way: not sent");
            return;
        };
        let clients = Arc::clone(&self.clients);
        let about = about.map(str::to_owned);
        let body: String = reason.chars().take(REASON).collect();
        let (turn, before) = self.turn(about.as_deref());
        let mut sending = lock(&self.sending);
        while sending.try_join_next().is_some() {}
        sending.spawn(async move {
            let _place = place;
            let _over = turn.over.drop_guard();
            if let Some(before) = before {
                before.over.cancelled().await;
            }
            let mut pauses = AGAIN.iter();
            loop {
                let error = match post(&clients, target.clone(), body.clone()).await {
                    Ok(()) => return debug!(target: "orchestrator::ping", about, ?event, "sent"),
                    Err(error) => error,
                };
                let pause = pauses.next().filter(|_| !turn.overtaken.is_cancelled());
                let Some(pause) = pause else {
                    return warn!(target: "orchestrator::ping", about, ?event, error,
                        "a ping was not taken");
                };
                tokio::select! {
                    () = sleep(*pause) => {}
                    () = turn.overtaken.cancelled() => {
                        return warn!(target: "orchestrator::ping", about, ?event, error,
                            "a ping was not taken, and is outdated");
                    }
                }
            }
        });
    }

    /// A turn for a ping about `about`, and that of the one before it, if it is on its way.
    fn turn(&self, about: Option<&str>) -> (Turn, Option<Turn>) {
        let turn = Turn::default();
        let Some(about) = about else {
            return (turn, None);
        };
        let mut last = lock(&self.last);
        last.retain(|_, turn| !turn.over.is_cancelled());
        let before = last.insert(about.to_owned(), turn.clone());
        if let Some(before) = &before {
            before.overtaken.cancel();
        }
        (turn, before)
    }

    /// Waits until all have been sent, at most for `patience`.
    pub async fn finish(&self, patience: Duration) {
        let mut sending = std::mem::take(&mut *lock(&self.sending));
        let all = async { while sending.join_next().await.is_some() {} };
        if timeout(patience, all).await.is_err() {
            debug!(target: "orchestrator::ping", "pings are given up");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn post(clients: &Clients, url: Url, body: String) -> Result<(), String> {
    /// Services move.
    const REDIRECTS: Redirects = Redirects {
        most: 3,
        leaving: Leaving::Follow,
    };
    let client = clients.get()?;
    let request = client.post(url).body(body).build();
    let request = request.map_err(|error| causes(&error))?;
    let sent = timeout(TIMEOUT, send(&client, request, REDIRECTS)).await;
    let answer = sent.map_err(|_| format!("no answer within {TIMEOUT:?}"))??;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("status {}", status.as_u16())),
    }
}

fn target(url: &str, event: Event, about: Option<&str>) -> Option<Url> {
    let mut url = Url::parse(url).ok()?;
    let end = match event {
        Event::Success => String::new(),
        Event::Start => "/start".to_owned(),
        Event::Fail => "/fail".to_owned(),
        Event::Log => "/log".to_owned(),
        Event::Exit(code) => format!("/{code}"),
    };
    if !end.is_empty() {
        let path = format!("{}{end}", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    if let Some(about) = about {
        url.query_pairs_mut()
            .append_pair("rid", &rid(about).to_string());
    }
    Some(url)
}

/// A UUID that is always the same for `about`.
fn rid(about: &str) -> Uuid {
    let digest = Sha256::digest(about.as_bytes());
    let bytes = digest.first_chunk::<16>().copied().unwrap_or_default();
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_that_of_healthchecks() {
        let at = |url: &str, event| target(url, event, None).unwrap().to_string();
        let url = "https://hc-ping.com/some-uuid";
        assert_eq!(at(url, Event::Success), url);
        assert_eq!(at(url, Event::Start), format!("{url}/start"));
        assert_eq!(at(url, Event::Exit(7)), format!("{url}/7"));
        assert_eq!(
            at("http://x/y/?create=1", Event::Fail),
            "http://x/y/fail?create=1"
        );
        let about = |about| target(url, Event::Success, Some(about)).unwrap();
        assert_eq!(about("a@1"), about("a@1"));
        assert_ne!(about("a@1"), about("a@2"));
        let query = about("a@1").query().unwrap().to_owned();
        assert!(
            query.strip_prefix("rid=").unwrap().parse::<Uuid>().is_ok(),
            "{query}"
        );
    }
}
