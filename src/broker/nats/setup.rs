//! Creates streams and buckets on first use, and again if somebody removed them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    NatsBroker,
    api::{CallError, code},
    consumer::KnownLease,
};
use crate::{
    broker::{BrokerError, Bucket, Lifetime},
    job::QueueName,
};

/// How long a message id is remembered.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// What is kept of the logs.
const LOGS_MAX_BYTES: i64 = 1 << 30;
/// How long logs are kept.
const LOGS_MAX_AGE: Duration = Duration::from_secs(7 * 86_400);
/// What is kept of the dead letters.
const DEAD_MAX_MESSAGES: i64 = 10_000;
const DEAD_MAX_BYTES: i64 = 1 << 30;

/// What was made sure of on this connection.
#[derive(Debug)]
pub(super) struct Setup {
    replicas: usize,
    present: Mutex<HashSet<String>>,
    leases: Mutex<HashMap<QueueName, KnownLease>>,
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
    pub(super) fn new(replicas: usize) -> Self {
        Self {
            replicas,
            present: Mutex::default(),
            leases: Mutex::default(),
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

    /// Somebody removed something: everything is made sure of again.
    pub(super) fn forget(&self) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.clear();
        self.leases().clear();
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
        let buckets = [Bucket::State, Bucket::Runs, Bucket::Locks, Bucket::Workers];
        let unique = Lifetime::ALL.map(Bucket::Unique);
        let values = buckets.into_iter().chain(unique);
        let streams = [
            names.jobs_stream(),
            names.logs_stream(),
            names.dead_stream(),
        ];
        let all = streams
            .into_iter()
            .chain(values.map(|bucket| names.bucket_stream(bucket)));
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
            Err(error) => Err(self.error(OPERATION, error)),
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

    /// Makes sure of a stream.
    pub(super) async fn ensure(&self, stream: Stream) -> Result<(), BrokerError> {
        let name = self.stream_name(stream);
        if self.setup.knows(&name) {
            return Ok(());
        }
        let operation = format!("create the stream {name}");
        let subject = format!("STREAM.CREATE.{name}");
        let config = self.stream_config(stream, &name);
        match self.api::<Value>(&operation, &subject, &config).await {
            Ok(_) => {}
            // It exists with other settings: an operator's choice, which stays.
            Err(error) if error.is(code::STREAM_EXISTS) => {}
            Err(error) => return Err(self.error(&operation, error)),
        }
        self.setup.note(name);
        Ok(())
    }

    /// What a stream is made with.
    pub(super) fn stream_config(&self, stream: Stream, name: &str) -> Value {
        let mut config = json!({
            "name": name,
            "storage": "file",
            "retention": "limits",
            "num_replicas": self.setup.replicas,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "duplicate_window": nanoseconds(DUPLICATE_WINDOW),
        });
        let more = match stream {
            Stream::Jobs => json!({
                "subjects": [self.names.all_jobs()],
                "retention": "workqueue",
                "discard": "new",
                "discard_new_per_subject": true,
                "max_msgs_per_subject": 1,
            }),
            Stream::Logs => json!({
                "subjects": [self.names.all_logs()],
                "discard": "old",
                "max_age": nanoseconds(LOGS_MAX_AGE),
                "max_bytes": LOGS_MAX_BYTES,
            }),
            Stream::Dead => json!({
                "subjects": [self.names.all_dead()],
                "discard": "old",
                "max_msgs": DEAD_MAX_MESSAGES,
                "max_bytes": DEAD_MAX_BYTES,
            }),
            Stream::Values(bucket) => {
                let age = bucket.max_age().unwrap_or_default();
                let window = match age.is_zero() {
                    true => DUPLICATE_WINDOW,
                    false => DUPLICATE_WINDOW.min(age),
                };
                json!({
                    "subjects": [self.names.key(bucket, ">")],
                    "discard": "new",
                    "max_msgs_per_subject": 1,
                    "max_age": nanoseconds(age),
                    "duplicate_window": nanoseconds(window),
                    "allow_rollup_hdrs": true,
                    "deny_delete": true,
                    "allow_direct": true,
                })
            }
        };
        if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
            config.extend(more);
        }
        config
    }
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
