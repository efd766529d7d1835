//! Spawns children from threads that live as long as the executor.
//!
//! The parent-death signal fires when the *thread* that spawned ends, so neither tokio's blocking
//! threads nor any other passing thread may spawn.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    ExecError,
    cgroup::Cgroups,
    child,
    command::Prepared,
    start::{Spawned, start},
    tree::Tag,
};
use crate::{clock, job::ResourceLimits};

/// Spawns that may wait for a thread; whoever comes later waits for room.
const WAITING: usize = 64;

/// Threads at most: spawning is serialised by the kernel beyond a few.
const MAX_THREADS: usize = 8;

/// The spawner threads. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Spawners {
    requests: Option<mpsc::Sender<Request>>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// What is to be started.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) prepared: Prepared,
    pub(super) tag: Tag,
    /// Not at or after this [`clock::uptime`].
    pub(super) deadline: Option<Duration>,
    /// Where its control group is to be.
    pub(super) cgroups: Option<Arc<Cgroups>>,
    pub(super) limits: Option<ResourceLimits>,
}

impl Asked {
    fn start(&self) -> io::Result<Spawned> {
        if self
            .deadline
            .is_some_and(|deadline| clock::uptime() >= deadline)
        {
            return Err(io::Error::other(
                "its lease ran out before it could be started",
            ));
        }
        let group = self.cgroups.as_ref();
        let group = group.map(|cgroups| cgroups.group(self.tag, self.limits));
        let group = group.transpose().map_err(|error| {
            io::Error::other(format!("its control group cannot be made: {error}"))
        })?;
        start(&self.prepared, self.tag, group)
    }
}

#[derive(Debug)]
struct Request {
    asked: Asked,
    reply: oneshot::Sender<io::Result<Spawned>>,
}

impl Spawners {
    pub(super) fn start() -> Result<Self, ExecError> {
        let (requests, receiver) = mpsc::channel(WAITING);
        let receiver = Arc::new(Mutex::new(receiver));
        let count = thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS));
        let threads = (0..count)
            .map(|index| {
                let receiver = Arc::clone(&receiver);
                thread::Builder::new()
                    .name(format!("spawner-{index}"))
                    .spawn(move || serve(&receiver))
                    .map_err(ExecError::Thread)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            requests: Some(requests),
            threads,
        })
    }

    /// Starts the command as the leader of a process group of its own that dies with this process.
    pub(super) async fn spawn(&self, asked: Asked) -> io::Result<Spawned> {
        let ended = || io::Error::other("the spawner threads have ended");
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(ended)?;
        let request = Request { asked, reply };
        requests.send(request).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

impl Drop for Spawners {
    fn drop(&mut self) {
        self.requests = None;
        for thread in self.threads.drain(..) {
            // A spawner that panicked has nothing left to tell.
            let _ = thread.join();
        }
    }
}

fn serve(receiver: &Mutex<mpsc::Receiver<Request>>) {
    loop {
        let next = receiver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocking_recv();
        let Some(Request { asked, reply }) = next else {
            return;
        };
        // Nobody may be waiting any more: then nobody else will end the child.
        if let Err(Ok(orphan)) = reply.send(asked.start()) {
            child::discard(orphan);
        }
    }
}
