//! Watches one child and ends it with all that came of it: in time, by timeout or on request.

use std::{
    collections::HashSet,
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::ExitStatus,
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, test_kill_process_group},
};
use tokio::io::unix::AsyncFd;

use super::{
    Ended, Limits, Output, Stop,
    cgroup::Group,
    memory,
    pump::Pipes,
    start::{self, Failure, Spawned},
    tree::{self, Lineage, Tag},
};
use crate::{
    job::{Kill, SignalName},
    run::Exit,
};

/// How long a child of another user has to execute its program.
const PATIENCE: Duration = Duration::from_secs(30);

/// A child with its process group and its daemons. Dropping it kills the group; the daemons follow
/// within a second or two.
#[derive(Debug)]
pub(super) struct Running {
    child: Spawned,
    group: Pid,
    /// Everybody who came of it, if there are control groups.
    cgroup: Option<Group>,
    /// Readable once the child has ended, before it is reaped: until then its id, and so that of
    /// its group, cannot be given to another process.
    pidfd: AsyncFd<OwnedFd>,
    lineage: Lineage,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The child was not reaped yet.
    Alive,
    /// The child was reaped; members of its group may be alive.
    Reaped,
    /// The group was killed too.
    Over,
}

impl Running {
    pub(super) fn adopt(mut child: Spawned, lineage: Lineage) -> io::Result<Self> {
        let watch = |child: &Spawned| {
            let group = child.pid();
            let pidfd = pidfd_open(group, PidfdFlags::empty())?;
            Ok((group, start::watch(pidfd)?))
        };
        match watch(&child) {
            Ok((group, pidfd)) => Ok(Self {
                cgroup: child.group.take(),
                child,
                group,
                pidfd,
                lineage,
                state: State::Alive,
            }),
            Err(error) => {
                discard(child);
                Err(error)
            }
        }
    }

    /// Waits until its program is executed, or it is to end before. Whoever may stop the child of another user could hold it
    /// there: no thread waits for it, and not for ever.
    pub(super) async fn executed(&mut self, stop: &Stop) -> Result<(), Failure> {
        let Some(told) = self.child.told.take() else {
            return Ok(());
        };
        tokio::select! {
            biased;
            heard = start::heard(told) => heard,
            () = stop.asked() => Ok(()),
            () = tokio::time::sleep(PATIENCE) => Err(io::Error::other(format!(
                "it was not executed within {PATIENCE:?}; is it being stopped, or does its directory not answer?"
            )).into()),
        }
    }

    /// Whether all that comes of it can be found, so that it can be ended.
    pub(super) fn is_in_sight(&self) -> bool {
        self.cgroup.is_some() || tree::is_seen(self.group)
    }

    pub(super) fn tag(&self) -> Tag {
        self.lineage.tag()
    }

    pub(super) fn take_pipes(&mut self) -> Pipes {
        Pipes {
            stdout: self.child.stdout.take(),
            stderr: self.child.stderr.take(),
        }
    }

    async fn ended(&self) {
        if self.pidfd.readable().await.is_err() {
            // The runtime is going down, and will drop this future.
            std::future::pending().await
        }
    }

    /// Kills what is left of the group, then takes the child's exit status. Does not block if the
    /// child has ended.
    fn reap(&mut self) -> Exit {
        signal_group(self.group, Signal::KILL);
        let exit = self.take_status();
        self.state = State::Over;
        exit
    }

    fn take_status(&mut self) -> Exit {
        self.state = State::Reaped;
        match self.child.wait() {
            Ok(status) => exit_of(status),
            Err(error) => Exit::NotStarted(format!(
                "its exit status was lost: {error}; SIGCHLD must not be ignored"
            )),
        }
    }

    /// Ends the group by `kill`, or at once when `stop` is forced.
    async fn end(mut self, kill: Kill, stop: &Stop) -> Exit {
        signal_group(self.group, number(kill.signal));
        let polite = tokio::time::timeout(kill.grace.get(), async {
            self.ended().await;
            // Members of the group have the same grace as its leader.
            let exit = self.take_status();
            self.others_end(number(kill.signal)).await;
            exit
        });
        tokio::select! {
            biased;
            () = stop.forced() => {}
            ended = polite => if let Ok(exit) = ended {
                self.state = State::Over;
                return exit;
            }
        }
        signal_group(self.group, Signal::KILL);
        self.ended().await;
        self.clear().await;
        // If only members of the group outlived the grace, the child was reaped before: its status
        // is still there.
        self.reap()
    }

    async fn clear(&mut self) {
        self.lineage.clear(self.cgroup.as_mut()).await;
    }

    /// Waits for those that came of the child. Daemons, which the signal to the group did not reach,
    /// are sent it as they become orphans.
    async fn others_end(&self, signal: Signal) {
        let mut told = HashSet::new();
        loop {
            // Looking for daemons also reaps the orphans of the group.
            let strays = self.lineage.strays();
            if strays.is_empty() && test_kill_process_group(self.group).is_err() {
                return;
            }
            for stray in strays {
                if told.insert(stray) {
                    tree::signal(stray, signal);
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// How often those that have the rest of the grace are looked at.
const POLL: Duration = Duration::from_millis(20);

impl Drop for Running {
    fn drop(&mut self) {
        match self.state {
            State::Alive => {
                self.reap();
            }
            State::Reaped => signal_group(self.group, Signal::KILL),
            State::Over => {}
        }
    }
}

/// Waits for the end of the child, ends it when its time is over or somebody asks for it, and
/// leaves nobody that came of it.
pub(super) async fn supervise(
    mut running: Running,
    limits: Limits,
    output: &Output,
    stop: &Stop,
) -> (Ended, Exit) {
    let ended = tokio::select! {
        biased;
        () = running.ended() => Ended::ByItself,
        () = stop.asked() => Ended::Stopped,
        () = elapsed(limits) => Ended::TimedOut,
    };
    if ended == Ended::ByItself {
        let exit = explained(running.reap(), running.cgroup.as_ref(), output);
        running.clear().await;
        return (ended, exit);
    }
    let Kill { signal, grace } = limits.kill;
    if let (Ended::TimedOut, Some(timeout)) = (ended, limits.timeout) {
        output.remark(&format!(
            "not ended after {timeout}: {signal} to its process group, SIGKILL {grace} later"
        ));
    }
    (ended, running.end(limits.kill, stop).await)
}

/// Says what the kernel had to do with the end of a child that was not asked to end.
fn explained(exit: Exit, group: Option<&Group>, output: &Output) -> Exit {
    /// The number of the signal by which the kernel makes room.
    const SIGKILL: i32 = 9;
    if exit == Exit::Code(0) {
        return exit;
    }
    if let Some(pids) = group.and_then(Group::wanted_more_pids) {
        output.remark(&format!(
            "it wanted more than the {pids} processes of its `limits`"
        ));
    }
    match group {
        Some(group) if group.ran_out_of_memory() => Exit::OutOfMemory(group.memory()),
        _ if exit == Exit::Signal(SIGKILL) => {
            output.remark(match memory::has_been_short() {
                true => "killed by SIGKILL within seconds of the kernel killing a process for lack of memory",
                false => "killed by SIGKILL, which was not sent by this worker",
            });
            exit
        }
        _ => exit,
    }
}

/// Kills and reaps a child that nobody will watch.
pub(super) fn discard(mut child: Spawned) {
    signal_group(child.pid(), Signal::KILL);
    // The signal ends it; there is nobody to tell how.
    let _ = child.wait();
}

async fn elapsed(limits: Limits) {
    match limits.timeout {
        Some(timeout) => tokio::time::sleep(timeout.get()).await,
        None => std::future::pending().await,
    }
}

fn signal_group(group: Pid, signal: Signal) {
    match kill_process_group(group, signal) {
        // ESRCH: everybody has gone, which is what was wanted. EPERM: only members that changed
        // their user are left, who are beyond the worker's rights.
        Ok(()) | Err(Errno::SRCH | Errno::PERM) => {}
        Err(error) => tracing::warn!(%error, "cannot signal a job's process group"),
    }
}

fn number(name: SignalName) -> Signal {
    match name {
        SignalName::Term => Signal::TERM,
        SignalName::Int => Signal::INT,
        SignalName::Hup => Signal::HUP,
        SignalName::Quit => Signal::QUIT,
        SignalName::Usr1 => Signal::USR1,
        SignalName::Usr2 => Signal::USR2,
        SignalName::Kill => Signal::KILL,
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::NotStarted(format!("it ended in a way that is not known: {status}")),
    }
}
