//! Executes one attempt as a child process (environment, process group, output, timeout, result), or as a
//! request over HTTP.
//!
//! Owns the child from `fork` to the end of the last process that came of it, and the files it is
//! given.
//! Knows nothing of brokers, leases or records: it is handed a [`Program`], [`Limits`], a place for
//! [`Output`] and a [`Stop`], and tells how the program ended. Never fails because of what a
//! program does: what cannot be started is [`Exit::NotStarted`], what cannot be read is a remark in
//! the output.

mod cgroup;
mod child;
mod command;
mod environment;
mod fetch;
mod guardian;
mod held;
mod http;
mod in_time;
mod located;
mod memory;
mod output;
mod ping;
mod player;
mod private;
mod pump;
mod result;
mod ring;
mod secrets;
mod spawn;
mod start;
mod stop;
mod tree;
mod unstarted;
mod user;
mod webhook;

use std::{
    convert::Infallible,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use thiserror::Error;
use tokio_util::sync::CancellationToken;

pub use cgroup::Cgroup;
pub use command::{Confinement, Program, Streams};
pub use environment::RunContext;
pub use fetch::fetch;
pub use guardian::guard;
pub use http::Prepared as PreparedRequest;
pub use in_time::{PATIENCE, in_time};
pub use located::Located;
pub use output::Output;
pub use ping::{Event as PingEvent, Pings};
pub use player::{Idle, Player};
pub use private::keep_to_itself;
pub use secrets::{Redactor, Secrets};
pub use stop::Stop;
pub use tree::Family;
pub use user::{cannot_run_as, own_user};
pub use webhook::{WebhookError, WebhookSender};

use crate::{
    job::{Kill, ResourceLimits, Seconds},
    run::Exit,
};
use cgroup::Cgroups;
use child::Running;
use guardian::Guardian;
use result::{ResultFile, Scratch};
use spawn::{Asked, Spawners};
use tree::{Lineage, Tag};
use user::{NoUser, RunAs};

/// How long pipes may stay open after all that is known to have come of the program has ended: whoever
/// still holds them is beyond the worker's rights.
const PIPES_AFTER_END: Duration = Duration::from_millis(500);

/// How often what nobody asks for is looked at.
const TEND_EVERY: Duration = Duration::from_secs(1);

/// Starts programs. Cheap to clone; the threads behind it end with the last clone.
#[derive(Debug, Clone)]
pub struct Executor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spawners: Spawners,
    scratch: Scratch,
    clients: http::Clients,
    /// Why there are none, if there are none.
    cgroups: Result<Arc<Cgroups>, String>,
    guardian: Option<Mutex<Guardian>>,
}

/// Why an executor could not be set up.
#[derive(Debug, Error)]
pub enum ExecError {
    /// No private directory for result files.
    #[error(
        "cannot create the directory {path} for result files: {source}; set TMPDIR to a writable directory"
    )]
    Scratch {
        /// What was to be created.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// No guardian.
    #[error(
        "cannot start {path} as the guardian of this worker's jobs: {source}; it must be executable"
    )]
    Guardian {
        /// What was to be started.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The control group that was asked for cannot be used.
    #[error(
        "no control groups can be made for jobs: {0}; name a group of version 2 that belongs to this user, or leave it to `auto`"
    )]
    Cgroup(String),
    /// No thread.
    #[error("cannot start a thread that spawns jobs: {0}")]
    Thread(io::Error),
}

/// When and how a program is ended before its time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// It is ended when it takes longer.
    pub timeout: Option<Seconds>,
    /// How it is ended.
    pub kill: Kill,
    /// What it may use up.
    pub resources: Option<ResourceLimits>,
}

/// Why a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, or it was never started.
    ByItself,
    /// Its timeout was over.
    TimedOut,
    /// By [`Stop`].
    Stopped,
}

/// What became of a program.
#[derive(Debug, Clone, PartialEq)]
pub struct Execution {
    /// Why it ended.
    pub ended: Ended,
    /// How it ended.
    pub exit: Exit,
    /// The JSON that it left in its result file.
    pub result: Option<serde_json::Value>,
}

impl Executor {
    /// Starts the threads that spawn, and makes the private directory for result files. Makes this
    /// process adopt the orphans of its jobs.
    ///
    /// `guardian` is an executable that calls [`guard`] when it is started with the arguments
    /// `guardian FAMILY [GROUP]`; without it, daemons of a job outlive this process if it is killed.
    pub fn start(guardian: Option<&Path>, cgroup: &Cgroup) -> Result<Self, ExecError> {
        tree::adopt_orphans();
        let cgroups = Cgroups::open(cgroup)?;
        let group = cgroups.as_ref().ok().map(|own| own.directory());
        let guardian = guardian.map(|path| {
            Guardian::start(path, group).map_err(|source| ExecError::Guardian {
                path: path.display().to_string(),
                source,
            })
        });
        Ok(Self {
            inner: Arc::new(Inner {
                spawners: Spawners::start()?,
                scratch: Scratch::create()?,
                clients: http::Clients::default(),
                guardian: guardian.transpose()?.map(Mutex::new),
                cgroups,
            }),
        })
    }

    /// Ends daemons that were left behind when an execution was abandoned, and keeps the guardian
    /// running. Never returns.
    pub async fn tend(&self) {
        loop {
            tokio::time::sleep(TEND_EVERY).await;
            tree::end_unwanted();
            memory::look();
            if let Ok(cgroups) = &self.inner.cgroups {
                cgroups.tend();
            }
            if let Some(guardian) = &self.inner.guardian {
                lock(guardian).keep();
            }
        }
    }

    /// Executes a program to its end. Returns after the last process that came of it was killed;
    /// dropping the future kills them too.
    ///
    /// A result that is not JSON or is larger than 64 KiB is left out with a remark in the output:
    /// the program did its work, and its exit code tells whether it succeeded.
    pub async fn execute(
        &self,
        program: Program,
        limits: Limits,
        output: &Output,
        stop: &Stop,
    ) -> Execution {
        let begun = self.begin(&program, limits.resources, stop).await;
        let (file, mut running, told) = match begun {
            Ok(begun) => begun,
            Err(reason) => {
                output.remark(&reason);
                return Execution {
                    ended: Ended::ByItself,
                    exit: Exit::NotStarted(reason),
                    result: None,
                };
            }
        };
        let gone = CancellationToken::new();
        let pipes = running.take_pipes();
        let supervised = async {
            let tag = running.tag();
            // Until the last of its processes has ended.
            let _told = told;
            let end = tokio::select! {
                end = child::supervise(running, limits, output, stop) => end,
                never = self.inner.tell_deadlines(tag, stop) => match never {},
            };
            gone.cancel();
            end
        };
        let drained = async {
            tokio::select! {
                () = pump::drain(pipes, output) => {}
                () = after(&gone, PIPES_AFTER_END) => {
                    output.remark("a process that cannot be ended still holds the job's output; it is no longer read");
                }
            }
        };
        let ((ended, exit), ()) = tokio::join!(supervised, drained);
        output.finish();
        let result = file.read().unwrap_or_else(|remark| {
            output.remark(&remark.to_string());
            None
        });
        Execution {
            ended,
            exit,
            result,
        }
    }

    /// Sends a request, to the end of its answer; dropping the future breaks it off.
    pub async fn request(
        &self,
        prepared: PreparedRequest,
        limits: Limits,
        output: &Output,
        stop: &Stop,
    ) -> Execution {
        let execution = http::request(&self.inner.clients, prepared, limits, output, stop).await;
        output.finish();
        execution
    }

    /// Starts a program with all that it is given, as the user that it names.
    async fn begin(
        &self,
        program: &Program,
        limits: Option<ResourceLimits>,
        stop: &Stop,
    ) -> Result<(ResultFile, Running, Option<Told>), String> {
        if let Some(reason) = limits.and_then(|limits| self.inner.lacks(limits)) {
            return Err(reason);
        }
        let user = match &program.run_as {
            Some(name) => Some(user::find(name).await.map_err(NoUser::reason)?),
            None => None,
        };
        let user = user.as_ref();
        let file = self.result_file(user)?;
        let prepared = program.prepared(file.path(), user)?;
        let lineage = Lineage::begin();
        // Told before there is anything to kill: this process may stand still right after.
        let deadline = *stop.deadline.borrow();
        let told = self.inner.tell(lineage.tag(), deadline);
        let asked = Asked {
            prepared,
            tag: lineage.tag(),
            deadline,
            cgroups: self.inner.cgroups.as_ref().ok().map(Arc::clone),
            limits,
        };
        let child = self.inner.spawners.spawn(asked).await;
        let child = child.map_err(|failure| program.not_started(&failure))?;
        let mut running = Running::adopt(child, lineage).map_err(|error| {
            format!("the job was started but cannot be watched: {error}; pidfd_open (Linux 5.3) must be permitted")
        })?;
        let executed = running.executed(stop).await;
        executed.map_err(|failure| program.not_started(&failure))?;
        match user {
            // Dropped, and so killed.
            Some(user) if !running.is_in_sight() => Err(user.out_of_sight()),
            Some(_) | None => Ok((file, running, told)),
        }
    }

    fn result_file(&self, user: Option<&RunAs>) -> Result<ResultFile, String> {
        let owner = user.and_then(|user| Some((user, user.identity.owner()?)));
        let Some((RunAs { name, .. }, owner)) = owner else {
            return Ok(self.inner.scratch.file());
        };
        let made = self.inner.scratch.file_of(owner);
        made.map_err(|error| {
            format!("no file for the result of a job of the user `{name}` can be made: {error}; set TMPDIR to a writable directory")
        })
    }
}

impl Inner {
    /// Why a job with these limits cannot be executed here.
    fn lacks(&self, limits: ResourceLimits) -> Option<String> {
        let reason = match &self.cgroups {
            Ok(cgroups) => cgroups.lacks(limits)?,
            Err(reason) => reason.clone(),
        };
        Some(format!(
            "this worker cannot keep the job within its `limits`: {reason}; have memory, cpu and pids delegated to the worker, name a control group with --cgroup, or remove `limits`"
        ))
    }

    /// Passes on until when the processes of a run may live.
    async fn tell_deadlines(&self, tag: Tag, stop: &Stop) -> Infallible {
        let mut deadline = stop.deadline.subscribe();
        deadline.mark_changed();
        while let Some(guardian) = &self.guardian
            && deadline.changed().await.is_ok()
        {
            let until = *deadline.borrow_and_update();
            if until.is_some() {
                lock(guardian).tell(tag, until);
            }
        }
        std::future::pending().await
    }

    /// Tells the guardian of a deadline; it forgets it when the returned value is dropped.
    fn tell(self: &Arc<Self>, tag: Tag, deadline: Option<Duration>) -> Option<Told> {
        let (guardian, deadline) = (self.guardian.as_ref()?, deadline?);
        lock(guardian).tell(tag, Some(deadline));
        let inner = Arc::clone(self);
        Some(Told { inner, tag })
    }
}

/// A deadline that the guardian knows of.
#[derive(Debug)]
struct Told {
    inner: Arc<Inner>,
    tag: Tag,
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(guardian) = &self.inner.guardian {
            lock(guardian).tell(self.tag, None);
        }
    }
}

fn lock(guardian: &Mutex<Guardian>) -> MutexGuard<'_, Guardian> {
    guardian.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn after(gone: &CancellationToken, delay: Duration) {
    gone.cancelled().await;
    tokio::time::sleep(delay).await;
}
