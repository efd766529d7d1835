//! Removes stored runs whose record says that they have ended. Some servers forget acknowledgements
//! in a crash; such a run would hold its slot for ever, delivered to nobody.

use std::time::Duration;

use tracing::info;

use super::{Beat, BeatError, SWEEP_EVERY};
use crate::{broker, clock};

/// How many stored runs are looked at in one go.
const BATCH: usize = 200;
/// How many are looked at in one sweep; the next one goes on there.
const AT_MOST: usize = 2_000;

impl Beat {
    pub(super) async fn sweep_now_and_then(&mut self) -> Result<(), BeatError> {
        let now = clock::monotonic();
        let rested = self.swept_at.map_or(Duration::MAX, |at| now - at);
        if rested < SWEEP_EVERY {
            return Ok(());
        }
        self.swept_at = Some(now);
        self.forget_who_is_gone_for_good().await?;
        let (mut from, mut seen, mut removed) = (self.sweep_from, 0, 0);
        while seen < AT_MOST {
            let stored = self.broker.pending(from, BATCH).await?;
            let Some(last) = stored.last() else {
                from = 0;
                break;
            };
            from = last.sequence + 1;
            seen += stored.len();
            for pending in &stored {
                removed += u64::from(broker::remove_if_ended(self.broker.as_ref(), pending).await?);
            }
        }
        self.sweep_from = from;
        if removed > 0 {
            info!(target: "orchestrator::beat", removed, "removed stored runs that had ended");
        }
        Ok(())
    }
}
