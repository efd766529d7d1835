//! What beat hears of finished runs and of pauses.

use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};
use tracing::info;

use super::Memory;
use crate::{
    beat::{BeatError, shared::read_job},
    broker::{Change, SharedBroker},
    clock,
    job::JobName,
    plan::{PAUSE_PREFIX, Pause},
    run::{LAST_RUN_PREFIX, LastRun, Past},
};

/// Of how many jobs beyond those that are known it is remembered how they ran last: one may be defined again.
const MOST_UNKNOWN: usize = 4096;

impl Memory {
    /// Something may have been heard of this job that its state does not say.
    pub(in crate::beat) fn look_at(&mut self, job: &JobName) {
        self.heard_of.insert(job.clone());
    }

    /// The states say what was heard.
    pub(in crate::beat) fn taken_over(&mut self) {
        self.heard_of.clear();
    }

    /// All of it is to be understood anew: the clock was ahead when it was heard, and it is `now`.
    pub(in crate::beat) fn hear_anew(&mut self, now: DateTime<Utc>) {
        for (name, past) in &mut self.pasts {
            *past = past.heard_at(now);
            self.heard_of.insert(name.clone());
        }
        for (name, pause) in &mut self.pauses {
            *pause = pause.clone().begun_at(now);
            self.heard_of.insert(name.clone());
        }
    }

    /// Waits for the next news of a finished run or of a pause. Cancel-safe.
    pub(in crate::beat) async fn learn(&mut self) {
        let Some(changes) = &mut self.news else {
            // Watched again at the next recovery; until then there is nothing to wait for.
            return std::future::pending().await;
        };
        match changes.next().await {
            Some(Ok(change)) => self.note(change),
            Some(Err(error)) => {
                info!(target: "orchestrator::beat", %error, "the watch on finished runs broke off");
                self.news = None;
            }
            None => self.news = None,
        }
    }

    /// Whether news of finished runs has stopped coming.
    pub(in crate::beat) fn is_deaf(&self) -> bool {
        self.news.is_none()
    }

    pub(super) async fn watch_news(&mut self, broker: &SharedBroker) -> Result<(), BeatError> {
        for (job, _) in self.pauses.drain() {
            self.heard_of.insert(job);
        }
        let mut heard = Vec::new();
        let news = self.others.watch(broker, |change| heard.push(change));
        let (news, definitions) = (news.await?, self.guard.watch(broker).await?);
        self.news = Some(stream::select(news, definitions).boxed());
        heard.into_iter().for_each(|change| self.hear(change));
        Ok(())
    }

    fn note(&mut self, change: Change) {
        if !self.guard.note(&change) {
            let change = self.others.note(change);
            self.hear(change);
        }
    }

    fn hear(&mut self, change: Change) {
        match change {
            Change::Put(entry) => {
                let now = clock::now().max(self.watermark.at);
                if let Some((name, last)) = read_job::<LastRun>(&entry, LAST_RUN_PREFIX) {
                    let is_known = self.states.get(&name).is_some();
                    if !is_known && self.pasts.len() >= self.states.len() + MOST_UNKNOWN {
                        return;
                    }
                    self.look_at(&name);
                    self.pasts.insert(name, Past::from(&last).heard_at(now));
                } else if let Some((name, pause)) = read_job::<Pause>(&entry, PAUSE_PREFIX) {
                    self.look_at(&name);
                    self.pauses.insert(name, pause.begun_at(now));
                }
            }
            Change::Deleted { key } => {
                let name = key.strip_prefix(PAUSE_PREFIX).map(str::parse::<JobName>);
                if let Some(Ok(name)) = name {
                    self.look_at(&name);
                    self.pauses.remove(&name);
                }
            }
            Change::Current => {}
        }
    }
}
