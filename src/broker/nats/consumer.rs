//! One durable pull consumer a queue, and the lease that all its workers share.
//!
//! The consumer's ack-wait is the lease of every run that it hands out, whoever took it. So it is
//! never changed under runs that are held, or under a worker that waits: who comes with another
//! `--lease` uses the one in force, and each delivery says which one that is.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{
    NatsBroker,
    api::code,
    setup::{Stream, Turn},
};
use crate::{broker::BrokerError, clock, job::QueueName};

/// How long a lease that was read is believed before it is read again.
const BELIEVED: Duration = Duration::from_secs(5);
/// How often a consumer that others change at the same time is looked at.
const TRIES: usize = 5;

/// The lease of a queue, and when it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownLease {
    lease: Duration,
    read_at: Instant,
}

#[derive(Deserialize)]
struct Info {
    config: Config,
    #[serde(default)]
    num_ack_pending: u64,
    #[serde(default)]
    num_waiting: u64,
}

#[derive(Deserialize)]
struct Config {
    /// Nanoseconds.
    ack_wait: u64,
}

impl NatsBroker {
    /// Makes the queue known to the server, so that its runs are seen before any worker serves it.
    pub(super) async fn make_queue_known(&self, queue: &QueueName) -> Result<(), BrokerError> {
        let known = format!("queue {queue}");
        if self.setup.knows(&known) {
            return Ok(());
        }
        let turn = self.setup.queue_turn().await;
        if self.setup.knows(&known) {
            return Ok(());
        }
        let Some(_turn) = turn.filter(Turn::leaves_time) else {
            let operation = format!("make the queue {queue} known");
            return Err(self.out_of_reach(&operation, "no answer in time".to_owned()));
        };
        self.ensure(Stream::Jobs).await?;
        if self.consumer(queue).await?.is_none() {
            self.set_lease(queue).await?;
        }
        self.setup.note(known);
        Ok(())
    }

    /// Makes sure of the consumer of a queue that a worker serves; returns the lease in force.
    pub(super) async fn serve_queue(&self, queue: &QueueName) -> Result<Duration, BrokerError> {
        let known = self.setup.leases().get(queue).copied();
        if let Some(known) = known
            && clock::monotonic().saturating_duration_since(known.read_at) < BELIEVED
        {
            return Ok(known.lease);
        }
        self.ensure(Stream::Jobs).await?;
        for _ in 0..TRIES {
            let Some(info) = self.consumer(queue).await? else {
                self.set_lease(queue).await?;
                continue;
            };
            let lease = Duration::from_nanos(info.config.ack_wait);
            if lease != self.lease && info.num_ack_pending == 0 && info.num_waiting == 0 {
                if self.set_lease(queue).await? {
                    info!(target: "orchestrator::broker", %queue, lease = ?self.lease,
                        before = ?lease, "the lease of the queue is changed");
                }
                continue;
            }
            if lease != self.lease && known.is_none_or(|known| known.lease != lease) {
                warn!(target: "orchestrator::broker", %queue, in_force = ?lease,
                    wanted = ?self.lease, "other workers serve the queue with another lease: \
                    theirs is used here; give all workers of a queue the same --lease");
            }
            let read_at = clock::monotonic();
            let known = KnownLease { lease, read_at };
            self.setup.leases().insert(queue.clone(), known);
            return Ok(lease);
        }
        Err(self.failed(
            &format!("agree on the lease of the queue {queue}"),
            "its consumer kept changing; give all workers of a queue the same --lease".to_owned(),
        ))
    }

    async fn consumer(&self, queue: &QueueName) -> Result<Option<Info>, BrokerError> {
        let stream = self.names.jobs_stream();
        let operation = format!("look at the consumer {queue} of {stream}");
        let subject = format!("CONSUMER.INFO.{stream}.{queue}");
        match self.api::<Info>(&operation, &subject, &Value::Null).await {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.is(code::NO_CONSUMER) => Ok(None),
            Err(error) => Err(self.error(&operation, error)),
        }
    }

    /// Creates the consumer, or changes it to this connection's lease. False: somebody else was
    /// quicker.
    async fn set_lease(&self, queue: &QueueName) -> Result<bool, BrokerError> {
        let stream = self.names.jobs_stream();
        let operation = format!("create the consumer {queue} of {stream}");
        // The server holds the filter against this subject: who may make this consumer gets no other runs.
        let filter = self.names.queue(queue);
        let subject = format!("CONSUMER.CREATE.{stream}.{queue}.{filter}");
        let config = json!({ "stream_name": stream, "config": self.consumer_config(queue) });
        match self.api::<Value>(&operation, &subject, &config).await {
            Ok(_) => Ok(true),
            Err(error) if error.is(code::CONSUMER_EXISTS) => Ok(false),
            Err(error) => Err(self.error(&operation, error)),
        }
    }
}
