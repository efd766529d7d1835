//! Hears of queues that are paused: nothing is taken from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{QueueShare, Shared};
use crate::{
    broker::{BrokerError, Bucket, Change},
    clock,
    job::QueueName,
    plan::{Pause, QUEUE_PAUSE_PREFIX},
};

/// How long to wait before listening again after it broke off.
const AGAIN: Duration = Duration::from_secs(1);

/// The pauses of queues; `None` until they are known.
pub(super) type Pauses = Option<BTreeMap<QueueName, Pause>>;

/// The queues from which may be taken now.
pub(super) fn open(queues: &[QueueShare], pauses: &BTreeMap<QueueName, Pause>) -> Vec<QueueShare> {
    let now = clock::now();
    let is_open = |share: &&QueueShare| {
        let pause = pauses.get(&share.queue);
        !pause.is_some_and(|pause| pause.covers(now))
    };
    queues.iter().filter(is_open).cloned().collect()
}

/// Listens until `stop`.
pub(super) async fn follow(shared: Arc<Shared>, stop: CancellationToken) {
    let mut told = false;
    loop {
        let listened = tokio::select! {
            biased;
            listened = listen(&shared, &shared.pauses) => listened,
            () = stop.cancelled() => return,
        };
        if let Err(error) = listened
            && !std::mem::replace(&mut told, true)
        {
            warn!(target: "orchestrator::worker", %error,
                "not told which queues are paused; trying again");
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(AGAIN) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn listen(shared: &Shared, pauses: &watch::Sender<Pauses>) -> Result<(), BrokerError> {
    let mut changes = shared
        .broker
        .watch(Bucket::State, QUEUE_PAUSE_PREFIX)
        .await?;
    let (mut known, mut is_current) = (Known::default(), false);
    while let Some(change) = changes.next().await {
        match change? {
            Change::Current => is_current = true,
            change => known.note(change),
        }
        if is_current {
            let changed = pauses.send_if_modified(|before| {
                let is_news = before.as_ref() != Some(&known.pauses);
                *before = Some(known.pauses.clone());
                is_news
            });
            if changed {
                info!(target: "orchestrator::worker", paused = ?known.pauses.keys().collect::<Vec<_>>(),
                    "paused queues");
            }
        }
    }
    Ok(())
}

/// What was heard since it is listened.
#[derive(Debug, Default)]
struct Known {
    pauses: BTreeMap<QueueName, Pause>,
    /// Of which it was told that their pause is not understood.
    told: BTreeSet<QueueName>,
}

impl Known {
    /// What is not understood pauses its queue, unless a pause was known before, which goes on: who pauses or resumes
    /// writes no such thing.
    fn note(&mut self, change: Change) {
        let (key, value) = match change {
            Change::Put(entry) => (entry.key, Some(entry.value)),
            Change::Deleted { key } => (key, None),
            Change::Current => return,
        };
        let queue = key.strip_prefix(QUEUE_PAUSE_PREFIX);
        let Some(Ok(queue)) = queue.map(str::parse::<QueueName>) else {
            return;
        };
        match value.map(|value| serde_json::from_slice::<Pause>(&value)) {
            None => {
                self.told.remove(&queue);
                self.pauses.remove(&queue);
            }
            Some(Ok(pause)) => {
                self.told.remove(&queue);
                self.pauses.insert(queue, pause);
            }
            Some(Err(error)) => {
                if self.told.insert(queue.clone()) {
                    warn!(target: "orchestrator::worker", %queue, key, %error,
                        "a pause is not understood: nothing is taken from its queue; beat writes it anew if it knows it, \
                         else do so with `orchestrator pause --queue {queue}`, or end it with \
                         `orchestrator resume --queue {queue}`");
                }
                let known = self.pauses.entry(queue);
                known.or_insert_with(Pause::not_understood);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Entry;

    fn put(queue: &str, value: &[u8]) -> Change {
        Change::Put(Entry {
            key: format!("{QUEUE_PAUSE_PREFIX}{queue}"),
            value: value.to_vec(),
            revision: serde_json::from_str("1").unwrap(),
        })
    }

    fn paused(known: &Known) -> Vec<&str> {
        known.pauses.keys().map(QueueName::as_str).collect()
    }

    #[test]
    fn what_is_not_understood_pauses_its_queue() {
        let mut known = Known::default();
        known.note(put("high", b""));
        known.note(put("low", b"{\"error\":{\"code\":404}}"));
        assert_eq!(paused(&known), ["high", "low"]);
        assert!(
            known
                .pauses
                .values()
                .all(|pause| pause.covers(clock::now()))
        );
        for queue in ["high", "low"] {
            let key = format!("{QUEUE_PAUSE_PREFIX}{queue}");
            known.note(Change::Deleted { key });
        }
        assert_eq!(paused(&known), Vec::<&str>::new());
    }

    #[test]
    fn a_pause_that_is_known_goes_on() {
        let mut known = Known::default();
        let pause = br#"{"since":"2026-11-23T10:00:00Z","until":"2100-11-23T10:00:00Z"}"#;
        known.note(put("high", pause));
        let before = known.pauses.clone();
        known.note(put("high", b""));
        assert_eq!(known.pauses, before);
    }
}
