//! Creates streams and buckets on first use, and again if somebody removed them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tracing::warn;

use super::{
    NatsBroker, PATIENCE,
    api::{CallError, code},
    consumer::KnownLease,
    pace::Batches,
};
use crate::{
    broker::{BrokerError, Bucket, Lifetime},
    clock,
    job::QueueName,
};

/// What was made sure of on this connection.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) replicas: usize,
    batches: Batches,
    missing: Missing,
    present: Mutex<HashSet<String>>,
    /// Those of which one message can be read by its subject: the subject is then part of what is permitted.
    direct: Mutex<HashSet<String>>,
    leases: Mutex<HashMap<QueueName, KnownLease>>,
    /// Held by the one that looks at streams, and by the one that makes a queue known: a burst of a thousand asks once.
    pub(super) looking: tokio::sync::Mutex<()>,
    queueing: tokio::sync::Mutex<()>,
}

/// What a question does about a stream that is missing. Whatever writes makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missing {
    /// It makes it: a service stays, and waits for what will be in it.
    #[default]
    Make,
    /// There is nothing in it, and it stays missing: whoever only asks must not choose how many copies there are.
    LeaveOut,
}

/// A stream of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Jobs,
    Logs,
    Dead,
    Values(Bucket),
}

impl Setup {
    pub(super) fn new(replicas: usize, batches: Batches, missing: Missing) -> Self {
        Self {
            replicas,
            batches,
            missing,
            present: Mutex::default(),
            direct: Mutex::default(),
            leases: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            queueing: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn knows(&self, name: &str) -> bool {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.contains(name)
    }

    pub(super) fn note(&self, name: String) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.insert(name);
    }

    /// Nobody listens for a stream: it was removed, or has no leader for now. It is made sure of again, and
    /// what belongs to it only if it turns out to be another one: a server that has just lost its
    /// neighbour answers such questions late.
    pub(super) fn doubt(&self, name: &str) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.remove(name);
    }

    /// Waits until nobody else makes a queue known.
    pub(super) async fn queue_turn(&self) -> Option<Turn<'_>> {
        turn(&self.queueing).await
    }

    /// Somebody removed something: everything is made sure of again.
    pub(super) fn forget(&self) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.clear();
        self.lock_direct().clear();
        self.leases().clear();
    }

    pub(super) fn is_direct(&self, name: &str) -> bool {
        self.lock_direct().contains(name)
    }

    /// One copy answers for all: with several, one that is behind could.
    pub(super) fn note_direct(&self, name: &str, config: &Value) {
        let mut direct = self.lock_direct();
        let is_direct =
            config["allow_direct"] == true && config["num_replicas"].as_u64() <= Some(1);
        match is_direct {
            true => direct.insert(name.to_owned()),
            false => direct.remove(name),
        };
    }

    fn lock_direct(&self) -> MutexGuard<'_, HashSet<String>> {
        self.direct.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leases of queues, as far as this connection knows them.
    pub(super) fn leases(&self) -> MutexGuard<'_, HashMap<QueueName, KnownLease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NatsBroker {
    /// Removes every stream and bucket of the namespace, with all that is in them. Nobody may use it meanwhile.
    pub async fn remove_namespace(&self) -> Result<(), BrokerError> {
        let names = &self.names;
        let streams = [
            names.jobs_stream(),
            names.logs_stream(),
            names.dead_stream(),
        ];
        let all = streams
            .into_iter()
            .chain(buckets().map(|bucket| names.bucket_stream(bucket)));
        for stream in all {
            let operation = format!("remove {stream}");
            let subject = format!("STREAM.DELETE.{stream}");
            match self.api::<Value>(&operation, &subject, &Value::Null).await {
                Ok(_) => {}
                Err(error) if error.is(code::NO_STREAM) => {}
                Err(error) => return Err(self.error(&operation, error)),
            }
        }
        self.setup.forget();
        Ok(())
    }

    /// Fails if the server has no JetStream.
    pub(super) async fn check_jetstream(&self) -> Result<(), BrokerError> {
        const OPERATION: &str = "look for JetStream";
        match self.api::<Value>(OPERATION, "INFO", &Value::Null).await {
            Ok(_) => Ok(()),
            Err(CallError::Nobody(_)) => Err(self.failed(
                OPERATION,
                "JetStream is not enabled; start the server with `nats-server -js`, or give its configuration a `jetstream` block".to_owned(),
            )),
            Err(error) => Err(match self.error(OPERATION, error) {
                BrokerError::Unreachable { reason, .. } if self.is_connected() => self.out_of_reach(
                    OPERATION,
                    format!(
                        "a server is there, but its JetStream does not answer within {PATIENCE:?}: {reason}; a cluster has \
                         no leader while most of its servers are away; a server that hangs is to be started again; \
                         `nats server check jetstream`, and /healthz of its monitoring, say more"
                    ),
                ),
                error => error,
            }),
        }
    }

    pub(super) fn stream_name(&self, stream: Stream) -> String {
        match stream {
            Stream::Jobs => self.names.jobs_stream(),
            Stream::Logs => self.names.logs_stream(),
            Stream::Dead => self.names.dead_stream(),
            Stream::Values(bucket) => self.names.bucket_stream(bucket),
        }
    }

    /// Makes every stream and bucket that is missing, so that users need not be permitted to. A server, or a cluster,
    /// without the room for logs or dead letters carries runs all the same.
    pub(super) async fn make_everything(&self) -> Result<(), BrokerError> {
        self.setup.forget();
        self.ensure(Stream::Jobs).await?;
        for stream in [Stream::Logs, Stream::Dead] {
            match self.ensure(stream).await {
                Err(error @ BrokerError::Full { .. }) => {
                    let help = "give the account, or the server's `max_file_store`, 2 GB more than runs and records need";
                    warn!(target: "orchestrator::broker", %error, help, "nothing can be kept there");
                }
                done => done?,
            }
        }
        for bucket in buckets() {
            self.ensure(Stream::Values(bucket)).await?;
        }
        Ok(())
    }

    /// Makes sure of a stream: it is looked at, and made if it is missing. What exists with other settings is an
    /// operator's choice, which stays.
    pub(super) async fn ensure(&self, stream: Stream) -> Result<(), BrokerError> {
        self.look_for(stream, Missing::Make).await.map(|_| ())
    }

    /// Whether there is a stream to be read. Makes it only if this connection does that for a question.
    pub(super) async fn is_there(&self, stream: Stream) -> Result<bool, BrokerError> {
        self.look_for(stream, self.setup.missing).await
    }

    async fn look_for(&self, stream: Stream, missing: Missing) -> Result<bool, BrokerError> {
        let name = self.stream_name(stream);
        if self.setup.knows(&name) {
            return Ok(true);
        }
        let operation = format!("look at the stream {name}");
        let turn = turn(&self.setup.looking).await;
        if self.setup.knows(&name) {
            return Ok(true);
        }
        let Some(_turn) = turn.filter(Turn::leaves_time) else {
            return Err(self.out_of_reach(&operation, "no answer in time".to_owned()));
        };
        let subject = format!("STREAM.INFO.{name}");
        let mut found = match self.api::<Value>(&operation, &subject, &Value::Null).await {
            Ok(found) => found,
            Err(error) if error.is(code::NO_STREAM) => match missing {
                Missing::Make => self.create(stream, &name).await?,
                Missing::LeaveOut => return Ok(false),
            },
            Err(error) => return Err(self.error(&operation, error)),
        };
        if missing == Missing::Make {
            found = self.give_its_share(stream, &name, found).await?;
        }
        self.setup.note_direct(&name, &found["config"]);
        self.tell_of_copies(&name, &found["config"]);
        if stream == Stream::Jobs {
            let config = &found["config"];
            // A question changes no setting: that is left to the first run that is published.
            if missing == Missing::LeaveOut && self.wants_batches() && !takes_batches(config) {
                return Ok(true);
            }
            let takes_batches = self.let_batches_in(&name, config).await;
            self.burst.allow(takes_batches);
            let made = found["created"].as_str().map(str::to_owned);
            if self.begun.note(made) {
                self.setup.forget();
                self.setup.note_direct(&name, &found["config"]);
            }
        }
        self.setup.note(name);
        Ok(true)
    }

    /// Whoever came first has made it as he was told: perhaps a command that nobody told of the cluster.
    fn tell_of_copies(&self, stream: &str, config: &Value) {
        let wanted = self.setup.replicas;
        let copies = config["num_replicas"].as_u64().unwrap_or_default();
        if copies > 0 && copies < wanted as u64 {
            let help = format!("nats stream edit {stream} --replicas {wanted}");
            warn!(target: "orchestrator::broker", stream, copies, wanted, help,
                "a stream has fewer copies than it should");
        }
    }

    /// A stream that was made by an earlier version, or on an earlier server, gets the setting. Returns whether it
    /// has it now; without, runs are published one by one.
    async fn let_batches_in(&self, stream: &str, config: &Value) -> bool {
        if !self.wants_batches() || !config.is_object() {
            return false;
        }
        if takes_batches(config) {
            return true;
        }
        let operation = format!("let batches into {stream}");
        let change = format!("STREAM.UPDATE.{stream}");
        let mut config = config.clone();
        config["allow_atomic"] = true.into();
        match self.api::<Value>(&operation, &change, &config).await {
            Ok(changed) => takes_batches(&changed["config"]),
            Err(_) => false,
        }
    }

    pub(super) fn wants_batches(&self) -> bool {
        self.setup.batches != Batches::Never && knows_batches(&self.client.server_info().version)
    }
}

/// The turn of one that asks for many.
pub(super) struct Turn<'a> {
    waited: Duration,
    _held: tokio::sync::MutexGuard<'a, ()>,
}

impl Turn<'_> {
    /// Whether it may still ask itself. The one before it had no answer, perhaps, and a call has to end in time.
    pub(super) fn leaves_time(&self) -> bool {
        self.waited < PATIENCE / 2
    }
}

/// Waits for the one that asks the same, as long as for an answer.
pub(super) async fn turn(of: &tokio::sync::Mutex<()>) -> Option<Turn<'_>> {
    let begun = clock::monotonic();
    let held = tokio::time::timeout(PATIENCE, of.lock()).await.ok()?;
    Some(Turn {
        waited: clock::monotonic().saturating_duration_since(begun),
        _held: held,
    })
}

/// Every bucket.
pub(super) fn buckets() -> impl Iterator<Item = Bucket> {
    let buckets = [Bucket::State, Bucket::Runs, Bucket::Locks, Bucket::Workers];
    buckets.into_iter().chain(Lifetime::ALL.map(Bucket::Unique))
}

/// Whether a server of this version has atomic batches.
pub(super) fn knows_batches(version: &str) -> bool {
    series(version) >= (Some(2), Some(12))
}

/// Whether a server of this version says at once that nobody answers a direct question. Earlier ones are silent when the
/// stream is gone.
pub(super) fn answers_direct(version: &str) -> bool {
    series(version) >= (Some(2), Some(10))
}

fn series(version: &str) -> (Option<u32>, Option<u32>) {
    let mut numbers = version
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    (numbers.next(), numbers.next())
}

fn takes_batches(config: &Value) -> bool {
    config["allow_atomic"] == true
}
