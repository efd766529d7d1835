//! Leading among several beats: the key `leader` of the state bucket, written anew every third of a
//! lease. See [`crate::plan::Vigil`] for when another one may take over.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    BeatError, OwnState,
    herald::Failing,
    shared::{encode, read},
};
use crate::{
    broker::{Bucket, Cas, Durability, Revision, SharedBroker},
    clock,
    health::Pulse,
    job::Seconds,
    plan::{Candidacy, HeldUp, LEADER_KEY, Leader, Vigil},
};

/// Looks at the leader in the time of a lease.
const LOOKS: u32 = 6;
/// Renewals in the time of a lease.
const RENEWALS: u32 = 3;
/// Tries to give the lead away: a renewal whose answer nobody waited for may come between two of them.
const GIVEN_AWAY: u32 = 3;
/// A loop that has not come round for this long leads no more.
const STALLED: Duration = Duration::from_secs(120);

/// What a beat does that leads.
const AT_WORK: &str = "firing ticks";
const AT_WORK_ALONE: &str = "firing ticks; its own copy cannot be written, see the log";

/// Who stands for leader.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) broker: SharedBroker,
    pub(super) beat: String,
    pub(super) home: Option<String>,
    pub(super) lease: Duration,
    /// Others may work at the same time: the key only says that a beat is there.
    pub(super) is_one_of_many: bool,
    /// Where the beat says that it gets on.
    pub(super) pulse: Pulse,
}

/// What a candidate found.
#[derive(Debug)]
pub(super) enum Found {
    /// It leads.
    Leading(Term),
    /// Another one does, if it is known which.
    StandingBy(Option<String>),
}

/// The time for which this beat leads. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Term {
    shared: Arc<TermShared>,
    renewing: JoinHandle<()>,
}

#[derive(Debug)]
struct TermShared {
    candidate: Candidate,
    since: DateTime<Utc>,
    /// Somebody else leads.
    over: CancellationToken,
    /// Renew now.
    ask: Notify,
    revision: Mutex<Option<Revision>>,
    turned: Mutex<Instant>,
    /// Why the lead could not be renewed the last time.
    trouble: Mutex<Option<String>>,
    held_up: Mutex<Option<HeldUp>>,
    failing: Failing,
}

impl Candidate {
    /// How long to wait between two looks.
    pub(super) fn pause(&self) -> Duration {
        self.lease / LOOKS
    }

    /// Takes over if nobody leads.
    pub(super) async fn stand(&self, vigil: &mut Vigil<Revision>) -> Result<Found, BeatError> {
        let entry = self.broker.get(Bucket::State, LEADER_KEY).await?;
        let leader = entry.as_ref().and_then(read::<Leader>);
        let revision = entry.as_ref().map(|entry| entry.revision);
        let now = clock::uptime();
        let home = self.home.as_deref();
        let found = revision.map(|revision| (leader.as_ref(), revision));
        let before = leader.as_ref().and_then(|leader| leader.beat.clone());
        if vigil.look(found, home, self.lease, now) == Candidacy::StandBy {
            return Ok(Found::StandingBy(before));
        }
        let since = clock::now();
        let leading = self.leader(Some(&self.beat), since, clock::monotonic());
        match self.write(revision, &leading).await? {
            Cas::Done(revision) => {
                info!(target: "orchestrator::beat", beat = self.beat, before, "leading");
                Ok(Found::Leading(Term::begin(
                    self.clone(),
                    since,
                    Some(revision),
                    clock::monotonic(),
                )))
            }
            Cas::Conflict => Ok(Found::StandingBy(None)),
        }
    }

    /// Works whoever else does.
    pub(super) fn join(&self) -> Term {
        Term::begin(self.clone(), clock::now(), None, clock::monotonic())
    }

    fn leader(&self, beat: Option<&str>, since: DateTime<Utc>, turned: Instant) -> Leader {
        let now = clock::now();
        Leader {
            beat: beat.map(str::to_owned),
            home: self.home.clone(),
            since,
            renewed_at: now,
            // By the clock as it is now: a step of it since then is no standstill.
            turned_at: now - clock::monotonic().saturating_duration_since(turned),
            lease: Seconds::new(self.lease),
            held_up: None,
            failing_webhooks: Vec::new(),
        }
    }

    /// Writes that nobody leads, if the key still says that this beat does. Others that are at work write
    /// themselves down again.
    async fn give_away(&self, nobody: &Leader) -> Result<(), BeatError> {
        for _ in 0..GIVEN_AWAY {
            let entry = self.broker.get(Bucket::State, LEADER_KEY).await?;
            let is_own = |leader: Leader| leader.beat.as_ref() == Some(&self.beat);
            let own = entry.filter(|entry| read(entry).is_some_and(is_own));
            let Some(own) = own else {
                return Ok(());
            };
            if let Cas::Done(_) = self.write(Some(own.revision), nobody).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn write(&self, expected: Option<Revision>, leader: &Leader) -> Result<Cas, BeatError> {
        let value = encode(LEADER_KEY, leader)?;
        let write = self.broker.compare_and_set(
            Bucket::State,
            LEADER_KEY,
            expected,
            value,
            Durability::Crash,
        );
        Ok(write.await?)
    }
}

impl Term {
    fn begin(
        candidate: Candidate,
        since: DateTime<Utc>,
        revision: Option<Revision>,
        now: Instant,
    ) -> Self {
        let shared = Arc::new(TermShared {
            candidate,
            since,
            over: CancellationToken::new(),
            ask: Notify::new(),
            revision: Mutex::new(revision),
            turned: Mutex::new(now),
            trouble: Mutex::new(None),
            held_up: Mutex::new(None),
            failing: Failing::default(),
        });
        let renewing = tokio::spawn(clock::same(Arc::clone(&shared).renew_until_over()));
        Self { shared, renewing }
    }

    /// Cancelled when somebody else leads.
    pub(super) fn over(&self) -> &CancellationToken {
        &self.shared.over
    }

    /// Where it is noted which webhooks take no messages.
    pub(super) fn failing(&self) -> Failing {
        self.shared.failing.clone()
    }

    /// The beat's loop came round.
    pub(super) fn turned(&self) {
        *lock(&self.shared.turned) = clock::monotonic();
    }

    /// Its work could not be done.
    pub(super) fn is_held_up(&self, error: &BeatError) {
        let until = match error {
            BeatError::ClockBehind { until, .. } => Some(*until),
            _ => None,
        };
        let mut held_up = lock(&self.shared.held_up);
        if held_up.as_ref().is_none_or(|known| known.until != until) {
            *held_up = Some(HeldUp {
                since: clock::now(),
                until,
                reason: error.to_string(),
            });
            self.shared.ask.notify_one();
        }
    }

    /// Its work was done.
    pub(super) fn succeeded(&self, own: Option<&OwnState>) {
        *lock(&self.shared.held_up) = None;
        let pulse = &self.shared.candidate.pulse;
        match lock(&self.shared.trouble).clone() {
            // Nothing may have been due.
            Some(reason) => pulse.fails(reason),
            None if own.is_none_or(OwnState::is_kept) => pulse.is_well(AT_WORK),
            None => pulse.is_well(AT_WORK_ALONE),
        }
    }

    /// Somebody else seems to lead: find out.
    pub(super) fn doubt(&self) {
        self.shared.ask.notify_one();
    }

    /// Gives the lead away, so that another beat need not wait for the end of the lease, nor anybody for a heartbeat.
    pub(super) async fn resign(mut self) {
        self.renewing.abort();
        // It ended: by this, or because somebody else leads.
        let _ = (&mut self.renewing).await;
        let shared = &self.shared;
        if shared.over.is_cancelled() {
            return;
        }
        let turned = *lock(&shared.turned);
        let candidate = &shared.candidate;
        let nobody = candidate.leader(None, shared.since, turned);
        let patience = candidate.lease / RENEWALS;
        let given_away = timeout(patience, candidate.give_away(&nobody)).await;
        let error = match given_away {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the broker does not answer".to_owned(),
        };
        info!(target: "orchestrator::beat", error, "the lead ends with its lease");
    }
}

impl Drop for Term {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl TermShared {
    async fn renew_until_over(self: Arc<Self>) {
        let lease = self.candidate.lease;
        let mut silent = false;
        // One that leads has just written itself down.
        let mut pause = match self.candidate.is_one_of_many {
            true => Duration::ZERO,
            false => lease / RENEWALS,
        };
        loop {
            tokio::select! {
                biased;
                () = sleep(pause) => {}
                () = self.ask.notified() => {}
            }
            pause = lease / RENEWALS;
            let turned = *lock(&self.turned);
            let now = clock::monotonic();
            // A turn may take long, if very many runs are due at once.
            let silent_for = now
                .saturating_duration_since(turned)
                .min(self.candidate.pulse.silent_for(now));
            if silent_for > STALLED {
                if !silent {
                    warn!(target: "orchestrator::beat", ?silent_for,
                        "this beat does not get on: another one may take over");
                }
                silent = true;
                continue;
            }
            silent = false;
            // A broker that is away holds up everybody else too; the watermark is safe anyway.
            let renewed = timeout(lease, self.renew(turned)).await;
            match renewed {
                Ok(Ok(None)) => self.is_reached(),
                Ok(Ok(Some(leader))) => {
                    warn!(target: "orchestrator::beat", leader,
                        "another beat leads now: this one stands by");
                    self.over.cancel();
                    return;
                }
                Ok(Err(error)) => self.is_cut_off(error.to_string()),
                Err(_) => self.is_cut_off("the broker does not answer".to_owned()),
            }
        }
    }

    fn is_reached(&self) {
        if lock(&self.trouble).take().is_some() {
            self.candidate.pulse.is_held_up_no_more(AT_WORK);
        }
    }

    fn is_cut_off(&self, reason: String) {
        self.candidate.pulse.is_held_up(reason.clone());
        *lock(&self.trouble) = Some(reason);
    }

    /// Writes the key again; the name of the other one if somebody else did.
    async fn renew(&self, turned: Instant) -> Result<Option<String>, BeatError> {
        let candidate = &self.candidate;
        let mut leader = candidate.leader(Some(&candidate.beat), self.since, turned);
        leader.held_up.clone_from(&lock(&self.held_up));
        leader.failing_webhooks = self.failing.longest();
        if candidate.is_one_of_many {
            let value = encode(LEADER_KEY, &leader)?;
            candidate
                .broker
                .put(Bucket::State, LEADER_KEY, value)
                .await?;
            return Ok(None);
        }
        let expected = *lock(&self.revision);
        if let Cas::Done(revision) = candidate.write(expected, &leader).await? {
            *lock(&self.revision) = Some(revision);
            return Ok(None);
        }
        let entry = candidate.broker.get(Bucket::State, LEADER_KEY).await?;
        let found = entry.as_ref().map(|entry| entry.revision);
        let other = entry.as_ref().and_then(read::<Leader>);
        if let Some(other) = other
            && other.beat.as_ref() != Some(&candidate.beat)
        {
            return Ok(Some(other.beat.unwrap_or_else(|| "nobody".to_owned())));
        }
        // An answer was lost, the broker was wiped, or what is there was written by no beat.
        if let Cas::Done(revision) = candidate.write(found, &leader).await? {
            *lock(&self.revision) = Some(revision);
        }
        Ok(None)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
