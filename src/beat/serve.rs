//! Stands by as long as another beat leads, and works while this one does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{
    Beat, BeatError, BeatOptions, OwnState, ReloadCause,
    leader::{Candidate, Found, Term},
    others::Others,
    outage::Outage,
    own::Readiness,
    reload::{self, Wanted},
    shared::{read_job, read_watermark},
};
use crate::{
    broker::{Bucket, Change, Changes, Revision, SharedBroker},
    clock,
    job::JobName,
    plan::{JOB_STATE_PREFIX, JobState, Vigil, Watermark},
    schedules::JobSet,
};

/// How long to wait before a start is tried again during which another beat was at work.
const OVERTAKEN: Duration = Duration::from_millis(20);
/// How often at most a beat that stands by brings its own copy up to date.
const COPY_EVERY: Duration = Duration::from_secs(1);

/// Fires the ticks of `set` until `stop`, as long as no other beat does. Reloads the schedules whenever
/// `reload` says so.
///
/// # Errors
/// What goes wrong at the start; later on it is told, and tried again.
pub async fn serve(
    broker: SharedBroker,
    options: BeatOptions,
    set: JobSet,
    mut reload: mpsc::Receiver<ReloadCause>,
    stop: CancellationToken,
) -> Result<(), BeatError> {
    let Some(lease) = options.leader_lease else {
        let options = Arc::new(options);
        let beat = loop {
            let start = Beat::start_shared(Arc::clone(&broker), Arc::clone(&options), set.clone());
            match start.await {
                // Somebody is at work: begin from where it is now.
                Err(BeatError::Overtaken) if !stop.is_cancelled() => sleep(OVERTAKEN).await,
                started => break started?,
            }
        };
        beat.run(&mut reload, &stop).await;
        return Ok(());
    };
    let home = match &options.own {
        Some(own) => own.home().await?,
        None => None,
    };
    let candidate = Candidate {
        broker,
        beat: options.id.clone(),
        home,
        lease,
        is_one_of_many: false,
        pulse: options.pulse.clone(),
    };
    let mut server = Server {
        candidate,
        options: Arc::new(options),
        set,
        broken: None,
        outage: Outage::default(),
        has_worked: false,
    };
    while let Some(term) = server.stand_by(&mut reload, &stop).await? {
        server.lead(term, &mut reload, &stop).await?;
    }
    Ok(())
}

struct Server {
    candidate: Candidate,
    options: Arc<BeatOptions>,
    /// The jobs that were read last without an error.
    set: JobSet,
    /// What was read since, with errors.
    broken: Option<Wanted>,
    outage: Outage,
    /// Whether the broker was reached before: from then on nothing ends this service.
    has_worked: bool,
}

impl Server {
    /// Returns as soon as this beat leads; `None`: it is to stop.
    async fn stand_by(
        &mut self,
        reload: &mut mpsc::Receiver<ReloadCause>,
        stop: &CancellationToken,
    ) -> Result<Option<Term>, BeatError> {
        let mut vigil = Vigil::<Revision>::default();
        let mut copy = Copy::default();
        let mut told = None;
        while !stop.is_cancelled() {
            let pause = match self.look(&mut vigil, &mut copy).await {
                Ok(Found::Leading(term)) => return Ok(Some(term)),
                Ok(Found::StandingBy(leader)) => {
                    self.options.pulse.is_well("standing by");
                    self.outage.over();
                    if leader.is_some() && told != leader {
                        info!(target: "orchestrator::beat", leader, "standing by");
                        told = leader;
                    }
                    self.candidate.pause()
                }
                Err(error) if !self.has_worked => return Err(error),
                Err(error) => {
                    self.options.pulse.fails(error.to_string());
                    self.outage.goes_on(&error).max(self.candidate.pause())
                }
            };
            self.has_worked = true;
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                Some(cause) = reload.recv() => self.read_again(cause).await,
                () = sleep(pause) => {}
            }
        }
        Ok(None)
    }

    async fn look(&self, vigil: &mut Vigil<Revision>, copy: &mut Copy) -> Result<Found, BeatError> {
        let found = self.candidate.stand(vigil).await?;
        if let (Found::StandingBy(_), Some(own)) = (&found, &self.options.own) {
            copy.bring_up_to_date(&self.candidate.broker, own).await?;
        }
        Ok(found)
    }

    async fn read_again(&mut self, cause: ReloadCause) {
        let Some(read) = reload::read(&self.options, cause).await else {
            return;
        };
        match read.set.clone() {
            Some(set) => {
                info!(target: "orchestrator::beat", ?cause, jobs = set.len(),
                    "schedules read again; in force when this beat leads");
                self.set = set;
                self.broken = None;
            }
            None => self.broken = Some(read),
        }
    }

    /// Works as long as nobody else leads.
    async fn lead(
        &mut self,
        term: Term,
        reload: &mut mpsc::Receiver<ReloadCause>,
        stop: &CancellationToken,
    ) -> Result<(), BeatError> {
        let broker = Arc::clone(&self.candidate.broker);
        let options = Arc::clone(&self.options);
        let start = Beat::start_shared(broker, options, self.set.clone());
        let mut beat = match start.await {
            Ok(beat) => beat,
            Err(error) if !self.has_worked => {
                term.resign().await;
                return Err(error);
            }
            Err(error) => {
                let pause = self.outage.goes_on(&error);
                term.resign().await;
                sleep(pause).await;
                return Ok(());
            }
        };
        self.has_worked = true;
        self.outage.over();
        if let Some(broken) = self.broken.take() {
            beat.wanted = Some(broken);
        }
        (self.set, self.broken) = beat.run_for(&term, reload, stop).await;
        term.resign().await;
        Ok(())
    }
}

/// The own copy of a beat that stands by.
#[derive(Default)]
struct Copy {
    kept: Option<Watermark>,
    kept_at: Option<std::time::Instant>,
    /// Of the states of jobs, and of what others write.
    watched: Option<(Changes, Changes)>,
    changed: BTreeMap<JobName, Option<JobState>>,
    /// As far as it was read from the own copy.
    others: Option<Others>,
}

impl Copy {
    /// Follows what the leader shares, so that this beat can restore it should the broker lose it.
    async fn bring_up_to_date(
        &mut self,
        broker: &SharedBroker,
        own: &OwnState,
    ) -> Result<(), BeatError> {
        let now = clock::monotonic();
        if self.kept_at.is_some_and(|at| now - at < COPY_EVERY) {
            return Ok(());
        }
        let (Some(watermark), _) = read_watermark(broker.as_ref()).await? else {
            return Ok(());
        };
        if self.kept.as_ref() == Some(&watermark) {
            return Ok(());
        }
        let mut others = match self.others.take() {
            Some(others) => others,
            None => own.others()?,
        };
        let written = self.write(broker, own, (&watermark, &mut others)).await;
        self.others = Some(others);
        if written? {
            self.kept = Some(watermark);
            self.kept_at = Some(now);
        }
        Ok(())
    }

    /// Whether the own copy is up to date.
    async fn write(
        &mut self,
        broker: &SharedBroker,
        own: &OwnState,
        (watermark, others): (&Watermark, &mut Others),
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
        let changed = self.changed.iter();
        let changed = changed.map(|(name, state)| (name, state.as_ref()));
        if !own.keep(watermark, None, changed, others).await {
            return Ok(false);
        }
        debug!(target: "orchestrator::beat", at = %watermark.at, changed = self.changed.len(),
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
