//! A beat that has no copy of its own, on a broker that is empty: either both are new, or the broker lost its data. Then
//! one that stands by and has a copy is to lead first, and says so under a key of its own.

use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::{
    BeatError, OwnState,
    shared::{encode, read, read_watermark},
};
use crate::{
    broker::{Bucket, SharedBroker},
    clock,
    plan::{COPY_KEY, KeptCopy, Watermark},
};

/// Leases for which a beat that knows nothing waits for one that knows more: that one gives the leader a lease itself.
const LEASES: u32 = 2;

/// What this beat knows before it leads for the first time.
#[derive(Debug)]
pub(super) struct Newcomer {
    knows_nothing: bool,
    waits_since: Option<Instant>,
}

impl Newcomer {
    pub(super) fn with(own: Option<&OwnState>) -> Result<Self, BeatError> {
        let head = own.map(OwnState::head).transpose()?;
        Ok(Self {
            knows_nothing: head.is_some_and(|head| head.watermark.is_none()),
            waits_since: None,
        })
    }

    /// It has led, and has a copy of its own.
    pub(super) fn knows(&mut self) {
        self.knows_nothing = false;
    }

    /// Whether somebody who knows more is to lead first.
    pub(super) async fn waits(
        &mut self,
        broker: &SharedBroker,
        lease: Duration,
    ) -> Result<bool, BeatError> {
        if !self.knows_nothing {
            return Ok(false);
        }
        let (shared, _) = read_watermark(broker.as_ref()).await?;
        let kept = match shared {
            Some(_) => None,
            None => broker.get(Bucket::State, COPY_KEY).await?,
        };
        let Some(kept) = kept.as_ref().and_then(read::<KeptCopy>) else {
            self.knows_nothing = shared.is_none();
            return Ok(false);
        };
        let now = clock::monotonic();
        let since = *self.waits_since.get_or_insert_with(|| {
            info!(target: "orchestrator::beat", other = kept.beat, kept = %kept.watermark,
                "the broker is empty, and another beat has a copy of what it lost: that one is to lead first");
            now
        });
        self.knows_nothing = now - since < lease * LEASES;
        Ok(self.knows_nothing)
    }
}

/// Says on an empty broker that this beat has a copy of what was lost.
pub(super) async fn announce(
    broker: &SharedBroker,
    beat: &str,
    kept: &Watermark,
) -> Result<(), BeatError> {
    let copy = KeptCopy {
        beat: beat.to_owned(),
        watermark: kept.at,
        said_at: clock::now(),
    };
    debug!(target: "orchestrator::beat", kept = %kept.at, "the broker is empty: telling that this beat has a copy");
    let value = encode(COPY_KEY, &copy)?;
    broker.put(Bucket::State, COPY_KEY, value).await?;
    Ok(())
}
