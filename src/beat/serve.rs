//! Stands by as long as another beat leads, and works while this one does.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    Beat, BeatError, BeatOptions, ReloadCause,
    copy::Copy,
    leader::{Candidate, Found, Term},
    newcomer::Newcomer,
    outage::{Outage, Who},
    reload::{self, Wanted},
};
use crate::{
    broker::{Revision, SharedBroker},
    plan::Vigil,
    schedules::JobSet,
};

/// How long to wait before a start is tried again during which another beat was at work.
const OVERTAKEN: Duration = Duration::from_millis(20);

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
    let newcomer = Newcomer::with(options.own.as_ref())?;
    let mut server = Server {
        candidate,
        newcomer,
        options: Arc::new(options),
        set,
        broken: None,
        outage: Outage::of(Who::StandsBy),
        has_worked: false,
    };
    while let Some(term) = server.stand_by(&mut reload, &stop).await? {
        server.lead(term, &mut reload, &stop).await?;
    }
    Ok(())
}

struct Server {
    candidate: Candidate,
    newcomer: Newcomer,
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

    async fn look(
        &mut self,
        vigil: &mut Vigil<Revision>,
        copy: &mut Copy,
    ) -> Result<Found, BeatError> {
        let Candidate {
            broker,
            beat,
            lease,
            ..
        } = &self.candidate;
        if self.newcomer.waits(broker, *lease).await? {
            return Ok(Found::StandingBy(None));
        }
        let found = self.candidate.stand(vigil).await?;
        if let (Found::StandingBy(_), Some(own)) = (&found, &self.options.own) {
            copy.bring_up_to_date((broker, beat), own).await?;
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
        self.newcomer.knows();
        self.outage.over();
        if let Some(broken) = self.broken.take() {
            beat.wanted = Some(broken);
        }
        (self.set, self.broken) = beat.run_for(&term, reload, stop).await;
        term.resign().await;
        Ok(())
    }
}
