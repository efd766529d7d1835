//! Tells webhooks what happens to jobs, beside beat's loop and only as long as this beat leads.
//!
//! What is to be told follows from what is shared (see [`Standing::news`](crate::plan::Standing::news)), so
//! nothing waits in a queue: a webhook that cannot be reached is tried again with growing pauses, and is
//! told then how things stand. What was told is written down after it was sent: it may be sent twice,
//! under the same id.

mod briefing;
mod courier;
mod failing;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::Beat;
use crate::{
    broker::{self, BrokerError, Bucket, SharedBroker},
    clock,
    exec::WebhookSender,
    job::{About, Event, Webhook, WebhookName},
    plan::TOLD_PREFIX,
    schedules::JobSet,
};
pub(super) use briefing::brief_new;
use courier::{Courier, Destination};
pub(super) use failing::Failing;

/// How long a herald may take to end: a message may be on its way.
const FAREWELL: Duration = Duration::from_secs(1);

struct Herald {
    broker: SharedBroker,
    /// The jobs and webhooks in force.
    in_force: watch::Receiver<JobSet>,
    /// Where secrets are.
    credentials: Option<PathBuf>,
    /// Which webhooks take no messages.
    failing: Failing,
}

/// A herald at work. Ends when it is dropped.
pub(super) struct Sent {
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Beat {
    /// Sends the herald out, who notes in `failing` which webhooks take no messages.
    pub(super) fn send_herald(&self, failing: Failing) -> Sent {
        let herald = Herald {
            broker: Arc::clone(&self.broker),
            in_force: self.in_force.subscribe(),
            credentials: self.options.credentials.clone(),
            failing,
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(clock::same(herald.run(stop.clone())));
        Sent { stop, running }
    }
}

impl Sent {
    /// Has it end, and waits for that.
    pub(super) async fn recall(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.running).await {
            error!(target: "orchestrator::notify", %error, "the herald ended badly");
        }
    }
}

impl Herald {
    /// Sends one courier to each webhook, and others when the schedules are read again, until `stop`.
    async fn run(mut self, stop: CancellationToken) {
        let sender = Arc::new(WebhookSender::new(self.credentials.take()));
        while !stop.is_cancelled() {
            let set = self.in_force.borrow_and_update().clone();
            if let Err(error) = forget_others(&self.broker, &set).await {
                debug!(target: "orchestrator::notify", %error, "what others were told is not forgotten yet");
            }
            self.failing.keep_those_of(&set);
            let recalled = stop.child_token();
            let mut couriers = JoinSet::new();
            for destination in destinations(&set, &sender) {
                let courier = Courier::new(
                    Arc::clone(&self.broker),
                    set.clone(),
                    destination,
                    self.failing.clone(),
                );
                couriers.spawn(clock::same(courier.run(recalled.clone())));
            }
            let is_over = loop {
                tokio::select! {
                    biased;
                    changed = self.in_force.changed() => break changed.is_err(),
                    () = stop.cancelled() => break true,
                    Some(ended) = couriers.join_next() => tell_panic(ended),
                }
            };
            recalled.cancel();
            let all = async { while couriers.join_next().await.is_some() {} };
            // Whoever is in the middle of a message is cut off: it is told again.
            let _ = tokio::time::timeout(FAREWELL, all).await;
            if is_over {
                return;
            }
        }
    }
}

fn tell_panic(ended: Result<(), JoinError>) {
    if let Err(panicked) = ended {
        error!(target: "orchestrator::notify", %panicked,
            "a defect of this program ended what tells a webhook, or the log: nothing more is told there until the \
             schedules are read again");
    }
}

/// Removes what webhooks were told that are defined no longer: should they come back, they begin anew.
async fn forget_others(broker: &SharedBroker, set: &JobSet) -> Result<(), BrokerError> {
    for entry in broker::list(broker.as_ref(), Bucket::State, TOLD_PREFIX).await? {
        let rest = entry.key.strip_prefix(TOLD_PREFIX).unwrap_or_default();
        let webhook = rest.split('.').next().unwrap_or_default();
        let is_defined = |name: WebhookName| set.webhooks.contains_key(&name);
        if !webhook.parse().is_ok_and(is_defined) {
            broker.delete(Bucket::State, &entry.key).await?;
        }
    }
    Ok(())
}

/// The webhooks, and the log for jobs that are to succeed now and then.
fn destinations(set: &JobSet, sender: &Arc<WebhookSender>) -> Vec<Destination> {
    let mut destinations: Vec<_> = set
        .webhooks
        .values()
        .map(|webhook| Destination::Webhook(webhook.clone(), Arc::clone(sender)))
        .collect();
    let limited: Vec<_> = set
        .iter()
        .filter(|job| job.policy.alert_if_no_success_for.is_some())
        .collect();
    if !limited.is_empty() {
        let jobs = limited.iter().map(|job| job.name.clone()).collect();
        let on = [Event::Overdue, Event::Recovered].into();
        let (jobs, tags) = (jobs, Default::default());
        destinations.push(Destination::Log(About { jobs, tags }, on));
    }
    destinations
}

impl Destination {
    fn webhook(&self) -> Option<&Webhook> {
        match self {
            Self::Webhook(webhook, _) => Some(webhook),
            Self::Log(..) => None,
        }
    }
}
