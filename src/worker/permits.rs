//! What a run has to hold before it may start: a lock, a place behind a key, a start under a rate. A run
//! that does not get them is put off without holding a slot, and uses up no attempt.
//!
//! Taken before the claim and under its fence, given back after the outcome was recorded. A crash in
//! between leaves a place to a run that has ended or has a larger fence: the next who wants it takes it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::debug;

use super::Shared;
use crate::{
    broker::{
        BrokerError, Bucket, Delivery, Taken, give_place_back, permits::Shared as Kind,
        reserve_start, take_place,
    },
    chance, clock,
    exec::RunContext,
    job::{Seconds, Template, TemplateError},
    run::{By, RunId, RunMessage, RunRecord, Waiting, Wish, grace, latest},
};

/// How far back the runs that led to one are looked for.
const GENERATIONS: usize = 16;
/// The shortest and the longest time between two looks, if one run waits.
const ALONE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// Between the looks of all runs that wait for the same thing.
const BETWEEN: Duration = Duration::from_millis(50);
/// No run is looked at less often.
const LONGEST: Duration = Duration::from_secs(30);
/// Who was not seen for so long does not wait any more.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// What a run holds.
#[derive(Debug, Default)]
pub(super) struct Permits {
    /// Each with its token.
    held: Vec<(Kind, String, By, u64)>,
    /// The token of its lock, with its name.
    pub(super) lock: Option<(String, u64)>,
}

/// Whether a run may start.
#[derive(Debug)]
pub(super) enum Permission {
    /// Now.
    Granted,
    /// Not yet: look again after so long.
    Wait(Waiting, Duration),
    /// Not at all: it has waited as long as it was to, for this.
    TooLate(Waiting, Seconds),
    /// Not at all: what it has to hold cannot be told.
    Unknown(TemplateError),
}

/// Who waits for what, as far as this worker has seen.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<HashMap<String, HashMap<RunId, Instant>>>);

impl Waiters {
    /// How long a run is put off. The more wait for the same thing, the less often each is looked at.
    fn put_off(&self, key: &str, run_id: &RunId, deliveries: u64) -> Duration {
        let now = clock::monotonic();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = all.entry(key.to_owned()).or_default();
        waiting.insert(run_id.clone(), now);
        waiting.retain(|_, seen| now.saturating_duration_since(*seen) < FORGOTTEN);
        let crowd = BETWEEN.saturating_mul(u32::try_from(waiting.len()).unwrap_or(u32::MAX));
        let (shortest, longest) = ALONE;
        let looks = u32::try_from(deliveries.clamp(1, 8) - 1).unwrap_or(0);
        let alone = (shortest * (1 << looks)).min(longest);
        crowd
            .clamp(alone, LONGEST)
            .mul_f64(0.75 + chance::fraction() / 2.0)
    }

    fn leave(&self, key: &str, run_id: &RunId) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = all.get_mut(key) {
            waiting.remove(run_id);
            if waiting.is_empty() {
                all.remove(key);
            }
        }
    }
}

/// One who wants to start.
struct Applicant<'a> {
    delivery: &'a Delivery,
    message: &'a RunMessage,
    record: &'a RunRecord,
    fence: u64,
}

impl Applicant<'_> {
    fn by(&self) -> By {
        By::Run {
            run_id: self.message.run_id.clone(),
            fence: self.fence,
        }
    }

    /// Since when it waits for this.
    fn waiting(&self, kind: Kind, name: &str) -> Waiting {
        let what = kind.word();
        let before = self.record.waiting.clone();
        let same = before.filter(|before| before.what == what && before.name == name);
        // One of a time to come was noted by a clock that was ahead.
        let same = same.filter(|before| before.since <= latest(clock::now()));
        same.unwrap_or_else(|| Waiting {
            what,
            name: name.to_owned(),
            since: clock::now(),
            until: None,
        })
    }
}

impl Shared {
    /// Takes what the run has to hold, all of it or nothing.
    pub(super) async fn permit(
        &self,
        delivery: &Delivery,
        message: &RunMessage,
        (record, fence): (&RunRecord, u64),
        permits: &mut Permits,
    ) -> Result<Permission, BrokerError> {
        let applicant = Applicant {
            delivery,
            message,
            record,
            fence,
        };
        let permission = self.apply(&applicant, permits).await;
        if !matches!(permission, Ok(Permission::Granted)) {
            self.give_back(permits).await;
        }
        permission
    }

    async fn apply(
        &self,
        applicant: &Applicant<'_>,
        permits: &mut Permits,
    ) -> Result<Permission, BrokerError> {
        let spec = &applicant.message.spec;
        let context = RunContext {
            message: applicant.message,
            attempt: 0,
            fence: applicant.fence,
            lock: None,
            secrets: &self.no_secrets,
            hand_on: &self.options.hand_on,
        };
        let fill = |template: &Template| template.render(&context);
        if let Some(lock) = &spec.lock {
            let name = match fill(&lock.name) {
                Ok(name) => name,
                Err(error) => return Ok(Permission::Unknown(error)),
            };
            let wish = Wish {
                by: applicant.by(),
                ancestors: self.ancestors(applicant.message).await?,
                inherit: lock.inherit,
                limit: 1,
                at: clock::now(),
            };
            let at_most = lock.wait;
            match self
                .take(applicant, (Kind::Lock, &name), &wish, at_most, permits)
                .await?
            {
                Ok(token) => permits.lock = Some((name, token)),
                Err(refused) => return Ok(refused),
            }
        }
        if let Some(places) = &spec.concurrency {
            let key = match fill(&places.key) {
                Ok(key) => key,
                Err(error) => return Ok(Permission::Unknown(error)),
            };
            let wish = Wish {
                by: applicant.by(),
                ancestors: Vec::new(),
                inherit: false,
                limit: places.limit,
                at: clock::now(),
            };
            let at_most = places.wait;
            let which = (Kind::Concurrency, &*key);
            if let Err(refused) = self.take(applicant, which, &wish, at_most, permits).await? {
                return Ok(refused);
            }
        }
        match &spec.rate {
            Some(rate) => match fill(&rate.key) {
                Ok(key) => self.reserve(applicant, &key, rate).await,
                Err(error) => Ok(Permission::Unknown(error)),
            },
            None => Ok(Permission::Granted),
        }
    }

    async fn take(
        &self,
        applicant: &Applicant<'_>,
        (kind, name): (Kind, &str),
        wish: &Wish,
        at_most: Option<Seconds>,
        permits: &mut Permits,
    ) -> Result<Result<u64, Permission>, BrokerError> {
        let broker = self.broker.as_ref();
        let run_id = &applicant.message.run_id;
        let key = kind.key(name);
        let lease = applicant.delivery.lease;
        if let Some(wait) = self.others_may_hold_it(lease).await? {
            debug!(target: "orchestrator::worker", %run_id, name, "waits for those who held it when the broker lost its data");
            return Ok(Err(Permission::Wait(applicant.waiting(kind, name), wait)));
        }
        let watch = (&self.observer, lease);
        match take_place(broker, (kind, name), wish, watch).await? {
            Taken::Place(token) => {
                self.waiters.leave(&key, run_id);
                let by = wish.by.clone();
                permits.held.push((kind, name.to_owned(), by, token));
                Ok(Ok(token))
            }
            Taken::Busy(holders) => {
                let waiting = applicant.waiting(kind, name);
                let waited = (wish.at - waiting.since).to_std().unwrap_or_default();
                if let Some(at_most) = at_most.filter(|at_most| waited >= at_most.get()) {
                    self.waiters.leave(&key, run_id);
                    return Ok(Err(Permission::TooLate(waiting, at_most)));
                }
                debug!(target: "orchestrator::worker", %run_id, what = %waiting.what, name, ?holders,
                    "waits");
                let look = self
                    .waiters
                    .put_off(&key, run_id, applicant.delivery.deliveries);
                let left = at_most.map(|at_most| at_most.get().saturating_sub(waited));
                let look = left.map_or(look, |left| look.min(left));
                Ok(Err(Permission::Wait(waiting, look)))
            }
        }
    }

    async fn reserve(
        &self,
        applicant: &Applicant<'_>,
        name: &str,
        rate: &crate::job::Rate,
    ) -> Result<Permission, BrokerError> {
        let now = clock::now();
        let mut waiting = applicant.waiting(Kind::Rate, name);
        if let Some(reserved) = waiting.until {
            if let Ok(left) = (reserved - now).to_std()
                && left > Duration::ZERO
            {
                return Ok(Permission::Wait(waiting, left));
            }
            if (now - reserved).to_std().unwrap_or_default() <= grace(rate) {
                return Ok(Permission::Granted);
            }
            // Its turn is lost: it waits anew.
            waiting.since = now;
        }
        // One at a time: the value would only be refused to the others.
        let start = {
            let _turn = self.reserving.lock().await;
            reserve_start(self.broker.as_ref(), name, rate, clock::now()).await?
        };
        match (start - clock::now()).to_std() {
            Ok(wait) if wait > Duration::ZERO => {
                waiting.until = Some(start);
                Ok(Permission::Wait(waiting, wait))
            }
            Ok(_) | Err(_) => Ok(Permission::Granted),
        }
    }

    /// The runs that led to this one, the nearest first.
    async fn ancestors(&self, message: &RunMessage) -> Result<Vec<RunId>, BrokerError> {
        let mut ancestors = Vec::new();
        let mut next = message.parent.clone();
        while let Some(run_id) = next.filter(|run| !ancestors.contains(run))
            && ancestors.len() < GENERATIONS
        {
            let entry = self.broker.get(Bucket::Runs, &run_id.key()).await?;
            let record =
                entry.and_then(|entry| serde_json::from_slice::<RunRecord>(&entry.value).ok());
            next = record.and_then(|record| record.parent);
            ancestors.push(run_id);
        }
        Ok(ancestors)
    }

    /// Gives back what a run holds.
    pub(super) async fn give_back(&self, permits: &mut Permits) {
        permits.lock = None;
        let broker = self.broker.as_ref();
        for (kind, name, by, token) in permits.held.drain(..) {
            if let Err(error) = give_place_back(broker, (kind, &name), (&by, token)).await {
                debug!(target: "orchestrator::worker", %by, name, %error,
                    "not given back; it is taken once its holder is seen to be gone");
            }
        }
    }
}

impl Permits {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_wait_the_less_often_each_is_looked_at() {
        let waiters = Waiters::default();
        let run = |n: u32| -> RunId { format!("page@2026112{}T{:06}Z", 3, n).parse().unwrap() };
        let alone = waiters.put_off("lock.a", &run(0), 1);
        assert!(alone < Duration::from_millis(260), "{alone:?}");
        let patient = waiters.put_off("lock.a", &run(0), 100);
        assert!((Duration::from_millis(1_500)..Duration::from_millis(2_600)).contains(&patient));
        for n in 0..10_000 {
            waiters.put_off("lock.a", &run(n % 60), 1);
        }
        let crowd = waiters.put_off("lock.a", &run(1), 1);
        assert!(crowd > Duration::from_secs(2), "{crowd:?}");
        let other = waiters.put_off("lock.b", &run(1), 1);
        assert!(other < Duration::from_millis(260), "{other:?}");
        for n in 0..60 {
            waiters.leave("lock.a", &run(n));
        }
        assert!(waiters.put_off("lock.a", &run(1), 1) < Duration::from_millis(260));
    }
}
