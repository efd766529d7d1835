//! Whether the consumers of queues still have the settings that they are made with.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{NatsBroker, api::CallError, settings::nanoseconds},
    rules::{Rule, failed, shown, told, warned},
};
use crate::{
    broker::{Bucket, Remark, RemarkKind, list},
    job::QueueName,
    run::WorkerStatus,
};

/// What must not differ, and what happens if it does. Where delivery begins and how it is acknowledged cannot differ: of a
/// work queue the server takes no other.
const RULES: [Rule; 12] = [
    failed("filter_subject", "its workers get other runs, or none"),
    failed("replay_policy", "runs are held back"),
    failed("deliver_subject", "no worker can ask for runs"),
    failed("priority_groups", "no worker can ask for runs"),
    failed("max_batch", "workers that ask for more are refused"),
    failed("max_expires", "workers that wait for longer are refused"),
    failed("headers_only", "runs come without their content"),
    failed("backoff", "leases are not those of the workers"),
    failed(
        "max_deliver",
        "a run that was given out so often never comes again",
    ),
    warned(
        "max_ack_pending",
        "no more runs than that are executed or wait for their next attempt",
    ),
    warned(
        "inactive_threshold",
        "the queue is forgotten while no worker serves it",
    ),
    warned(
        "mem_storage",
        "a restart of the server forgets who executes what",
    ),
];

/// The leases that a worker may be told.
const LEASES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    total: usize,
    consumers: Option<Vec<Consumer>>,
}

#[derive(Deserialize)]
struct Consumer {
    name: String,
    config: Value,
    /// Servers from 2.11 on can be told to hold everything back.
    #[serde(default)]
    paused: bool,
}

/// What is wrong with them.
pub(super) async fn remarks(broker: &NatsBroker) -> Result<Vec<Remark>, CallError> {
    let stream = broker.names.jobs_stream();
    let operation = format!("look at the consumers of {stream}");
    let subject = format!("CONSUMER.LIST.{stream}");
    let leases = leases(broker).await;
    let (mut seen, mut remarks) = (0, Vec::new());
    loop {
        let page = broker
            .api::<Page>(&operation, &subject, &json!({ "offset": seen }))
            .await?;
        let consumers = page.consumers.unwrap_or_default();
        let is_last = consumers.is_empty();
        seen += consumers.len();
        for consumer in &consumers {
            // Those that only list what waits have no durable name.
            if consumer.config["durable_name"].is_string()
                && let Ok(queue) = consumer.name.parse::<QueueName>()
            {
                let wanted = broker.consumer_config(&queue);
                let asked = leases.get(&queue).map_or(&[][..], Vec::as_slice);
                remarks.extend(about(&stream, &wanted, consumer));
                remarks.extend(lease(&stream, &queue, asked, &consumer.config));
            }
        }
        if is_last || seen >= page.total {
            return Ok(remarks);
        }
    }
}

/// The leases that the workers of each queue ask for. None if they cannot be asked: others tell of that.
async fn leases(broker: &NatsBroker) -> BTreeMap<QueueName, Vec<Duration>> {
    let mut leases = BTreeMap::<_, Vec<_>>::new();
    for entry in list(broker, Bucket::Workers, "").await.unwrap_or_default() {
        let Ok(status) = serde_json::from_slice::<WorkerStatus>(&entry.value) else {
            continue;
        };
        for (queue, lease) in status.served().zip(std::iter::repeat(status.lease)) {
            leases
                .entry(queue)
                .or_default()
                .extend(lease.map(|lease| lease.get()));
        }
    }
    leases
}

/// What is wrong with one, but for its lease. Pure.
fn about(stream: &str, wanted: &Value, consumer: &Consumer) -> Vec<Remark> {
    let (name, found) = (&consumer.name, &consumer.config);
    let edit = format!(
        "`nats consumer edit {stream} {name}`; if that cannot be, remove the consumer while no worker serves the \
         queue: it is made again, and no run is lost"
    );
    let broken = RULES.iter().filter(|rule| rule.is_broken(wanted, found));
    let mut remarks: Vec<_> = broken
        .map(|rule| {
            let key = rule.key;
            let message = format!(
                "the consumer {name} of {stream} was changed: {key} is {}, and {}",
                shown(key, &found[key]),
                rule.consequence
            );
            let help = format!("{} with {edit}", rule.mend(wanted, found));
            told(rule.kind, message, help)
        })
        .collect();
    let waiting = |config: &Value| config["max_waiting"].as_u64().unwrap_or_default();
    if waiting(found) < waiting(wanted) {
        let message = format!(
            "the consumer {name} of {stream} was changed: max_waiting is {}, and no more workers than that can wait",
            waiting(found)
        );
        let help = format!("set it to {} with {edit}", waiting(wanted));
        remarks.push(told(RemarkKind::Warning, message, help));
    }
    if consumer.paused {
        let until = shown("pause_until", &found["pause_until"]);
        let message =
            format!("the consumer {name} of {stream} is paused until {until}: no run is given out");
        let help = format!(
            "`nats consumer resume {stream} {name}`; to hold a queue back, use `orchestrator pause --queue {name}`"
        );
        remarks.push(told(RemarkKind::Failed, message, help));
    }
    remarks
}

/// What there is to say of its lease: the first worker that comes to a queue sets the one that it is told. Pure.
fn lease(stream: &str, queue: &QueueName, asked: &[Duration], found: &Value) -> Option<Remark> {
    let has = found["ack_wait"].as_u64().unwrap_or_default();
    let is_sound = match asked {
        [] => (nanoseconds(LEASES.0)..=nanoseconds(LEASES.1)).contains(&has),
        asked => asked.iter().all(|lease| nanoseconds(*lease) == has),
    };
    if is_sound {
        return None;
    }
    let wants = match asked.iter().find(|lease| nanoseconds(**lease) != has) {
        Some(other) => format!(
            "a worker of it was told {}",
            humantime::format_duration(*other)
        ),
        None => "no worker sets that".to_owned(),
    };
    let message = format!(
        "the lease of the queue {queue} is {}, the ack_wait of its consumer in {stream}, and {wants}: after so long a \
         worker that is silent loses its runs",
        shown("ack_wait", &found["ack_wait"])
    );
    let help = format!(
        "give all workers of {queue} the same --lease, stop them all for a moment, and start them again: the first one \
         sets it"
    );
    Some(told(RemarkKind::Warning, message, help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_that_of_the_workers() {
        let seconds = Duration::from_secs;
        let queue = "q".parse().unwrap();
        let says = |asked: &[Duration], has: Duration| {
            let found = json!({ "ack_wait": nanoseconds(has) });
            lease("S", &queue, asked, &found).map(|remark| remark.message)
        };
        assert_eq!(says(&[], seconds(15)), None);
        assert_eq!(says(&[], seconds(3)), None, "somebody's choice");
        assert_eq!(says(&[seconds(3), seconds(3)], seconds(3)), None);
        let told = says(&[seconds(3), seconds(15)], seconds(3)).unwrap();
        assert!(told.contains("is 3s"), "{told}");
        assert!(told.contains("was told 15s"), "{told}");
        for odd in [Duration::from_millis(10), seconds(86_400)] {
            assert!(says(&[], odd).unwrap().contains("no worker"), "{odd:?}");
        }
    }
}
