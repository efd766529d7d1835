//! Hears of queues that are paused: nothing is taken from them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

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
    let (mut known, mut is_current) = (BTreeMap::new(), false);
    while let Some(change) = changes.next().await {
        match change? {
            Change::Put(entry) => {
                let queue = entry.key.strip_prefix(QUEUE_PAUSE_PREFIX);
                let queue = queue.and_then(|queue| queue.parse::<QueueName>().ok());
                let pause = serde_json::from_slice::<Pause>(&entry.value).ok();
                if let (Some(queue), Some(pause)) = (queue, pause) {
                    known.insert(queue, pause);
                }
            }
            Change::Deleted { key } => {
                known.retain(|queue, _| {
                    key.strip_prefix(QUEUE_PAUSE_PREFIX) != Some(queue.as_str())
                });
            }
            Change::Current => is_current = true,
        }
        if is_current {
            let changed = pauses.send_if_modified(|before| {
                let is_news = before.as_ref() != Some(&known);
                *before = Some(known.clone());
                is_news
            });
            if changed {
                info!(target: "orchestrator::worker", paused = ?known.keys().collect::<Vec<_>>(),
                    "paused queues");
            }
        }
    }
    Ok(())
}
