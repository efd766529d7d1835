//! The settings that streams, buckets and the consumers of queues are made with.

use std::time::Duration;

use serde_json::{Value, json};

use super::{NatsBroker, room::WANTED, setup::Stream};
use crate::job::QueueName;

/// How long a message id is remembered.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// How long logs are kept.
const LOGS_MAX_AGE: Duration = Duration::from_secs(7 * 86_400);
/// What is kept of the dead letters.
const DEAD_MAX_MESSAGES: i64 = 10_000;
/// How many pulls may wait on one queue.
const MAX_WAITING: u64 = 4096;

impl NatsBroker {
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
                "allow_direct": true,
            }),
            Stream::Logs => json!({
                "subjects": [self.names.all_logs()],
                "discard": "old",
                "max_age": nanoseconds(LOGS_MAX_AGE),
                "max_bytes": WANTED,
            }),
            Stream::Dead => json!({
                "subjects": [self.names.all_dead()],
                "discard": "old",
                "max_msgs": DEAD_MAX_MESSAGES,
                "max_bytes": WANTED,
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
                    "allow_rollup_hdrs": false,
                    "deny_delete": true,
                    "allow_direct": true,
                })
            }
        };
        if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
            config.extend(more);
        }
        if stream == Stream::Jobs && self.wants_batches() {
            config["allow_atomic"] = true.into();
        }
        config
    }

    /// What the consumer of a queue is made with.
    pub(super) fn consumer_config(&self, queue: &QueueName) -> Value {
        json!({
            "name": queue,
            "durable_name": queue,
            "filter_subject": self.names.queue(queue),
            "deliver_policy": "all",
            "replay_policy": "instant",
            "ack_policy": "explicit",
            "ack_wait": nanoseconds(self.lease),
            "max_deliver": -1,
            "max_ack_pending": -1,
            "max_waiting": MAX_WAITING,
        })
    }
}

/// As the API has durations.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
