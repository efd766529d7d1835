//! Spawns children from threads that live as long as the executor.
//!
//! The parent-death signal fires when the *thread* that spawned ends, so neither tokio's blocking
//! threads nor any other passing thread may spawn.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    ExecError,
    cgroup::Cgroups,
    child,
    command::Prepared,
    start::{Failure, Spawned, Stack, start},
    tree::Tag,
};
use crate::{clock, job::ResourceLimits};

/// Threads at most: spawning is serialised by the kernel beyond a few.
const MAX_THREADS: usize = 8;

/// The spawner threads. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Spawners {
    requests: Arc<Requests>,
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
    fn start(&self, stack: &mut Stack) -> Result<Spawned, Failure> {
        if self
            .deadline
            .is_some_and(|deadline| clock::uptime() >= deadline)
        {
            let error = io::Error::other("its lease ran out before it could be started");
            return Err(error.into());
        }
        let group = self.cgroups.as_ref();
        let group = group.map(|cgroups| cgroups.group(self.tag, self.limits));
        let group = group.transpose().map_err(|error| {
            io::Error::other(format!("its control group cannot be made: {error}"))
        })?;
        start(&self.prepared, self.tag, group, stack)
    }
}

#[derive(Debug)]
struct Request {
    asked: Asked,
    reply: oneshot::Sender<Result<Spawned, Failure>>,
}

impl Spawners {
    pub(super) fn start() -> Result<Self, ExecError> {
        let requests = Arc::new(Requests::default());
        let count = thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS));
        let threads = (0..count)
            .map(|index| {
                let requests = Arc::clone(&requests);
                thread::Builder::new()
                    .name(format!("spawner-{index}"))
                    .spawn(move || serve(&requests))
                    .map_err(ExecError::Thread)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { requests, threads })
    }

    /// Starts the command as the leader of a process group of its own that dies with this process.
    pub(super) async fn spawn(&self, asked: Asked) -> Result<Spawned, Failure> {
        let (reply, answer) = oneshot::channel();
        self.requests.add(Request { asked, reply });
        answer
            .await
            .map_err(|_| io::Error::other("the spawner threads have ended"))?
    }
}

impl Drop for Spawners {
    fn drop(&mut self) {
        self.requests.close();
        for thread in self.threads.drain(..) {
            // A spawner that panicked has nothing left to tell.
            let _ = thread.join();
        }
    }
}

/// What waits for a thread: never more than is executed at once. One thread is woken for each.
#[derive(Debug, Default)]
struct Requests {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: VecDeque<Request>,
    is_closed: bool,
}

impl Requests {
    fn add(&self, request: Request) {
        self.waiting().requests.push_back(request);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.waiting().is_closed = true;
        self.changed.notify_all();
    }

    /// The next one; `None` once there will be none.
    fn next(&self) -> Option<Request> {
        let is_idle = |waiting: &mut Waiting| waiting.requests.is_empty() && !waiting.is_closed;
        let waiting = self.changed.wait_while(self.waiting(), is_idle);
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        waiting.requests.pop_front()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(requests: &Requests) {
    let mut stack = Stack::default();
    while let Some(Request { asked, reply }) = requests.next() {
        // Nobody may be waiting any more: then nobody else will end the child.
        if let Err(Ok(orphan)) = reply.send(asked.start(&mut stack)) {
            child::discard(orphan);
        }
    }
}
