//! Whether this process gets on: what its loops say of themselves, and the two paths that tell it.
//!
//! `/livez` answers 200 as long as every loop comes round; else whoever watches should restart the
//! process. `/readyz` answers 200 as long as it does its work: not while it starts, drains, or waits for
//! the broker.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::clock;

/// A loop that says nothing for so long does not come round any more. The calls of a loop have shorter
/// time-outs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections at once; others wait.
const CONNECTIONS: usize = 64;
/// How long a client may take for its request.
const REQUEST: Duration = Duration::from_secs(5);
/// How long one connection is kept.
const CONNECTION: Duration = Duration::from_secs(60);

/// How the loops of a process are.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    parts: Mutex<Vec<Pulse>>,
    draining: AtomicBool,
}

/// How one loop is; it says so itself.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<Part>);

#[derive(Debug)]
struct Part {
    name: &'static str,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    condition: Condition,
    /// It waits for something that may take any time.
    is_resting: bool,
}

#[derive(Debug, Clone)]
enum Condition {
    Starting,
    Well(&'static str),
    Failing(String),
}

/// What the two paths tell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Whether every loop comes round.
    pub live: bool,
    /// Whether the work is done.
    pub ready: bool,
    /// Whether nothing new is taken.
    pub draining: bool,
    /// The loops.
    pub parts: Vec<PartReport>,
}

/// What is told of one loop.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartReport {
    /// Which.
    pub name: &'static str,
    /// Whether it comes round.
    pub live: bool,
    /// Whether it does its work.
    pub ready: bool,
    /// What it does, or why not.
    pub detail: String,
    /// How long ago it said so, in seconds.
    pub seconds_ago: f64,
}

impl Health {
    /// A loop that is to be watched.
    pub fn part(&self, name: &'static str) -> Pulse {
        let pulse = Pulse::unwatched(name);
        lock(&self.0.parts).push(pulse.clone());
        pulse
    }

    /// Nothing new is taken any more.
    pub fn drains(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// How it is at `now`.
    pub fn report(&self, now: Instant) -> Report {
        let parts: Vec<_> = lock(&self.0.parts)
            .iter()
            .map(|pulse| pulse.report(now))
            .collect();
        let draining = self.0.draining.load(Ordering::Relaxed);
        Report {
            live: parts.iter().all(|part| part.live),
            ready: !draining && parts.iter().all(|part| part.live && part.ready),
            draining,
            parts,
        }
    }
}

impl Pulse {
    /// A loop that nobody watches.
    pub fn unwatched(name: &'static str) -> Self {
        Self(Arc::new(Part {
            name,
            seen: Mutex::new(Seen {
                at: clock::monotonic(),
                condition: Condition::Starting,
                is_resting: false,
            }),
        }))
    }

    /// It came round, and does its work.
    pub fn is_well(&self, doing: &'static str) {
        self.say(Condition::Well(doing));
    }

    /// It came round, but cannot do its work.
    pub fn fails(&self, reason: String) {
        self.say(Condition::Failing(reason));
    }

    /// It gets on, in the middle of something.
    pub fn beats(&self) {
        let mut seen = lock(&self.0.seen);
        seen.at = clock::monotonic();
        seen.is_resting = false;
    }

    /// How long it has said nothing.
    pub fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(lock(&self.0.seen).at)
    }

    /// It waits until it says something else, however long.
    pub fn rests(&self) {
        let mut seen = lock(&self.0.seen);
        seen.at = clock::monotonic();
        seen.is_resting = true;
    }

    fn say(&self, condition: Condition) {
        *lock(&self.0.seen) = Seen {
            at: clock::monotonic(),
            condition,
            is_resting: false,
        };
    }

    fn report(&self, now: Instant) -> PartReport {
        let seen = lock(&self.0.seen);
        let ago = now.saturating_duration_since(seen.at);
        let live = seen.is_resting || ago <= PATIENCE;
        let (ready, detail) = match &seen.condition {
            Condition::Starting => (false, "starting"),
            Condition::Well(doing) => (true, *doing),
            Condition::Failing(reason) => (false, reason.as_str()),
        };
        PartReport {
            name: self.0.name,
            live,
            ready,
            detail: match live {
                true => detail.to_owned(),
                false => format!("does not get on; before: {detail}"),
            },
            seconds_ago: ago.as_secs_f64(),
        }
    }
}

/// Answers `/livez` and `/readyz` at `address` until `stop`.
///
/// # Errors
/// The address cannot be listened at.
pub async fn listen(
    address: SocketAddr,
    health: Health,
    stop: CancellationToken,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        tokio::select! {
            () = accept(&listener, &health) => {}
            () = stop.cancelled() => {}
        }
    });
    Ok(bound)
}

async fn accept(listener: &TcpListener, health: &Health) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, perhaps: those who have some may give them back.
                debug!(target: "orchestrator::service", %error, "a connection was not accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let health = health.clone();
        tokio::spawn(async move {
            let _place = place;
            let answer = service_fn(move |request| {
                let answer = answer(&request, &health);
                async move { Ok::<_, Infallible>(answer) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST)
                .serve_connection(TokioIo::new(stream), answer);
            // Whoever broke off asks again.
            let _ = tokio::time::timeout(CONNECTION, served).await;
        });
    }
}

fn answer(request: &Request<Incoming>, health: &Health) -> Response<Full<Bytes>> {
    let report = health.report(clock::monotonic());
    let good = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/livez") => report.live,
        (&Method::GET | &Method::HEAD, "/readyz") => report.ready,
        (_, "/livez" | "/readyz") => return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
        _ => return plain(StatusCode::NOT_FOUND, "there are /livez and /readyz\n"),
    };
    let status = match good {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = serde_json::to_vec(&report).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_nothing_is_dead_and_who_cannot_work_is_not_ready() {
        let health = Health::default();
        let (beat, worker) = (health.part("beat"), health.part("worker"));
        let start = clock::monotonic();
        let at = |later: u64| {
            let report = health.report(start + Duration::from_secs(later));
            (report.live, report.ready)
        };
        assert_eq!(at(0), (true, false), "starting");
        beat.is_well("leading");
        worker.is_well("taking runs");
        assert_eq!(at(1), (true, true));
        worker.fails("the broker is away".to_owned());
        assert_eq!(at(1), (true, false));
        worker.rests();
        assert_eq!(at(59), (true, false));
        worker.is_well("taking runs");
        worker.rests();
        assert_eq!(at(59), (true, true));
        assert_eq!(at(70), (false, false), "beat said nothing");
        let report = health.report(start + Duration::from_secs(70));
        assert_eq!(report.parts[0].detail, "does not get on; before: leading");
        assert!(report.parts[1].live, "it rests");
        health.drains();
        assert_eq!(at(1), (true, false));
    }
}
