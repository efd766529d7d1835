//! A clock that shows less than the watermark: nothing may be fired until it has caught up, and this
//! is told.

use super::{Beat, BeatError};
use crate::{
    clock,
    plan::{Move, next_move},
};

impl Beat {
    /// An error as long as this machine's clock is behind the watermark by more than a little.
    pub(super) fn clock_is_not_behind(&self) -> Result<(), BeatError> {
        let until = self.memory.watermark().at;
        match next_move(until, clock::now()) {
            Move::Behind(by) => Err(BeatError::ClockBehind { until, by }),
            Move::Wait | Move::Reset | Move::Plan => Ok(()),
        }
    }
}
