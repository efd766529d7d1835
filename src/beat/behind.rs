//! A clock that shows less than the watermark, or than what is remembered of jobs. Back by a little: nothing may be
//! fired until it has caught up, and this is told. Back by hours: the schedule goes on from now.

use chrono::{DateTime, Utc};
use tracing::warn;

use super::{Beat, BeatError};
use crate::{
    clock,
    job::JobName,
    plan::{CLOCK_SLACK, JobState, Move, next_move},
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

    /// Sets the watermark back to `now`, and with it what is remembered of jobs.
    ///
    /// That first: killed in between, the next beat does the same again.
    pub(super) async fn set_back(&mut self, now: DateTime<Utc>) -> Result<(), BeatError> {
        let decided = self.memory.watermark().at;
        let changed = self.brought_back(now, now, decided);
        warn!(target: "orchestrator::beat", watermark = %decided, %now, jobs = changed.len(),
            "the clock stepped back by hours: the schedule goes on from now, and ticks that were decided on for a time \
             to come are decided on anew; what has run stays so");
        self.still_counts().await?;
        self.memory.write_states(&self.broker, changed).await?;
        point!("beat-states-set-back");
        self.commit(now).await?;
        self.memory.hear_anew(now);
        self.line_up();
        Ok(())
    }

    /// Notices that the clock was set back since the last look.
    pub(super) async fn look_at_clock(&mut self) -> Result<(), BeatError> {
        let now = clock::now();
        let before = self.looked_at.replace(now);
        match before.is_some_and(|before| now + CLOCK_SLACK < before) {
            true => self.bring_back(now).await,
            false => Ok(()),
        }
    }

    /// Brings back what is remembered of jobs and lies later than both the clock and the watermark: they would be silent
    /// until then, and none of it was decided on.
    pub(super) async fn bring_back(&mut self, now: DateTime<Utc>) -> Result<(), BeatError> {
        let watermark = self.memory.watermark();
        let decided = watermark.at.max(watermark.next.unwrap_or(watermark.at));
        let to = now.max(decided);
        let changed = self.brought_back(to, to + CLOCK_SLACK, decided);
        if changed.is_empty() {
            return Ok(());
        }
        let jobs: Vec<_> = changed.iter().map(|(name, _)| name.to_string()).collect();
        warn!(target: "orchestrator::beat", jobs = jobs.join(" "), %to,
            "these jobs were seen or edited by a clock that was ahead: they count from now");
        self.still_counts().await?;
        self.change(changed).await?;
        self.memory.hear_anew(to);
        Ok(())
    }

    /// Makes sure that nobody has moved the watermark, and will: else a tick that another beat passed over would count.
    async fn still_counts(&mut self) -> Result<(), BeatError> {
        let same = self.memory.watermark().clone();
        self.memory.move_watermark(&self.broker, same).await
    }

    /// What lies later than `limit` is of the moment `to`.
    fn brought_back(
        &self,
        to: DateTime<Utc>,
        limit: DateTime<Utc>,
        decided: DateTime<Utc>,
    ) -> Vec<(JobName, JobState)> {
        let back = self.memory.states().filter_map(|(name, state)| {
            let scheduled = self.memory.scheduled(&self.jobs, name);
            let is_ahead = state.is_ahead_of(limit);
            is_ahead.then(|| {
                (
                    name.clone(),
                    state.brought_back(scheduled.as_ref(), to, decided),
                )
            })
        });
        back.collect()
    }
}
