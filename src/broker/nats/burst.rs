//! Bursts: runs that would wait for one another are stored as one atomic batch.
//!
//! A server with `sync_interval: always` syncs each message that comes by itself, and an atomic batch
//! (nats-server 2.12) once. What a caller sees is exactly what a single publish does: a batch is all or
//! nothing, so one that is refused, because of one occupied slot or one repeated id, is halved until
//! those are found, and they go by themselves. An answer that does not come leaves it open whether
//! the batch was stored, as with one run; the ids make it safe to publish them again.
//!
//! One task a connection holds what waits. It ends with the connection.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::{Client, HeaderMap, Request, client::RequestErrorKind};
use bytes::Bytes;
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinHandle,
};
use tracing::debug;

use super::{
    api::{ApiError, code},
    asking::NO_ANSWER,
    disturbed::Disturbed,
    pace::{ALONE, Batches, FEWEST, Pace},
};
use crate::clock;

/// The most that a server takes as one batch.
const MOST: usize = 1000;
/// And this much at once, so that nobody has to hold more.
const MOST_BYTES: usize = 4 << 20;
/// How long those that wait believe that one of those on their way comes back.
const PATIENCE: Duration = Duration::from_secs(1);

/// A run on its way to the server.
#[derive(Debug)]
pub(super) struct Message {
    /// Its id, and its signature if it has one.
    pub(super) headers: HeaderMap,
    pub(super) subject: String,
    pub(super) payload: Bytes,
}

/// What a run is to do.
#[derive(Debug)]
pub(super) enum Turn {
    /// Go by itself, with a place among those on their way, or without one if nobody comes back.
    Alone(Option<Place>),
    /// It was stored, with others.
    Stored,
    /// Nobody knows whether it was stored.
    Unclear(String),
}

/// A place among those that are on their way by themselves.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    in_flight: usize,
}

struct Waiting {
    message: Message,
    told: oneshot::Sender<Turn>,
}

/// What became of a batch.
#[derive(Debug)]
enum Fate {
    Stored,
    /// One of them, or several, cannot be stored.
    Refused,
    /// The server takes no batch, or not this one: none of them was stored.
    NotTaken(String),
    Unclear(String),
}

/// Where runs wait for their turn.
#[derive(Debug)]
pub(super) struct Burst {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Waiting>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    disturbed: Arc<Disturbed>,
    /// Whether the stream takes batches.
    allowed: AtomicBool,
    /// Those that were not told yet what to do: who comes later stands behind them.
    waiting: AtomicUsize,
    places: Arc<Semaphore>,
    pace: Mutex<Pace>,
}

impl Drop for Burst {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Burst {
    pub(super) fn start(client: Client, batches: Batches, disturbed: Arc<Disturbed>) -> Self {
        let shared = Arc::new(Shared {
            client,
            disturbed,
            allowed: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            places: Arc::new(Semaphore::new(ALONE)),
            pace: Mutex::new(Pace::new(batches)),
        });
        let (queue, waiting) = mpsc::channel(MOST);
        let task = tokio::spawn(serve(Arc::clone(&shared), waiting));
        Self {
            shared,
            queue,
            task,
        }
    }

    /// The stream takes batches, or does not.
    pub(super) fn allow(&self, allowed: bool) {
        self.shared.allowed.store(allowed, Ordering::Relaxed);
    }

    /// What a run is to do.
    pub(super) async fn turn(&self, message: impl FnOnce() -> Message) -> Turn {
        let shared = &self.shared;
        if !shared.allowed.load(Ordering::Relaxed) {
            return Turn::Alone(None);
        }
        if shared.waiting.load(Ordering::Relaxed) == 0
            && let Ok(permit) = Arc::clone(&shared.places).try_acquire_owned()
        {
            return Turn::Alone(Some(shared.place(permit)));
        }
        let Ok(room) = self.queue.reserve().await else {
            return Turn::Alone(None);
        };
        let (told, turn) = oneshot::channel();
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        room.send(Waiting {
            message: message(),
            told,
        });
        turn.await.unwrap_or(Turn::Alone(None))
    }

    /// A run by itself was answered after `took`.
    pub(super) fn note(&self, place: &Place, took: Duration) {
        self.shared
            .pace(|pace| pace.note_alone(took, place.in_flight));
    }
}

impl Shared {
    fn pace<T>(&self, act: impl FnOnce(&mut Pace) -> T) -> T {
        act(&mut self.pace.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        Place {
            _permit: permit,
            in_flight: ALONE.saturating_sub(self.places.available_permits()),
        }
    }

    fn tell(&self, waiting: Waiting, turn: Turn) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        // Nobody wants to know any more if its call was given up.
        drop(waiting.told.send(turn));
    }

    /// Sends them as one batch.
    async fn store(&self, batch: &[Waiting]) -> Fate {
        #[derive(Deserialize)]
        struct Answer {
            error: Option<ApiError>,
            batch: Option<String>,
            count: Option<usize>,
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        let answer = match self.exchange(&id, batch).await {
            Ok(answer) => answer,
            Err(fate) => return fate,
        };
        match serde_json::from_slice::<Answer>(&answer) {
            Ok(Answer {
                error: Some(error), ..
            }) => fate_of(&error),
            Ok(answer) if answer.batch == Some(id) && answer.count == Some(batch.len()) => {
                Fate::Stored
            }
            // A server that knows no batches has stored the last one, or all: each finds out.
            Ok(_) => Fate::NotTaken("the server does not know batches".to_owned()),
            Err(error) => Fate::NotTaken(error.to_string()),
        }
    }

    /// Sends the messages of a batch; the answer to the last one.
    async fn exchange(&self, id: &str, batch: &[Waiting]) -> Result<Bytes, Fate> {
        let headers = |sequence: usize, message: &Message| {
            let mut headers = message.headers.clone();
            headers.insert("Nats-Batch-Id", id);
            headers.insert("Nats-Batch-Sequence", sequence.to_string());
            headers
        };
        let mut losses = self.disturbed.losses();
        let Some((last, others)) = batch.split_last() else {
            return Err(Fate::NotTaken("it is empty".to_owned()));
        };
        for (at, Waiting { message, .. }) in others.iter().enumerate() {
            let (subject, payload) = (message.subject.clone(), message.payload.clone());
            let headers = headers(at + 1, message);
            let sent = self.client.publish_with_headers(subject, headers, payload);
            // What was sent of it is forgotten by the server: nothing was committed.
            sent.await
                .map_err(|error| Fate::NotTaken(error.to_string()))?;
        }
        point!("nats-batch-sent");
        let mut commit = headers(batch.len(), &last.message);
        commit.insert("Nats-Batch-Commit", "1");
        let request = Request::new()
            .headers(commit)
            .payload(last.message.payload.clone());
        let subject = last.message.subject.clone();
        let answer = tokio::select! {
            biased;
            answer = self.client.send_request(subject, request) => answer,
            () = losses.next() => return Err(Fate::Unclear("the connection was lost".to_owned())),
        };
        point!("nats-batch-stored");
        match answer {
            Ok(answer) => Ok(answer.payload),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::TimedOut => Fate::Unclear(NO_ANSWER.to_owned()),
                RequestErrorKind::NoResponders => Fate::NotTaken(error.to_string()),
                _ => Fate::Unclear(error.to_string()),
            }),
        }
    }
}

/// An occupied slot and a full stream have the same code.
fn fate_of(error: &ApiError) -> Fate {
    let about_one = match error.err_code {
        code::BATCH_HAS_DUPLICATE => true,
        code::STORE_FAILED => error.description.contains("per subject"),
        _ => false,
    };
    match about_one {
        true => Fate::Refused,
        false => Fate::NotTaken(error.description.clone()),
    }
}

/// Tells everybody who waits what to do, until nobody can come any more.
async fn serve(shared: Arc<Shared>, mut queue: mpsc::Receiver<Waiting>) {
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    let mut moved = clock::monotonic();
    loop {
        tokio::select! {
            biased;
            next = queue.recv(), if waiting.len() < MOST => {
                let Some(next) = next else { return };
                if waiting.is_empty() {
                    moved = clock::monotonic();
                }
                waiting.push_back(next);
                continue;
            }
            permit = place_by(&shared, moved + PATIENCE), if !waiting.is_empty() => {
                moved = clock::monotonic();
                match (permit, waiting.len()) {
                    (Some(permit), _) => if let Some(first) = waiting.pop_front() {
                        let place = shared.place(permit);
                        shared.tell(first, Turn::Alone(Some(place)));
                    }
                    (None, all) => for waiting in waiting.drain(..all) {
                        shared.tell(waiting, Turn::Alone(None));
                    }
                }
            }
        }
        if shared.pace(|pace| pace.prefers_batch(waiting.len())) {
            let size = fitting(&waiting);
            send(&shared, waiting.drain(..size).collect()).await;
            moved = clock::monotonic();
        }
    }
}

/// A place for the next one that goes by itself; `None` if nobody comes back until then.
async fn place_by(shared: &Shared, deadline: Instant) -> Option<OwnedSemaphorePermit> {
    let place = Arc::clone(&shared.places).acquire_owned();
    let place = tokio::time::timeout_at(deadline.into(), place).await;
    place.ok()?.ok()
}

/// How many of them fit into one batch.
fn fitting(waiting: &VecDeque<Waiting>) -> usize {
    let mut bytes = 0;
    let fits = waiting.iter().take(MOST).take_while(|waiting| {
        bytes += waiting.message.payload.len();
        bytes <= MOST_BYTES
    });
    fits.count().clamp(1, waiting.len())
}

/// Stores all that can be stored together; the others go by themselves.
async fn send(shared: &Shared, burst: Vec<Waiting>) {
    let start = clock::monotonic();
    let (mut parts, mut alone) = (vec![burst], Vec::new());
    while let Some(mut part) = parts.pop() {
        if part.len() < FEWEST {
            alone.extend(part);
            continue;
        }
        match shared.store(&part).await {
            Fate::Stored => tell_all(shared, part, || Turn::Stored),
            Fate::Refused => {
                parts.push(part.split_off(part.len() / 2));
                parts.push(part);
            }
            Fate::NotTaken(reason) => {
                debug!(target: "orchestrator::broker", reason, size = part.len(), "no batch");
                alone.extend(part);
                alone.extend(parts.drain(..).rev().flatten());
            }
            Fate::Unclear(reason) => {
                tell_all(shared, part, || Turn::Unclear(reason.clone()));
                alone.extend(parts.drain(..).rev().flatten());
            }
        }
    }
    let took = clock::monotonic().saturating_duration_since(start);
    shared.pace(|pace| pace.note_batch(took));
    for waiting in alone {
        let place = place_by(shared, clock::monotonic() + PATIENCE).await;
        let place = place.map(|permit| shared.place(permit));
        shared.tell(waiting, Turn::Alone(place));
    }
}

fn tell_all(shared: &Shared, all: Vec<Waiting>, turn: impl Fn() -> Turn) {
    for waiting in all {
        shared.tell(waiting, turn());
    }
}
