//! The broker's own tasks: one that ends leases and delays, one that clears away what is old.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{kv::Values, logs::Logs, runs::Runs};
use crate::{
    broker::{Bucket, Lifetime},
    store::StoreError,
};

/// How often what is short-lived is cleared away.
const OFTEN: Duration = Duration::from_secs(10);

/// Every how many times what is long-lived is, too.
const SELDOM: u32 = 30;

/// The running tasks. They are cancelled when this is dropped, and joined by [`Tasks::stop`].
#[derive(Debug)]
pub(super) struct Tasks {
    cancel: DropGuard,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Tasks {
    pub(super) fn start(runs: &Arc<Runs>, values: &Arc<Values>, logs: &Arc<Logs>) -> Self {
        let cancel = CancellationToken::new();
        let due = {
            let (cancel, runs) = (cancel.clone(), Arc::clone(runs));
            async move {
                cancel.run_until_cancelled(runs.watch_due()).await;
            }
        };
        let sweep = {
            let (cancel, runs) = (cancel.clone(), Arc::clone(runs));
            let (values, logs) = (Arc::clone(values), Arc::clone(logs));
            async move {
                let sweeping = sweep_for_ever(&runs, &values, &logs);
                cancel.run_until_cancelled(sweeping).await;
            }
        };
        Self {
            handles: Mutex::new(vec![tokio::spawn(due), tokio::spawn(sweep)]),
            cancel: cancel.drop_guard(),
        }
    }

    pub(super) async fn stop(&self) {
        self.cancel.token().cancel();
        let handles = {
            let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *handles)
        };
        for handle in handles {
            if let Err(error) = handle.await {
                tracing::error!(%error, "a task of the embedded broker failed");
            }
        }
    }
}

async fn sweep_for_ever(runs: &Runs, values: &Values, logs: &Logs) {
    let mut interval = tokio::time::interval(OFTEN);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 0_u32.. {
        interval.tick().await;
        let is_thorough = round % SELDOM == 0;
        if let Err(error) = sweep(runs, values, logs, is_thorough).await {
            // Store errors are final: every other operation says the same from now on.
            tracing::error!(%error, "the embedded broker cannot clear away what is old");
            return;
        }
    }
}

async fn sweep(
    runs: &Runs,
    values: &Values,
    logs: &Logs,
    is_thorough: bool,
) -> Result<(), StoreError> {
    runs.forget_ids().await?;
    values.expire(Bucket::Workers).await?;
    if is_thorough {
        values.expire(Bucket::Runs).await?;
        values.expire(Bucket::Locks).await?;
        for lifetime in Lifetime::ALL {
            values.expire(Bucket::Unique(lifetime)).await?;
        }
        logs.evict().await?;
    }
    Ok(())
}
