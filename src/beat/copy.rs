//! The own copy of a beat that stands by: it follows what the leader shares, so that this beat can restore it should the
//! broker lose it. What it would lose by following stays: a shared state that was set back is not taken over, and the
//! copy of an installation that is gone is put aside.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures::{FutureExt, StreamExt};
use tracing::{debug, error, info, warn};

use super::{
    BeatError, OwnState, newcomer,
    others::Others,
    own::{Head, Readiness},
    shared::{read, read_installation, read_job, read_watermark},
    succession,
};
use crate::{
    broker::{Bucket, Change, Changes, SharedBroker},
    clock,
    job::JobName,
    plan::{IMPORTED_PREFIX, JOB_STATE_PREFIX, JobState, LEADER_KEY, Leader, Watermark, outlives},
};

/// How often at most it is brought up to date.
const COPY_EVERY: Duration = Duration::from_secs(1);

/// What is shared, as far as it decides on the copy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shared {
    installation: Option<String>,
    watermark: Watermark,
}

/// What becomes of the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It takes over what is shared.
    Follow,
    /// It stays as it is: the shared state was set back.
    Stay,
    /// Somebody imported another state: it begins anew with that.
    BeginAnew,
    /// The shared state was lost, and a beat that knew nothing has begun a new one; or it is another one.
    SetAside,
}

fn next(kept: &Head, shared: &Shared, now: DateTime<Utc>) -> Next {
    let Some(watermark) = &kept.watermark else {
        return Next::Follow;
    };
    match (&kept.installation, &shared.installation) {
        (Some(known), Some(found)) if known != found => match found.starts_with(IMPORTED_PREFIX) {
            true => Next::BeginAnew,
            false => Next::SetAside,
        },
        _ if outlives(watermark.at, shared.watermark.at, now) => Next::Stay,
        _ => Next::Follow,
    }
}

/// The copy, while this beat stands by.
#[derive(Default)]
pub(super) struct Copy {
    /// What is in it.
    head: Option<Head>,
    kept_at: Option<Instant>,
    /// Why it stays as it is was told.
    told: bool,
    /// Of the states of jobs, and of what others write.
    watched: Option<(Changes, Changes)>,
    changed: BTreeMap<JobName, Option<JobState>>,
    /// As far as it was read from the own copy.
    others: Option<Others>,
}

impl Copy {
    /// Follows what the leader shares.
    pub(super) async fn bring_up_to_date(
        &mut self,
        (broker, beat): (&SharedBroker, &str),
        own: &OwnState,
    ) -> Result<(), BeatError> {
        let now = clock::monotonic();
        if self.kept_at.is_some_and(|at| now - at < COPY_EVERY) {
            return Ok(());
        }
        let head = match (own.readiness(), self.head.take()) {
            (Readiness::Broken, head) => {
                self.head = head;
                return Ok(());
            }
            (Readiness::Ready, Some(head)) => head,
            (Readiness::Ready | Readiness::Anew, _) => own.head()?,
        };
        let head = self.head.insert(head).clone();
        let Some(shared) = read_shared(broker).await? else {
            if let Some(kept) = &head.watermark {
                newcomer::announce(broker, beat, kept).await?;
            }
            return Ok(());
        };
        if self.kept_at.is_some() && is_up_to_date(&head, &shared) {
            return Ok(());
        }
        match next(&head, &shared, clock::now()) {
            Next::Follow => {}
            Next::Stay => {
                self.stays(&head, &shared);
                return Ok(());
            }
            Next::BeginAnew => {
                info!(target: "orchestrator::beat", known = head.installation, found = shared.installation,
                    "another state was imported: the own copy begins anew with it");
                self.begin_anew(own)?;
            }
            Next::SetAside => {
                if !self.set_aside(broker, own, (&head, &shared)).await? {
                    return Ok(());
                }
                self.begin_anew(own)?;
            }
        }
        let mut others = match self.others.take() {
            Some(others) => others,
            None => own.others()?,
        };
        let written = self.write(broker, own, (&shared, &mut others)).await;
        // Else all is watched anew, and compared with what is kept.
        self.others = self.watched.is_some().then_some(others);
        if written? {
            self.head = Some(Head {
                installation: shared.installation.or(head.installation),
                watermark: Some(shared.watermark),
            });
            self.kept_at = Some(now);
            self.told = false;
        }
        Ok(())
    }

    fn stays(&mut self, head: &Head, shared: &Shared) {
        if !self.told {
            let kept = head.watermark.as_ref().map(|watermark| watermark.at);
            warn!(target: "orchestrator::beat", shared = %shared.watermark.at, kept = ?kept,
                "the shared state is older than this beat's own copy: it was set back; the copy stays as it is, \
                 and this beat goes on from it when it leads");
        }
        self.told = true;
        // Of no use until it is newer again; then with all of it.
        self.watched = None;
        self.changed.clear();
        self.others = None;
    }

    /// Puts the copy where nobody writes over it. If the other installation was begun since, shares again what is missing
    /// there, as a leader does. Whether that was possible.
    async fn set_aside(
        &mut self,
        broker: &SharedBroker,
        own: &OwnState,
        (head, shared): (&Head, &Shared),
    ) -> Result<bool, BeatError> {
        let Some(kept) = head.watermark.as_ref().map(|watermark| watermark.at) else {
            return Ok(true);
        };
        let aside = match own.copy_aside(kept).await {
            Ok(Some(aside)) => aside,
            Ok(None) => return Ok(false),
            Err(error) => {
                if !self.told {
                    error!(target: "orchestrator::beat", %error,
                        "the broker has another installation than the own copy, which cannot be put aside and stays \
                         as it is");
                }
                self.told = true;
                return Ok(false);
            }
        };
        let entry = broker.get(Bucket::State, LEADER_KEY).await?;
        let leader = entry.as_ref().and_then(read::<Leader>);
        // One that has been led for longer is no successor, but somebody else's.
        let is_successor = leader.is_some_and(|leader| leader.since > kept);
        if is_successor {
            let restored = succession::share_again(broker, own).await;
            if matches!(restored, Err(BeatError::Overtaken)) {
                // The leader was quicker: the rest the next time.
                return Ok(false);
            }
            restored?;
        }
        error!(target: "orchestrator::beat", known = head.installation, found = shared.installation,
            %kept, shared = %shared.watermark.at, moved_to = %aside.display(), shared_again = is_successor,
            "the broker lost its data and a beat that knew nothing leads there, or it is another one: the copy is put \
             aside; docs/recovery.md tells how to go on from it");
        Ok(true)
    }

    /// All of the copy is of another installation: it is to have nothing that is not shared now.
    fn begin_anew(&mut self, own: &OwnState) -> Result<(), BeatError> {
        self.watched = None;
        self.others = None;
        self.changed.clear();
        let (_, states) = own.load()?.unzip();
        let states = states.into_iter().flatten();
        self.changed.extend(states.map(|(name, _)| (name, None)));
        Ok(())
    }

    /// Whether the own copy is up to date.
    async fn write(
        &mut self,
        broker: &SharedBroker,
        own: &OwnState,
        (shared, others): (&Shared, &mut Others),
    ) -> Result<bool, BeatError> {
        self.follow(broker, others).await?;
        match own.readiness() {
            Readiness::Ready => {}
            Readiness::Anew => {
                // Watched anew, which begins with all of them.
                self.watched = None;
                self.follow(broker, others).await?;
                others.all_anew();
            }
            Readiness::Broken => return Ok(false),
        }
        // What was read meanwhile may be of a state that was set back, or of another one.
        let is_same = |now: &Shared| {
            now.installation == shared.installation && now.watermark.at >= shared.watermark.at
        };
        if !read_shared(broker).await?.as_ref().is_some_and(is_same) {
            self.watched = None;
            self.changed.clear();
            return Ok(false);
        }
        let changed = self.changed.iter();
        let changed = changed.map(|(name, state)| (name, state.as_ref()));
        let installation = shared.installation.as_deref();
        if !own
            .keep(&shared.watermark, installation, changed, others)
            .await
        {
            return Ok(false);
        }
        debug!(target: "orchestrator::beat", at = %shared.watermark.at, changed = self.changed.len(),
            "own copy brought up to date");
        self.changed.clear();
        others.saved();
        Ok(true)
    }

    /// Notes what changed since the last look.
    async fn follow(
        &mut self,
        broker: &SharedBroker,
        others: &mut Others,
    ) -> Result<(), BeatError> {
        let (mut states, mut written) = match self.watched.take() {
            Some(watched) => watched,
            None => {
                let mut states = broker.watch(Bucket::State, JOB_STATE_PREFIX).await?;
                while let Some(change) = states.next().await {
                    let change = change?;
                    if change == Change::Current {
                        break;
                    }
                    self.note(change);
                }
                (states, others.watch(broker, |_| {}).await?)
            }
        };
        loop {
            match states.next().now_or_never() {
                Some(Some(change)) => self.note(change?),
                // Ended: watched anew the next time.
                Some(None) => return Ok(()),
                None => break,
            }
        }
        loop {
            match written.next().now_or_never() {
                Some(Some(change)) => _ = others.note(change?),
                Some(None) => return Ok(()),
                None => break,
            }
        }
        self.watched = Some((states, written));
        Ok(())
    }

    fn note(&mut self, change: Change) {
        match change {
            Change::Put(entry) => {
                if let Some((name, state)) = read_job(&entry, JOB_STATE_PREFIX) {
                    self.changed.insert(name, Some(state));
                }
            }
            Change::Deleted { key } => {
                let name = key.strip_prefix(JOB_STATE_PREFIX).map(str::parse);
                if let Some(Ok(name)) = name {
                    self.changed.insert(name, None);
                }
            }
            Change::Current => {}
        }
    }
}

async fn read_shared(broker: &SharedBroker) -> Result<Option<Shared>, BeatError> {
    // Before the watermark: that of an installation is written after its name.
    let installation = read_installation(broker.as_ref()).await?;
    let (watermark, _) = read_watermark(broker.as_ref()).await?;
    Ok(watermark.map(|watermark| Shared {
        installation,
        watermark,
    }))
}

fn is_up_to_date(head: &Head, shared: &Shared) -> bool {
    let has_the_name = shared.installation.is_none() || head.installation == shared.installation;
    has_the_name && head.watermark.as_ref() == Some(&shared.watermark)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Watermark {
        Watermark {
            at: DateTime::from_timestamp(1_795_401_000 + second, 0).unwrap(),
            next: None,
            beat: "b".to_owned(),
            set_back_from: None,
        }
    }

    #[test]
    fn a_copy_follows_what_is_newer_and_of_the_same_installation() {
        let kept = |name: Option<&str>, second: Option<i64>| Head {
            installation: name.map(str::to_owned),
            watermark: second.map(at),
        };
        for (kept, found, second, expected) in [
            (kept(None, None), Some("a"), 0, Next::Follow),
            (kept(Some("a"), Some(9)), Some("a"), 9, Next::Follow),
            (kept(Some("a"), Some(9)), Some("a"), 8, Next::Stay),
            (kept(None, Some(9)), Some("a"), 8, Next::Stay),
            (kept(Some("a"), Some(9)), None, 8, Next::Stay),
            (kept(Some("a"), Some(9)), None, 10, Next::Follow),
            (kept(Some("a"), Some(9)), Some("b"), 10, Next::SetAside),
            (kept(Some("a"), None), Some("b"), 10, Next::Follow),
            (
                kept(Some("a"), Some(9)),
                Some("imported-b"),
                8,
                Next::BeginAnew,
            ),
        ] {
            let shared = Shared {
                installation: found.map(str::to_owned),
                watermark: at(second),
            };
            assert_eq!(
                next(&kept, &shared, at(10).at),
                expected,
                "{kept:?} {shared:?}"
            );
        }
    }
}
