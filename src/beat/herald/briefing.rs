//! From where on a webhook is told: written down before the jobs are in force that it is told of, so that nothing of
//! theirs can have happened before. A beat that is killed in between leaves it to the next one.

use chrono::{DateTime, Utc};

use crate::{
    beat::{BeatError, shared::encode},
    broker::{Bucket, SharedBroker},
    job::WebhookName,
    plan::{Briefing, TOLD_PREFIX},
    schedules::JobSet,
};

/// Briefs the webhooks of `set` that are new: they hear of what happens from `now` on.
pub(in crate::beat) async fn brief_new(
    broker: &SharedBroker,
    set: &JobSet,
    now: DateTime<Utc>,
) -> Result<(), BeatError> {
    for webhook in set.webhooks.keys() {
        briefing(broker, webhook, now).await?;
    }
    Ok(())
}

/// Reads from where on a webhook is told; one that is new hears of what happens from `now` on.
pub(super) async fn briefing(
    broker: &SharedBroker,
    webhook: &WebhookName,
    now: DateTime<Utc>,
) -> Result<Briefing, BeatError> {
    let known = broker.get(Bucket::State, &key(webhook)).await?;
    if let Some(known) = known.and_then(|entry| serde_json::from_slice(&entry.value).ok()) {
        return Ok(known);
    }
    let briefing = Briefing {
        since: now,
        last_letter: newest_letter(broker).await?,
    };
    keep(broker, webhook, &briefing).await?;
    Ok(briefing)
}

/// Writes down how far a webhook was told.
pub(super) async fn keep(
    broker: &SharedBroker,
    webhook: &WebhookName,
    briefing: &Briefing,
) -> Result<(), BeatError> {
    let key = key(webhook);
    let value = encode(&key, briefing)?;
    broker.put(Bucket::State, &key, value).await?;
    Ok(())
}

/// The sequence of the newest letter; 0 if there is none.
pub(super) async fn newest_letter(broker: &SharedBroker) -> Result<u64, BeatError> {
    let newest = broker.dead_letters(None, 1).await?;
    Ok(newest.first().map_or(0, |(sequence, _)| *sequence))
}

fn key(webhook: &WebhookName) -> String {
    format!("{TOLD_PREFIX}{webhook}")
}
