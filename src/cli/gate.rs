//! What a worker lets in, from its options, and again on SIGHUP.

use std::sync::Arc;

use clap::Args;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing::{info, warn};

use super::{CliError, signing::Trust};
use crate::{beat::ReloadCause, worker::Gate};

/// Options of workers that others can reach.
#[derive(Debug, Clone, Args)]
pub(super) struct GateArgs {
    #[command(flatten)]
    trust: Trust,
}

impl GateArgs {
    /// Reads the files that the options name.
    pub(super) fn load(&self, url: &str) -> Result<Gate, CliError> {
        Ok(Gate {
            keys: self.trust.keys(url)?,
        })
    }

    /// Reads them again whenever that is asked for. What cannot be read leaves everything as it was.
    pub(super) fn follow(
        self,
        url: String,
        gate: Gate,
        mut reload: mpsc::Receiver<ReloadCause>,
    ) -> (watch::Receiver<Arc<Gate>>, JoinHandle<()>) {
        tell(&gate);
        let (sender, receiver) = watch::channel(Arc::new(gate));
        let following = tokio::spawn(async move {
            while reload.recv().await.is_some() {
                match self.load(&url) {
                    Ok(gate) => {
                        tell(&gate);
                        sender.send_replace(Arc::new(gate));
                    }
                    Err(error) => warn!(target: "orchestrator::worker", %error,
                        "not reloaded: what was trusted and allowed before stays"),
                }
            }
        });
        (receiver, following)
    }
}

fn tell(gate: &Gate) {
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
