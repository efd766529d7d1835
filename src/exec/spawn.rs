//! Spawns children from threads that live as long as the executor. The only file with unsafe code.
//!
//! The parent-death signal fires when the *thread* that spawned ends, so neither tokio's blocking
//! threads nor any other passing thread may spawn.

use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, Command},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot},
};

use super::{ExecError, child};

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

#[derive(Debug)]
struct Request {
    command: Command,
    reply: oneshot::Sender<io::Result<Child>>,
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
    pub(super) async fn spawn(&self, command: Command) -> io::Result<Child> {
        let ended = || io::Error::other("the spawner threads have ended");
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(ended)?;
        let request = Request { command, reply };
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
        let Some(Request { mut command, reply }) = next else {
            return;
        };
        // Nobody may be waiting any more: then nobody else will end the child.
        if let Err(Ok(orphan)) = reply.send(spawn(&mut command)) {
            child::discard(orphan);
        }
    }
}

fn spawn(command: &mut Command) -> io::Result<Child> {
    let parent = getpid();
    command.process_group(0);
    bind_to_parent(command, parent);
    command.spawn()
}

/// Makes the child die with the thread that spawns it.
#[allow(
    unsafe_code,
    reason = "between fork and exec nothing but prctl and getppid is called: both are \
              async-signal-safe, allocate nothing and take no lock"
)]
fn bind_to_parent(command: &mut Command, parent: Pid) {
    // SAFETY: see the reason above.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above: then no signal will come.
            if getppid() == Some(parent) {
                Ok(())
            } else {
                Err(io::ErrorKind::Interrupted.into())
            }
        });
    }
}

/// Registers a descriptor of our own with the runtime.
#[allow(
    unsafe_code,
    reason = "tokio asks for a promise that an owned descriptor keeps: it stays open and the same \
              while it is registered"
)]
pub(super) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: see the reason above.
    unsafe {
        Ok(AsyncFd::register_with_interest(
            descriptor,
            Interest::READABLE,
        )?)
    }
}
