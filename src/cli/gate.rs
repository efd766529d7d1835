//! What a worker lets in, from its options, and again on SIGHUP; that of `up` has a policy alone.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing::{info, warn};

use super::{CliError, Exit, schedules::show, signing::Trust};
use crate::{beat::ReloadCause, health::Pulse, run::WorkerPolicy, schedules, worker::Gate};

/// Options of workers that others can reach.
#[derive(Debug, Clone, Args)]
pub(super) struct GateArgs {
    #[command(flatten)]
    trust: Trust,

    #[command(flatten)]
    policy: PolicyArgs,
}

/// The rules of whatever executes.
#[derive(Debug, Clone, Args)]
pub(super) struct PolicyArgs {
    /// Execute only what the rules in this file allow; see docs/security.md. Read again on SIGHUP
    #[arg(long, env = "ORCHESTRATOR_POLICY", value_name = "FILE")]
    policy: Option<PathBuf>,
}

impl GateArgs {
    /// What jobs are told of it.
    pub(super) fn variable(&self) -> Option<(String, String)> {
        self.trust.variable()
    }

    /// Reads the files that the options name.
    pub(super) fn load(&self, url: &str) -> Result<Gate, CliError> {
        Ok(Gate {
            keys: self.trust.keys(url)?,
            ..self.policy.load()?
        })
    }

    /// Reads them again whenever that is asked for, and tells `pulse` how that ended. What cannot be read leaves
    /// everything as it was.
    pub(super) fn follow(
        self,
        url: String,
        gate: Gate,
        reload: (mpsc::Receiver<ReloadCause>, Pulse),
    ) -> (watch::Receiver<Arc<Gate>>, JoinHandle<()>) {
        let tell = |gate: &Gate| {
            tell_policy(gate);
            tell_keys(gate);
        };
        follow(gate, reload, tell, move || self.load(&url))
    }
}

impl PolicyArgs {
    /// Reads the file, if there is one.
    pub(super) fn load(&self) -> Result<Gate, CliError> {
        let policy = self.policy.as_deref().map(policy).transpose()?;
        Ok(Gate { keys: None, policy })
    }

    /// Reads it again whenever that is asked for. What cannot be read leaves everything as it was.
    pub(super) fn follow(
        self,
        gate: Gate,
        reload: (mpsc::Receiver<ReloadCause>, Pulse),
    ) -> (watch::Receiver<Arc<Gate>>, JoinHandle<()>) {
        if self.policy.is_none() {
            // There is nothing to read, and so no reload to tell of.
            tell_policy(&gate);
            return (watch::channel(Arc::new(gate)).1, tokio::spawn(async {}));
        }
        follow(gate, reload, tell_policy, move || self.load())
    }
}

fn follow(
    gate: Gate,
    (mut reload, pulse): (mpsc::Receiver<ReloadCause>, Pulse),
    tell: fn(&Gate),
    load: impl Fn() -> Result<Gate, CliError> + Send + 'static,
) -> (watch::Receiver<Arc<Gate>>, JoinHandle<()>) {
    tell(&gate);
    let (sender, receiver) = watch::channel(Arc::new(gate));
    let following = tokio::spawn(async move {
        while reload.recv().await.is_some() {
            match load() {
                Ok(gate) => {
                    let gate = Arc::new(gate);
                    sender.send_replace(Arc::clone(&gate));
                    tell(&gate);
                    pulse.has_reloaded(None);
                }
                Err(error) => {
                    warn!(target: "orchestrator::worker", %error,
                        "not reloaded: what was trusted and allowed before stays");
                    pulse.has_reloaded(Some(format!("not reloaded: {error}")));
                }
            }
        }
    });
    (receiver, following)
}

/// Findings are shown as those of schedules are.
fn policy(path: &Path) -> Result<WorkerPolicy, CliError> {
    schedules::load_policy(path).map_err(|error| {
        show(&error.diagnostics);
        let first = error.errors().next();
        let first = first.map(|first| match first.location() {
            Some(location) => format!("{location}: {}", first.message()),
            None => first.message().to_owned(),
        });
        CliError::new(
            Exit::Usage,
            format!("the policy: {}", first.unwrap_or_default()),
        )
    })
}

fn tell_policy(gate: &Gate) {
    match &gate.policy {
        Some(policy) => {
            info!(target: "orchestrator::worker", ?policy, "runs are executed that the policy allows");
        }
        None => info!(target: "orchestrator::worker",
            "no policy is in force: ORCHESTRATOR_POLICY or --policy names one"),
    }
}

fn tell_keys(gate: &Gate) {
    match &gate.keys {
        Some(keys) => {
            let ids: Vec<_> = keys.keys().map(|key| key.id().to_string()).collect();
            info!(target: "orchestrator::worker", keys = ids.join(" "),
                "runs that are signed by these keys are executed");
        }
        None => info!(target: "orchestrator::worker",
            "no keys are trusted: runs are executed unsigned"),
    }
}
