//! Taking runs, without ever holding more than were asked for.
//!
//! All requests of one pull answer to one subscription. Asking without waiting is answered at once,
//! but an answer may come in several messages, and the server does not say which is the last one:
//! whatever is not certainly over is ended by ending the subscription (see [`Pulling::end`]), which
//! also brings in what was under way. What exceeds the free slots goes back at once.

mod ending;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use async_nats::{Message, StatusCode, Subscriber};
use futures::StreamExt;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    NatsBroker,
    api::{is_an_answer, passed_over},
    settings::nanoseconds,
    violations::Listening,
};
use crate::{
    broker::{BrokerError, Delivery, PullRequest, Receipt},
    clock,
    job::QueueName,
    run::SIGNATURE_HEADER,
};

/// How long a request for what is there now is waited for. If others took the last run in between,
/// the server answers it only when the next one comes; the end of the pull then takes care of it.
const ANSWER: Duration = Duration::from_secs(1);

/// How long one question to a queue waits.
const ROUND: Duration = Duration::from_secs(2);

/// How long after a question that nobody took the next one follows.
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// How often a pull that waits looks whether its connection still stands.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The word that gives a delivery back, to come again after `delay`.
pub(super) fn nak(delay: Duration) -> String {
    match delay.is_zero() {
        true => "-NAK".to_owned(),
        false => format!("-NAK {}", json!({ "delay": nanoseconds(delay) })),
    }
}

/// Tries again while a cluster elects a leader, for as long as it may wait.
pub(super) async fn pull(
    nats: &NatsBroker,
    request: PullRequest,
    stop: &CancellationToken,
) -> Result<Vec<Delivery>, BrokerError> {
    let connects = nats.connects();
    let until = clock::monotonic() + request.wait;
    let left = || until.saturating_duration_since(clock::monotonic());
    loop {
        let wait = left();
        let error = match once(
            nats,
            PullRequest {
                wait,
                ..request.clone()
            },
            stop,
        )
        .await
        {
            Err(error @ BrokerError::Unreachable { .. }) => error,
            done => return done,
        };
        // Whoever loses the connection is to know.
        let unbroken = nats.is_connected() && nats.connects() == connects;
        if !unbroken || left() < TRY_AGAIN {
            return Err(error);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(error),
            () = tokio::time::sleep(TRY_AGAIN) => {}
        }
    }
}

async fn once(
    nats: &NatsBroker,
    request: PullRequest,
    stop: &CancellationToken,
) -> Result<Vec<Delivery>, BrokerError> {
    let mut leases = HashMap::new();
    for (queue, _) in &request.shares {
        leases.insert(queue.clone(), nats.serve_queue(queue).await?);
    }
    // Before anything is asked: a violation may come at once.
    let violations = nats.violations.listen();
    let inbox = nats.client.new_inbox();
    let subscriber = nats.client.subscribe(format!("{inbox}.*")).await;
    let subscriber = subscriber.map_err(|error| lost(nats, &error.to_string()))?;
    let mut pulling = Pulling {
        nats,
        violations,
        connects: nats.connects(),
        leases,
        inbox,
        subscriber,
        asked: 0,
        open: Vec::new(),
        received: 0,
        owed: 0,
        taken: Vec::new(),
        came: Vec::new(),
    };
    let outcome = pulling.take(&request, stop).await;
    pulling.finish(request.max, outcome).await
}

struct Pulling<'a> {
    nats: &'a NatsBroker,
    violations: Listening<'a>,
    /// How often the client had connected when this pull began.
    connects: u64,
    /// Of the queues that are asked.
    leases: HashMap<QueueName, Duration>,
    inbox: String,
    subscriber: Subscriber,
    /// How many requests were made; each has its number in its reply subject.
    asked: u64,
    /// Requests that the server may still answer, oldest first.
    open: Vec<Open>,
    /// How many messages came.
    received: u64,
    /// How many more may be under way at most.
    owed: u64,
    taken: Vec<Delivery>,
    /// When each of them came: ending a pull may take long.
    came: Vec<Instant>,
}

/// A request that is not known to be over.
struct Open {
    number: u64,
    queue: QueueName,
    /// How many runs it may still bring.
    left: usize,
}

/// What a message of the subscription was.
enum Came {
    /// A run of this queue; so many more can be taken after it.
    Run { queue: QueueName, more: u64 },
    /// The end of a request, or a sign of life.
    Word,
}

impl Pulling<'_> {
    async fn take(
        &mut self,
        request: &PullRequest,
        stop: &CancellationToken,
    ) -> Result<(), BrokerError> {
        for (queue, share) in &request.shares {
            let free = request.max.saturating_sub(self.taken.len());
            self.at_once(queue, (*share).min(free)).await?;
        }
        for (queue, _) in &request.shares {
            let free = request.max.saturating_sub(self.taken.len());
            self.at_once(queue, free).await?;
        }
        if self.taken.is_empty() && !request.wait.is_zero() && !stop.is_cancelled() {
            self.wait(request, stop).await?;
        }
        Ok(())
    }

    /// Takes up to `batch` runs that are there now.
    async fn at_once(&mut self, queue: &QueueName, batch: usize) -> Result<(), BrokerError> {
        if batch == 0 {
            return Ok(());
        }
        let asked = self
            .ask(queue, batch, &json!({ "batch": batch, "no_wait": true }))
            .await?;
        while self.is_open(asked) {
            let next = tokio::time::timeout(ANSWER, self.next()).await;
            let Ok(next) = next else {
                return self.check_silence();
            };
            match next? {
                // Fewer were there than asked for. Repeats may follow: the end brings them in.
                Came::Run { queue: of, more: 0 } if of == *queue => return Ok(()),
                Came::Run { .. } | Came::Word => {}
            }
        }
        Ok(())
    }

    fn is_open(&self, number: u64) -> bool {
        self.open.iter().any(|open| open.number == number)
    }

    /// No answer came in time: an error if the server is away.
    fn check_silence(&self) -> Result<(), BrokerError> {
        match self.nats.is_connected() {
            true => Ok(()),
            false => Err(lost(self.nats, "not connected")),
        }
    }

    /// An error if the connection that the requests went over is lost.
    fn check_unbroken(&self) -> Result<(), BrokerError> {
        match self.nats.is_connected() && self.nats.connects() == self.connects {
            true => Ok(()),
            false => Err(lost(self.nats, "the connection was lost")),
        }
    }

    /// Waits for the first run of any queue.
    async fn wait(
        &mut self,
        request: &PullRequest,
        stop: &CancellationToken,
    ) -> Result<(), BrokerError> {
        let until = clock::monotonic() + request.wait;
        while self.taken.is_empty() && !stop.is_cancelled() {
            let left = until.saturating_duration_since(clock::monotonic());
            if left.is_zero() {
                break;
            }
            self.round(request, left.min(ROUND), stop).await?;
        }
        Ok(())
    }

    /// Waits for so long. A server that dies takes its questions with it: only its silence shows.
    async fn round(
        &mut self,
        request: &PullRequest,
        wait: Duration,
        stop: &CancellationToken,
    ) -> Result<(), BrokerError> {
        // The first that comes ends the wait: there is no use in more of the same queue.
        let body = json!({ "batch": 1, "expires": nanoseconds(wait) });
        for (queue, _) in &request.shares {
            self.ask(queue, 1, &body).await?;
        }
        let deadline = tokio::time::sleep(wait + ANSWER);
        tokio::pin!(deadline);
        let mut look = tokio::time::interval(LOOK_EVERY);
        while !self.open.is_empty() && self.taken.is_empty() {
            tokio::select! {
                came = self.next() => { came?; }
                () = stop.cancelled() => return Ok(()),
                // A server that was away for ever so short has forgotten that it was asked.
                _ = look.tick() => self.check_unbroken()?,
                // The server would have said so long ago.
                () = &mut deadline => return Err(lost(self.nats, "no answer in time")),
            }
        }
        Ok(())
    }

    async fn ask(
        &mut self,
        queue: &QueueName,
        batch: usize,
        body: &serde_json::Value,
    ) -> Result<u64, BrokerError> {
        let subject = question(self.nats, queue);
        let number = self.asked;
        self.asked += 1;
        let reply = format!("{}.{number}", self.inbox);
        let payload = body.to_string().into();
        let asked = self.nats.client.publish_with_reply(subject, reply, payload);
        asked
            .await
            .map_err(|error| lost(self.nats, &error.to_string()))?;
        self.open.push(Open {
            number,
            queue: queue.clone(),
            left: batch,
        });
        // The runs, and the word that there are no more.
        self.owed += batch as u64 + 1;
        Ok(number)
    }

    async fn next(&mut self) -> Result<Came, BrokerError> {
        let (nats, leases) = (self.nats, &self.leases);
        let refusal = self.violations.refusal(|told| {
            let mut asked = leases.keys();
            asked.any(|queue| told.is_publish_to(&question(nats, queue)))
        });
        let message = tokio::select! {
            message = self.subscriber.next() => message,
            reason = refusal => return Err(nats.not_permitted("pull", reason)),
        };
        match message {
            Some(message) => self.receive(message),
            None => Err(lost(nats, "the connection was closed")),
        }
    }

    fn receive(&mut self, message: Message) -> Result<Came, BrokerError> {
        self.received += 1;
        self.owed = self.owed.saturating_sub(1);
        match message.status {
            None | Some(StatusCode::OK) => {}
            Some(StatusCode::IDLE_HEARTBEAT) => return Ok(Came::Word),
            Some(status) => {
                let number = message.subject.rsplit('.').next();
                let number = number.and_then(|number| number.parse::<u64>().ok());
                self.open.retain(|open| Some(open.number) != number);
                if matches!(status, StatusCode::NOT_FOUND | StatusCode::TIMEOUT) {
                    return Ok(Came::Word);
                }
                // Removed under us, or too many wait: made sure of again by the next pull.
                self.nats.setup.forget();
                let said = message.description.unwrap_or_default();
                return Err(lost(self.nats, &format!("{status} {said}")));
            }
        }
        let delivery = self.delivery(&message);
        let (delivery, more) = delivery.ok_or_else(|| {
            let subject = message.subject.as_str();
            self.nats.failed(
                "pull",
                format!("a delivery on {subject} has no JetStream reply"),
            )
        })?;
        let queue = delivery.queue.clone();
        self.taken.push(delivery);
        self.came.push(clock::monotonic());
        self.bring(&queue);
        Ok(Came::Run { queue, more })
    }

    /// A run came: the oldest request of its queue may bring one less.
    fn bring(&mut self, queue: &QueueName) {
        if let Some(open) = self.open.iter_mut().find(|open| open.queue == *queue) {
            open.left = open.left.saturating_sub(1);
        }
        self.open.retain(|open| open.left > 0);
    }

    /// Reads `$JS.ACK.STREAM.CONSUMER.DELIVERIES.SEQUENCE.….TIME.PENDING`; newer servers put a
    /// domain and an account in front of the stream.
    fn delivery(&self, message: &Message) -> Option<(Delivery, u64)> {
        let reply = message.reply.as_ref()?.as_str();
        let tokens: Vec<_> = reply.split('.').collect();
        let first = match tokens.len() {
            9 => 4,
            11.. => 6,
            _ => return None,
        };
        let queue = self.nats.names.queue_of(&message.subject)?;
        let number = |at: usize| tokens.get(at)?.parse::<u64>().ok();
        let header = |name: &str| Some(message.headers.as_ref()?.get(name)?.to_string());
        let delivery = Delivery {
            receipt: Receipt(reply.to_owned()),
            deliveries: number(first)?,
            sequence: number(first + 1)?,
            lease: *self.leases.get(&queue)?,
            held_for: Duration::ZERO,
            queue,
            payload: match is_an_answer(|name| header(name).is_some()) {
                true => passed_over(&message.subject),
                false => message.payload.to_vec(),
            },
            subject: message.subject.to_string(),
            signature: header(SIGNATURE_HEADER),
        };
        Some((delivery, number(first + 4)?))
    }
}

/// Where the runs of a queue are asked for.
fn question(nats: &NatsBroker, queue: &QueueName) -> String {
    let stream = nats.names.jobs_stream();
    format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{queue}")
}

fn lost(nats: &NatsBroker, reason: &str) -> BrokerError {
    nats.out_of_reach("pull", reason.to_owned())
}
