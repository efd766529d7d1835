//! Which webhooks take no messages, and since when: the beat that leads says it with its heartbeat.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};

use crate::{
    job::WebhookName,
    plan::{FailingWebhook, Leader},
    schedules::JobSet,
};

/// The webhooks that did not take their last message.
#[derive(Debug, Clone, Default)]
pub(in crate::beat) struct Failing(Arc<Mutex<BTreeMap<WebhookName, DateTime<Utc>>>>);

impl Failing {
    /// A message was not taken.
    pub(super) fn note(&self, webhook: &WebhookName, now: DateTime<Utc>) {
        self.lock().entry(webhook.clone()).or_insert(now);
    }

    /// A message was taken.
    pub(super) fn forget(&self, webhook: &WebhookName) {
        self.lock().remove(webhook);
    }

    /// Others are defined no longer.
    pub(super) fn keep_those_of(&self, set: &JobSet) {
        self.lock()
            .retain(|webhook, _| set.webhooks.contains_key(webhook));
    }

    /// Those that have failed for longest, as far as there is room for them in a heartbeat.
    pub(in crate::beat) fn longest(&self) -> Vec<FailingWebhook> {
        let failing = self.lock();
        let failing = failing.iter().map(|(webhook, since)| FailingWebhook {
            webhook: webhook.clone(),
            since: *since,
        });
        let mut failing: Vec<_> = failing.collect();
        failing.sort_by_key(|failing| failing.since);
        failing.truncate(Leader::MOST_WEBHOOKS);
        failing
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WebhookName, DateTime<Utc>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_have_failed_for_longest_are_told_and_not_more_than_there_is_room_for() {
        let failing = Failing::default();
        let at = |second: i64| DateTime::from_timestamp(second, 0).unwrap();
        let name = |number: i64| -> WebhookName { format!("w{number}").parse().unwrap() };
        for number in 0..40 {
            failing.note(&name(number), at(100 - number));
        }
        failing.note(&name(39), at(1000));
        failing.forget(&name(38));
        let told = failing.longest();
        assert_eq!(told.len(), Leader::MOST_WEBHOOKS);
        assert_eq!((&told[0].webhook, told[0].since), (&name(39), at(61)));
        assert_eq!((&told[1].webhook, told[1].since), (&name(37), at(63)));
        failing.keep_those_of(&JobSet::default());
        assert_eq!(failing.longest(), []);
    }
}
