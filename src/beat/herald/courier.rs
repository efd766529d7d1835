//! Tells one webhook what happens to jobs.

mod letters;
mod post;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{Failing, briefing};
use crate::{
    beat::{
        BeatError,
        shared::{encode, read_job},
    },
    broker::{self, Bucket, Change, Changes, SharedBroker},
    clock,
    exec::WebhookSender,
    job::{About, Event, JobName, Seconds, Webhook},
    plan::{
        Briefing, JOB_STATE_PREFIX, JobState, PAUSE_PREFIX, Pause, Standing, TOLD_PREFIX, Told,
    },
    run::{LAST_RUN_PREFIX, LastRun},
    schedules::JobSet,
};
use post::{Post, Posted};

/// How often it is looked for dead letters and for what time alone brings about.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The first pause after a failure of the broker; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Who is told.
#[derive(Debug, Clone)]
pub(super) enum Destination {
    /// A webhook.
    Webhook(Webhook, Arc<WebhookSender>),
    /// The log, of these jobs and events.
    Log(About, BTreeSet<Event>),
}

pub(super) struct Courier {
    broker: SharedBroker,
    set: JobSet,
    destination: Destination,
    briefing: Briefing,
    told: HashMap<JobName, Told>,
    lasts: HashMap<JobName, LastRun>,
    pauses: HashMap<JobName, Pause>,
    states: HashMap<JobName, JobState>,
    /// The jobs of which something was heard.
    heard_of: BTreeSet<JobName>,
    /// The jobs of which something could not be told yet; who failed last comes last.
    later: VecDeque<JobName>,
    post: Post,
    /// When dead letters were told last.
    letters_told_at: Option<Instant>,
}

impl Courier {
    pub(super) fn new(
        broker: SharedBroker,
        set: JobSet,
        destination: Destination,
        failing: Failing,
    ) -> Self {
        let now = clock::now();
        Self {
            broker,
            set,
            destination,
            briefing: Briefing {
                since: now,
                last_letter: 0,
            },
            told: HashMap::new(),
            lasts: HashMap::new(),
            pauses: HashMap::new(),
            states: HashMap::new(),
            heard_of: BTreeSet::new(),
            later: VecDeque::new(),
            post: Post::new(failing),
            letters_told_at: None,
        }
    }

    /// Tells until `recalled`; goes on after an outage of the broker.
    pub(super) async fn run(mut self, recalled: CancellationToken) {
        let mut pause = PAUSE;
        while !recalled.is_cancelled() {
            let watched = tokio::select! {
                biased;
                watched = self.watch() => watched,
                () = recalled.cancelled() => return,
            };
            match watched {
                Ok(()) => pause = PAUSE,
                Err(error) => debug!(target: "orchestrator::notify", %error, "starting again"),
            }
            tokio::select! {
                biased;
                () = sleep(pause) => {}
                () = recalled.cancelled() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Follows what is shared, and tells; returns when the watch has broken off.
    async fn watch(&mut self) -> Result<(), BeatError> {
        self.brief().await?;
        let mut changes = self.take_stock().await?;
        point!("webhook-briefed");
        let mut look_at = Instant::now();
        loop {
            if look_at <= Instant::now() {
                look_at = Instant::now() + LOOK_EVERY;
                self.bring_back().await?;
                self.tell_of_letters().await?;
                let limited = self.set.iter();
                let limited = limited.filter(|job| job.policy.alert_if_no_success_for.is_some());
                self.heard_of.extend(limited.map(|job| job.name.clone()));
            }
            let heard_of = std::mem::take(&mut self.heard_of);
            self.later.retain(|name| !heard_of.contains(name));
            self.later.extend(heard_of);
            self.tell().await?;
            let until = self
                .post
                .waits_until()
                .map_or(look_at, |at| at.min(look_at));
            while let Ok(change) = timeout_at(until, changes.next()).await {
                match change {
                    Some(change) => self.note(change?),
                    None => return Ok(()),
                }
                // Nothing can be told yet: what is heard meanwhile is looked at once.
                if !self.heard_of.is_empty() && !self.post.is_waiting() {
                    break;
                }
            }
        }
    }

    /// Reads from where on this webhook is told, or writes it down.
    async fn brief(&mut self) -> Result<(), BeatError> {
        let Some(webhook) = self.destination.webhook() else {
            return Ok(());
        };
        let since = self.briefing.since;
        self.briefing = briefing::briefing(&self.broker, &webhook.name, since).await?;
        let prefix = format!("{TOLD_PREFIX}{}.", webhook.name);
        for entry in broker::list(self.broker.as_ref(), Bucket::State, &prefix).await? {
            if let Some((name, told)) = read_job(&entry, &prefix) {
                self.told.insert(name, told);
            }
        }
        Ok(())
    }

    /// Notices what was noted by a clock that was ahead: nothing would be told until then.
    async fn bring_back(&mut self) -> Result<(), BeatError> {
        let now = clock::now();
        if let Some(briefing) = self.briefing.brought_back(now) {
            self.briefing = briefing;
            self.keep_briefing().await?;
            let heard_of = self.lasts.keys().chain(self.pauses.keys());
            let heard_of = heard_of.chain(self.states.keys()).cloned();
            self.heard_of.extend(heard_of);
        }
        let told = self.told.iter().filter_map(|(name, told)| {
            let told = told.brought_back(self.states.get(name), now)?;
            Some((name.clone(), told))
        });
        let told: Vec<_> = told.collect();
        for (name, told) in told {
            self.keep_told(&name, &told).await?;
            self.told.insert(name.clone(), told);
            self.heard_of.insert(name);
        }
        Ok(())
    }

    async fn keep_briefing(&self) -> Result<(), BeatError> {
        let Some(webhook) = self.destination.webhook() else {
            return Ok(());
        };
        briefing::keep(&self.broker, &webhook.name, &self.briefing).await
    }

    async fn take_stock(&mut self) -> Result<Changes, BeatError> {
        self.pauses.clear();
        let mut watched = Vec::new();
        for prefix in [LAST_RUN_PREFIX, PAUSE_PREFIX, JOB_STATE_PREFIX] {
            let mut changes = self.broker.watch(Bucket::State, prefix).await?;
            while let Some(change) = changes.next().await {
                match change? {
                    Change::Current => break,
                    change => self.note(change),
                }
            }
            watched.push(changes);
        }
        Ok(stream::select_all(watched).boxed())
    }

    fn note(&mut self, change: Change) {
        let key = match &change {
            Change::Put(entry) => &entry.key,
            Change::Deleted { key } => key,
            Change::Current => return,
        };
        let name = key.split_once('.').map(|(_, name)| name.parse());
        let Some(Ok(name)) = name else { return };
        let is_told = |job| self.destination.about().covers(job);
        if !self.set.get(&name).is_some_and(|job| is_told(job)) {
            return;
        }
        match change {
            Change::Put(entry) => {
                if let Some((name, last)) = read_job(&entry, LAST_RUN_PREFIX) {
                    self.lasts.insert(name, last);
                } else if let Some((name, pause)) = read_job(&entry, PAUSE_PREFIX) {
                    self.pauses.insert(name, pause);
                } else if let Some((name, state)) = read_job(&entry, JOB_STATE_PREFIX) {
                    self.states.insert(name, state);
                }
            }
            Change::Deleted { key } if key.starts_with(PAUSE_PREFIX) => {
                self.pauses.remove(&name);
            }
            Change::Deleted { .. } | Change::Current => {}
        }
        self.heard_of.insert(name);
    }

    /// Tells all that is new, as far as it is taken.
    async fn tell(&mut self) -> Result<(), BeatError> {
        while !self.post.is_waiting()
            && let Some(name) = self.later.pop_front()
        {
            match self.tell_of(&name).await {
                Ok(Posted::Done) => {}
                Ok(Posted::NotNow) => self.later.push_back(name),
                Err(error) => {
                    self.later.push_back(name);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Tells all that is new of one job.
    async fn tell_of(&mut self, name: &JobName) -> Result<Posted, BeatError> {
        let Some(job) = self.set.get(name).map(Arc::clone) else {
            return Ok(Posted::Done);
        };
        let mut told = self.told.get(name).cloned().unwrap_or_default();
        loop {
            let standing = Standing {
                job: &job,
                last: self.lasts.get(name),
                state: self.states.get(name),
                pause: self.pauses.get(name),
            };
            let (since, repeat) = (self.briefing.since, self.destination.repeat());
            let Some((alert, next)) = standing.news(&told, since, repeat, clock::now()) else {
                break;
            };
            let wanted = alert.filter(|alert| self.destination.on().contains(&alert.event));
            if let Some(alert) = &wanted
                && self.post.send(&self.destination, alert).await == Posted::NotNow
            {
                // Since when it fails is known all the same.
                told.failing_since = next.failing_since;
                self.told.insert(name.clone(), told);
                return Ok(Posted::NotNow);
            }
            let is_kept = Told {
                ended_at: told.ended_at,
                ..next.clone()
            } == told;
            told = next;
            self.told.insert(name.clone(), told.clone());
            // That another run ended follows from the state again.
            if !is_kept {
                self.keep_told(name, &told).await?;
            }
        }
        Ok(Posted::Done)
    }

    async fn keep_told(&self, name: &JobName, told: &Told) -> Result<(), BeatError> {
        if let Some(webhook) = self.destination.webhook() {
            let key = format!("{TOLD_PREFIX}{}.{name}", webhook.name);
            let value = encode(&key, told)?;
            self.broker.put(Bucket::State, &key, value).await?;
        }
        Ok(())
    }
}

impl Destination {
    fn on(&self) -> &BTreeSet<Event> {
        match self {
            Self::Webhook(webhook, _) => &webhook.on,
            Self::Log(_, on) => on,
        }
    }

    fn about(&self) -> &About {
        match self {
            Self::Webhook(webhook, _) => &webhook.about,
            Self::Log(about, _) => about,
        }
    }

    fn repeat(&self) -> Seconds {
        match self {
            Self::Webhook(webhook, _) => webhook.repeat,
            Self::Log(..) => Seconds::from_secs(3600),
        }
    }
}
