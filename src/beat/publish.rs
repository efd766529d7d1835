//! Publishes the run of a tick, unless it has become one before, and sees to it that all who try agree on what became
//! of it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tracing::warn;

use super::{BeatError, shared::encode, telling::Told};
use crate::{
    broker::{self, Broker, BrokerError, Bucket, Candidate, Cas, Durability, Published},
    clock,
    job::{Job, QueueName},
    plan::{SkipReason, Verdict, VerdictNote, is_too_late},
    run::{RunId, RunMessage, RunRecord},
};

/// What became of a tick that was to be run.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Became {
    /// Its run is published.
    Run,
    /// Its run was published long ago, by a clock that was ahead.
    EarlyRun,
    /// None, as the note says.
    NoRun(VerdictNote),
}

/// Whether an announced step may have been begun before, by whomever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tried {
    Never,
    /// By a clock that was ahead, until the watermark was set back: nothing of that is on its way any more.
    Early,
    /// What was asked for then may still be on its way to the broker.
    Before,
}

/// Ticks of a job that are to become runs, one after the other.
pub(super) struct Due {
    pub(super) job: Arc<Job>,
    /// Each with the start of its run.
    pub(super) ticks: Vec<(DateTime<Utc>, DateTime<Utc>)>,
    pub(super) last_success: Option<DateTime<Utc>>,
    pub(super) left_queues: Vec<QueueName>,
    /// Of the whole step.
    pub(super) tried: Tried,
    /// Where the watermark was set back from: up to here ticks may have runs.
    pub(super) set_back_from: Option<DateTime<Utc>>,
    pub(super) told: Arc<Told>,
}

impl Due {
    /// Where its runs may be stored.
    fn queues(&self) -> impl Iterator<Item = &QueueName> {
        std::iter::once(&self.job.queue).chain(&self.left_queues)
    }

    fn tried(&self, tick: DateTime<Utc>) -> Tried {
        match self.tried {
            Tried::Never if self.set_back_from >= Some(tick) => Tried::Early,
            tried => tried,
        }
    }

    /// Why a tick that was to be run when the step was announced is not to be run `now`.
    pub(super) fn is_over(
        &self,
        tick: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Option<(VerdictNote, &'static str)> {
        let policy = &self.job.policy;
        if is_too_late(policy, tick, now) {
            return Some((note(Verdict::Missed, tick, None), "too late"));
        }
        // What is carried out at once was looked at just now.
        let is_closed = policy.blackouts.iter().any(|one| one.covers(now));
        let closed = VerdictNote::on(Verdict::Skipped, Some(SkipReason::Blackout), tick);
        (self.tried == Tried::Before && is_closed).then_some((closed, "a blackout was in force"))
    }
}

/// Publishes the run of a tick. Only of what may have been tried before it asks whether it is there.
pub(super) async fn publish(
    broker: &dyn Broker,
    due: &Due,
    message: &RunMessage,
    now: DateTime<Utc>,
) -> Result<Became, BeatError> {
    let (run_id, tick) = (&message.run_id, message.scheduled_for);
    let tried = due.tried(tick);
    if tried != Tried::Never {
        // What was in its way may be gone by now.
        let known = known(broker, run_id).await?;
        point!("beat-asked");
        match (known, tried) {
            // What its job was when it was published may have been edited since.
            (Known::Nothing, _) if broker::is_stored_in(broker, run_id, due.queues()).await? => {
                return match tried {
                    Tried::Early => Ok(Became::EarlyRun),
                    Tried::Never | Tried::Before => stored(broker, message).await,
                };
            }
            (Known::Nothing, _) => {}
            (Known::Begun, Tried::Early) => return Ok(Became::EarlyRun),
            (Known::Begun, Tried::Never | Tried::Before) => return Ok(Became::Run),
            (Known::CalledOff, _) => {
                return Ok(Became::NoRun(note(Verdict::Skipped, tick, None)));
            }
        }
    }
    let payload = match message.encode() {
        Ok(payload) => payload,
        Err(error) => {
            warn!(target: "orchestrator::beat", %run_id, %error, "the run cannot be published");
            return Ok(Became::NoRun(note(Verdict::Missed, tick, None)));
        }
    };
    let candidate = Candidate {
        run_id: run_id.clone(),
        queue: due.job.queue.clone(),
        overlap: due.job.policy.overlap,
        payload,
    };
    match broker::publish(broker, &candidate, &due.left_queues, now).await {
        Ok(Published::Stored | Published::Duplicate) if tried != Tried::Before => Ok(Became::Run),
        Ok(Published::Stored | Published::Duplicate) => stored(broker, message).await,
        // A step that is repeated late may find its own run gone, and the next one in its place.
        Ok(Published::Occupied(live)) => {
            point!("beat-occupied");
            let why = format!("{live} was live");
            let was_published = was_published(broker, due, message, &why).await?;
            point!("beat-looked-up");
            Ok(match was_published {
                true => Became::Run,
                false => Became::NoRun(note(Verdict::Skipped, tick, Some(live))),
            })
        }
        Err(error @ BrokerError::Failed { .. }) => {
            warn!(target: "orchestrator::beat", %run_id, %error, "the run cannot be published");
            Ok(Became::NoRun(note(Verdict::Missed, tick, None)))
        }
        Err(error) => Err(error.into()),
    }
}

/// A run is stored whose step was tried before: all who try it are to say the same of it.
async fn stored(broker: &dyn Broker, message: &RunMessage) -> Result<Became, BeatError> {
    point!("beat-before-agreement");
    let called_off = agree(broker, RunRecord::queued(message)).await? == Known::CalledOff;
    point!("beat-agreed");
    Ok(match called_off {
        true => Became::NoRun(note(Verdict::Skipped, message.scheduled_for, None)),
        false => Became::Run,
    })
}

/// What the record of a run tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// There is none.
    Nothing,
    /// The run was published.
    Begun,
    /// Its tick was decided on otherwise.
    CalledOff,
}

async fn known(broker: &dyn Broker, run_id: &RunId) -> Result<Known, BeatError> {
    let Some(entry) = broker.get(Bucket::Runs, &run_id.key()).await? else {
        return Ok(Known::Nothing);
    };
    let record = serde_json::from_slice::<RunRecord>(&entry.value);
    // One that is not understood is one all the same.
    Ok(match record.is_ok_and(|record| record.is_called_off()) {
        true => Known::CalledOff,
        false => Known::Begun,
    })
}

/// Whether the broker holds the run, or held it: then it has a record. If not, and somebody may have asked for it
/// before, it is called off: that call may arrive yet, and whoever is given the run then drops it.
pub(super) async fn was_published(
    broker: &dyn Broker,
    due: &Due,
    message: &RunMessage,
    why: &str,
) -> Result<bool, BeatError> {
    let run_id = &message.run_id;
    let known = known(broker, run_id).await?;
    point!("beat-sought-record");
    match known {
        Known::Nothing => {}
        Known::Begun => return Ok(true),
        Known::CalledOff => return Ok(false),
    }
    if broker::is_stored_in(broker, run_id, due.queues()).await? {
        return Ok(true);
    }
    if due.tried(message.scheduled_for) != Tried::Before {
        return Ok(false);
    }
    let why = format!("its tick was not run: {why}");
    let record = RunRecord::called_off(message, clock::now(), &why);
    point!("beat-before-calling-off");
    Ok(agree(broker, record).await? == Known::Begun)
}

/// Makes `record` the record of its run unless there is one, so that all who try to carry out a step come to the
/// same verdict.
async fn agree(broker: &dyn Broker, record: RunRecord) -> Result<Known, BeatError> {
    let key = record.run_id.key();
    let value = encode(&key, &record)?;
    let written = broker
        .compare_and_set(Bucket::Runs, &key, None, value, Durability::Power)
        .await?;
    point!("beat-record-written");
    match written {
        Cas::Done(_) if record.is_called_off() => Ok(Known::CalledOff),
        Cas::Done(_) => Ok(Known::Begun),
        Cas::Conflict => {
            point!("beat-disagreed");
            known(broker, &record.run_id).await
        }
    }
}

fn note(verdict: Verdict, tick: DateTime<Utc>, run_id: Option<RunId>) -> VerdictNote {
    let reason = match verdict {
        Verdict::Skipped => Some(SkipReason::Overlap),
        Verdict::Fired | Verdict::Coalesced | Verdict::Missed => None,
    };
    VerdictNote {
        run_id,
        ..VerdictNote::on(verdict, reason, tick)
    }
}
