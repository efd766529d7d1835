//! What the services share: signals, schedules at the start, the watch on the files.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{CliError, Exit};
use crate::{
    beat::ReloadCause,
    health::{self, Health, Pulse},
    manager, schedules,
};

/// How a service is asked to end.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop {
    /// How the loops of this process are.
    health: Health,
    /// Take nothing new, let what is running end.
    pub(super) drain: CancellationToken,
    /// Do not wait for anything any more.
    pub(super) at_once: CancellationToken,
}

/// Follows the signals: SIGTERM and SIGINT drain, a second one ends at once, SIGHUP has each of these reload.
pub(super) fn follow_signals<const N: usize>(
    reload: [mpsc::Sender<ReloadCause>; N],
) -> Result<Stop, CliError> {
    let stop = Stop::default();
    manager::follow(&stop.health);
    let told = stop.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = received(&mut terminate) => told.ask("SIGTERM"),
                () = received(&mut interrupt) => told.ask("SIGINT"),
                () = received(&mut hang_up) => {
                    told.health.reloads();
                    for reload in &reload {
                        // Full: a reload is due anyway.
                        let _ = reload.try_send(ReloadCause::Signal);
                    }
                },
                () = told.at_once.cancelled() => return,
            }
        }
    });
    Ok(stop)
}

async fn received(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

impl Stop {
    /// Everything ends now.
    pub(super) fn ends(&self) {
        self.health.drains();
        self.drain.cancel();
        self.at_once.cancel();
    }

    fn ask(&self, signal: &str) {
        if self.drain.is_cancelled() {
            warn!(target: "orchestrator::service", signal, "ending at once");
            self.at_once.cancel();
        } else {
            info!(target: "orchestrator::service", signal, "draining; a second signal ends at once");
            self.health.drains();
            self.drain.cancel();
        }
    }
}

/// Asks for a reload whenever the files change, until `stop`.
pub(super) fn watch_schedules(
    sources: &[PathBuf],
    reload: mpsc::Sender<ReloadCause>,
    stop: CancellationToken,
) -> Option<JoinHandle<()>> {
    let mut watch = match schedules::watch(sources) {
        Ok(watch) => watch,
        Err(error) => {
            warn!(target: "orchestrator::beat", %error,
                "file changes are not noticed; send SIGHUP to reload");
            return None;
        }
    };
    Some(tokio::spawn(async move {
        loop {
            tokio::select! {
                () = watch.changed() => {}
                () = stop.cancelled() => return,
            }
            // Closed: beat has ended.
            if reload.send(ReloadCause::FilesChanged).await.is_err() {
                return;
            }
        }
    }))
}

/// Where `/livez` and `/readyz` are answered.
#[derive(Debug, Args)]
pub(super) struct Listen {
    /// Answer `/livez` and `/readyz` over HTTP here, for probes
    #[arg(long, env = "ORCHESTRATOR_LISTEN", value_name = "HOST:PORT")]
    listen: Option<SocketAddr>,
}

impl Listen {
    /// Starts answering for these loops, if that is wanted, until everything is to end.
    pub(super) async fn start<const N: usize>(
        &self,
        loops: [&'static str; N],
        stop: &Stop,
    ) -> Result<[Pulse; N], CliError> {
        let health = &stop.health;
        let pulses = loops.map(|name| health.part(name));
        if let Some(address) = self.listen {
            let listening = health::listen(address, health.clone(), stop.at_once.clone());
            let bound = listening.await.map_err(|error| {
                let message = format!("cannot listen at {address}: {error}");
                CliError::new(Exit::Failed, message).with_help("choose another with --listen")
            })?;
            info!(target: "orchestrator::service", %bound, "answering /livez and /readyz");
        }
        Ok(pulses)
    }
}

/// Distinguishes this process from every other one, on any machine: `HOST-PID-RANDOM`.
pub(super) fn instance_id() -> String {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' {
            c
        } else {
            '-'
        }
    };
    let host: String = host.chars().take(40).map(plain).collect();
    let random = uuid::Uuid::new_v4().simple().to_string();
    let random = random.get(..4).unwrap_or_default();
    format!("{host}-{}-{random}", std::process::id())
}
