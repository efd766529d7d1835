//! `orchestrator lock` and `locks`

use std::{collections::BTreeMap, time::Duration};

use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    CliError, Exit, Globals, connect, globals::Format, guardian, output, run, service, worker,
};
use crate::{
    broker::{
        Broker, Observer, SharedBroker, Taken, give_place_back, permits::Shared, renew_place,
        take_place,
    },
    clock,
    exec::{Cgroup, Confinement, Execution, Executor, Limits, Output, Program, Stop, Streams},
    job::{Kill, Seconds},
    ops,
    run::{By, Wish},
};

/// How often a lock that is held is asked for again.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Run a command while holding a lock: at most one holds it, in jobs and out of them
#[derive(Debug, Args)]
pub struct LockArgs {
    /// The lock
    #[arg(value_name = "NAME")]
    name: String,

    /// Give up after so long (exit 8) [default: wait for ever]
    #[arg(long, value_name = "D")]
    wait: Option<Seconds>,

    /// Whoever holds it is taken for dead when it is silent for so long
    #[arg(long, value_name = "D", default_value = "15s")]
    lease: worker::Lease,

    /// The command with its arguments; it ends with the lock if that is lost
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<String>,
}

/// A lock as this process holds it.
struct Session<'a> {
    broker: &'a dyn Broker,
    name: &'a str,
    by: By,
    id: String,
    lease: Duration,
}

pub(super) async fn lock(args: LockArgs, globals: &Globals) -> Result<(), CliError> {
    let broker: SharedBroker = connect::any_broker(globals).await?;
    let id = service::instance_id();
    let lease = args.lease.0;
    let session = Session {
        broker: broker.as_ref(),
        name: &args.name,
        by: By::Session {
            id: id.clone(),
            renewals: 0,
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
        },
        id,
        lease,
    };
    let taken = clock::monotonic();
    let token = session.acquire(args.wait, globals).await?;
    let mut words = args.command.into_iter();
    let program = Program {
        name: words.next().unwrap_or_default(),
        arguments: words.collect(),
        variables: BTreeMap::from([
            ("ORCHESTRATOR_LOCK".to_owned(), args.name.clone()),
            ("ORCHESTRATOR_LOCK_TOKEN".to_owned(), token.to_string()),
        ]),
        working_dir: None,
        run_as: None,
        stdin: Vec::new(),
        streams: Streams::Inherited,
        of_files: Default::default(),
        confinement: Confinement::default(),
    };
    let executed = session.execute(program, taken).await;
    // Whatever became of it, its processes are gone.
    let place = (Shared::Lock, session.name);
    let given_back = give_place_back(session.broker, place, (&session.by, token)).await;
    let execution = executed?;
    if let Err(error) = given_back {
        output::to_stderr(&format!("the lock is free in {lease:?}: {error}"));
    }
    end_as(&execution)
}

impl Session<'_> {
    async fn acquire(&self, at_most: Option<Seconds>, globals: &Globals) -> Result<u64, CliError> {
        let observer = Observer::default();
        let start = clock::monotonic();
        let mut told = false;
        loop {
            let wish = Wish {
                by: self.by.clone(),
                ancestors: run::parent().into_iter().collect(),
                inherit: false,
                limit: 1,
                at: clock::now(),
            };
            let lock = (Shared::Lock, self.name);
            let holders =
                match take_place(self.broker, lock, &wish, (&observer, self.lease)).await? {
                    Taken::Place(token) => return Ok(token),
                    Taken::Busy(holders) => holders,
                };
            let holders: Vec<_> = holders.iter().map(ToString::to_string).collect();
            let holders = holders.join(", ");
            let waited = clock::monotonic() - start;
            if at_most.is_some_and(|at_most| waited >= at_most.get()) {
                let message = format!("the lock `{}` is held by {holders}", self.name);
                return Err(CliError::new(Exit::TimedOut, message)
                    .with_help("`orchestrator locks` shows who holds and who waits"));
            }
            if !globals.quiet && !std::mem::replace(&mut told, true) {
                output::to_stderr(&format!("waiting for {holders} to release `{}`", self.name));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Executes the command, with the lock renewed meanwhile.
    async fn execute(
        &self,
        program: Program,
        taken: std::time::Instant,
    ) -> Result<Execution, CliError> {
        let executor = Executor::start(Some(guardian::EXECUTABLE.as_ref()), &Cgroup::Off)?;
        let (output, stop) = (Output::new(1), Stop::default());
        let limits = Limits {
            kill: Kill::default(),
            ..Limits::default()
        };
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stopping = async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                stop.ask();
            }
        };
        let execution = tokio::select! {
            execution = executor.execute(program, limits, &output, &stop) => execution,
            () = stopping => return Err(CliError::silent(Exit::Failed)),
            () = self.keep(taken, &stop) => return Err(CliError::silent(Exit::Failed)),
        };
        while let Some(remark) = output.pop() {
            output::to_stderr(String::from_utf8_lossy(&remark.bytes).trim_end());
        }
        Ok(execution)
    }

    /// Renews every third of the lease; ends the command in time if that fails. Never returns.
    async fn keep(&self, mut confirmed: std::time::Instant, stop: &Stop) {
        loop {
            let age = clock::monotonic().saturating_duration_since(confirmed);
            stop.at(clock::uptime() + (self.lease * 5 / 6).saturating_sub(age));
            tokio::time::sleep(match age < self.lease / 3 {
                true => self.lease / 3 - age,
                false => self.lease / 12,
            })
            .await;
            let asked = clock::monotonic();
            match renew_place(self.broker, (Shared::Lock, self.name), &self.id).await {
                Ok(Some(_)) => confirmed = asked,
                Ok(None) => {
                    output::to_stderr(&format!(
                        "the lock `{}` was lost: its command is killed",
                        self.name
                    ));
                    stop.force();
                }
                Err(error) if asked - confirmed > self.lease * 2 / 3 => {
                    output::to_stderr(&format!(
                        "the lock `{}` cannot be renewed, its command is ended: {error}",
                        self.name
                    ));
                    stop.ask();
                }
                Err(_) => {}
            }
        }
    }
}

/// Ends as the command did.
fn end_as(execution: &Execution) -> Result<(), CliError> {
    match &execution.exit {
        crate::run::Exit::Code(0) => Ok(()),
        crate::run::Exit::Code(code) => {
            let code = u8::try_from(*code).unwrap_or(1);
            Err(CliError::silent(Exit::Propagated(code)))
        }
        crate::run::Exit::Signal(signal) => {
            let code = u8::try_from(128 + signal).unwrap_or(1);
            Err(CliError::silent(Exit::Propagated(code)))
        }
        crate::run::Exit::NotStarted(_)
        | crate::run::Exit::Status(_)
        | crate::run::Exit::OutOfMemory(_)
        | crate::run::Exit::Failed(_) => Err(CliError::silent(Exit::Failed)),
    }
}

/// The locks and keys that are held or waited for
#[derive(Debug, Args)]
pub struct LocksArgs {
    #[command(subcommand)]
    what: Option<Locks>,
}

#[derive(Debug, Subcommand)]
enum Locks {
    /// List them: holders, tokens, who waits
    List,
    /// Take one from whoever holds it. Nobody is stopped by that: make sure that the holder is gone
    Release {
        /// The lock, or the key
        #[arg(value_name = "NAME")]
        name: String,
    },
}

pub(super) async fn locks(args: LocksArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    match args.what.unwrap_or(Locks::List) {
        Locks::List => {
            let locks = ops::locks(broker.as_ref()).await?;
            list(&locks, globals)
        }
        Locks::Release { name } => {
            let released = ops::release_lock(broker.as_ref(), &name).await?;
            match globals.output {
                Format::Json => {
                    output::json(&serde_json::json!({ "name": name, "released": released }))
                }
                Format::Name => output::to_stdout(&name),
                Format::Table => output::to_stdout(&format!("{name} was taken from {released}")),
            }
        }
    }
}

fn list(locks: &[ops::LockView], globals: &Globals) -> Result<(), CliError> {
    let now = clock::now();
    let header = ["kind", "name", "token", "held by", "since", "waiting"];
    output::list(
        globals.output,
        locks,
        &header,
        |lock| lock.name.clone(),
        |lock| {
            let joined = |text: &dyn Fn(&ops::HolderView) -> String| {
                let texts: Vec<_> = lock.holders.iter().map(text).collect();
                match texts.is_empty() {
                    true => "-".to_owned(),
                    false => texts.join("\n"),
                }
            };
            vec![
                lock.kind.to_string(),
                lock.name.clone(),
                joined(&|holder| holder.token.to_string()),
                joined(&|holder| holder.holder.clone()),
                joined(&|holder| output::relative(holder.since, now)),
                lock.waiters.len().to_string(),
            ]
        },
    )
}
