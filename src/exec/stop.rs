//! How a program is ended before its time.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Ends a program from outside: politely by its [`Kill`](crate::job::Kill) policy, or at once by SIGKILL.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    polite: CancellationToken,
    at_once: CancellationToken,
    pub(super) deadline: Arc<watch::Sender<Option<Duration>>>,
}

impl Stop {
    /// Ends the program by its kill policy.
    pub fn ask(&self) {
        self.polite.cancel();
    }

    /// Ends the program by SIGKILL.
    pub fn force(&self) {
        self.at_once.cancel();
    }

    /// Has the program killed at `deadline`, an [`clock::uptime`](crate::clock::uptime), even if this
    /// process is frozen then, unless a later deadline is set before. Needs a guardian.
    pub fn at(&self, deadline: Duration) {
        self.deadline.send_replace(Some(deadline));
    }

    /// The deadlines that [`Stop::at`] sets.
    pub fn deadlines(&self) -> watch::Receiver<Option<Duration>> {
        self.deadline.subscribe()
    }

    /// Returns once the program is to end, politely or not.
    pub async fn asked(&self) {
        tokio::select! {
            biased;
            () = self.polite.cancelled() => {}
            () = self.at_once.cancelled() => {}
        }
    }

    /// Returns once the program is to be killed.
    pub async fn forced(&self) {
        self.at_once.cancelled().await;
    }
}
