//! What a worker lets in: messages of trusted keys, as far as it was given keys, and what its policy allows.
//!
//! Decides on bytes and records; what was refused goes to the dead letters with the reason, and leaves the record of
//! the run that it claims to be alone.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use crate::{
    broker::{BrokerError, Bucket, Delivery, Refused, RefusedBy},
    clock,
    exec::{self, Confinement, Located, Program, RunContext, Secrets},
    job::QueueName,
    run::{
        Found, Hidden, Keyring, Malformed, Refusal, RunMessage, RunRecord, Violation, WorkerPolicy,
        good_until,
    },
};

use super::Shared;

/// How much of a lease a look at programs may take before somebody renews it.
const PART_OF_LEASE: u32 = 3;

/// What a worker lets in. By default everything that it understands.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    /// The keys of those who may publish; `None`: whoever can write to the broker may.
    pub keys: Option<Keyring>,
    /// What runs may do; `None`: everything that its user may.
    pub policy: Option<WorkerPolicy>,
}

/// Why a delivery is not executed.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// It is not understood.
    Malformed(Malformed),
    /// Its signature is not good.
    Refused(Refusal),
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => why.fmt(f),
            Self::Refused(why) => why.fmt(f),
        }
    }
}

impl NotTaken {
    /// For the dead letter.
    pub(super) fn refused(&self) -> Option<Refused> {
        match self {
            Self::Malformed(_) => None,
            Self::Refused(why) => Some(Refused::by_signature(why)),
        }
    }
}

/// Why a run that somebody may publish is not executed here: it ends before it is claimed.
#[derive(Debug)]
pub(super) struct NotHere {
    pub(super) reason: String,
    /// The rule of the policy that it breaks, if it is that.
    rule: Option<&'static str>,
}

impl NotHere {
    /// For the dead letter.
    pub(super) fn refused(&self) -> Option<Refused> {
        self.rule.map(|rule| Refused {
            by: RefusedBy::Policy,
            rule: rule.to_owned(),
        })
    }
}

impl From<Violation> for NotHere {
    fn from(violation: Violation) -> Self {
        Self {
            reason: violation.to_string(),
            rule: Some(violation.rule),
        }
    }
}

impl Gate {
    /// The message, if it is one of somebody who may publish. Nothing of it is looked at before that is sure.
    pub(super) fn read(&self, delivery: &Delivery) -> Result<RunMessage, NotTaken> {
        if let Some(keys) = &self.keys {
            let header = delivery.signature.as_deref();
            keys.verify(&delivery.subject, header, &delivery.payload)
                .map_err(NotTaken::Refused)?;
        }
        RunMessage::decode(&delivery.payload).map_err(NotTaken::Malformed)
    }
}

impl Shared {
    /// Why a run cannot be executed by this worker, however often it is tried.
    pub(super) async fn not_here(
        &self,
        delivery: &Delivery,
        message: &RunMessage,
    ) -> Option<NotHere> {
        if let Some(violation) = self.violation(delivery, message).await {
            return Some(violation.into());
        }
        let user = message.spec.run_as.as_ref()?;
        let reason = exec::cannot_run_as(user).await?;
        Some(NotHere { reason, rule: None })
    }

    /// The first rule of the policy that a run breaks. What cannot be told because its program or its secrets are not
    /// there, or do not answer in time, is left to the attempt, which cannot start then.
    async fn violation(&self, delivery: &Delivery, message: &RunMessage) -> Option<Violation> {
        let Some(policy) = self.policy() else {
            return WorkerPolicy::check_without(message).err();
        };
        let looks_at_programs =
            policy.executables.is_some() || policy.env.is_some() || policy.working_dirs.is_some();
        let found = match looks_at_programs {
            true => {
                // Nobody renews the lease yet.
                let patience = (delivery.lease / PART_OF_LEASE).min(exec::PATIENCE);
                self.program_of(message, patience).await
            }
            false => None,
        };
        let found = found.as_ref().map(|(program, located)| (program, located));
        broken_by(&policy, &delivery.queue, message, found)
    }

    /// The one that is in force now.
    fn policy(&self) -> Option<WorkerPolicy> {
        self.options.gate.borrow().policy.clone()
    }

    /// As it would be started, but for what only an attempt has.
    async fn program_of(
        &self,
        message: &RunMessage,
        patience: Duration,
    ) -> Option<(Program, Located)> {
        let message = message.clone();
        let directory = self.options.credentials.clone();
        let hand_on = self.options.hand_on.clone();
        let look = move || {
            let secrets = Secrets::load(&message.spec, directory.as_deref()).ok()?;
            let context = RunContext {
                message: &message,
                attempt: 1,
                fence: 1,
                lock: None,
                secrets: &secrets,
                hand_on: &hand_on,
            };
            let program = Program::prepare(&context).ok().flatten()?;
            let located = program.located();
            Some((program, located))
        };
        exec::in_time(patience, look).await.flatten()
    }

    /// What a program is given of the worker.
    pub(super) fn confinement(&self) -> Confinement {
        let gate = self.options.gate.borrow();
        Confinement {
            pass_env: Arc::clone(&self.options.pass_env),
            umask: gate.policy.as_ref().and_then(|policy| policy.umask),
            ..Confinement::default()
        }
    }

    /// The same rules once more, for a program as it is about to be started: from then on it is what was looked at,
    /// wherever its path may lead when it is started. Fails with a reason for the record.
    pub(super) async fn permitted(
        &self,
        queue: &QueueName,
        message: &RunMessage,
        program: Program,
    ) -> Result<Program, String> {
        let Some(policy) = self.policy() else {
            return match WorkerPolicy::check_without(message) {
                Ok(()) => Ok(program),
                Err(violation) => Err(violation.to_string()),
            };
        };
        let look = move || {
            let located = program.located();
            (program, located)
        };
        let found = exec::in_time(exec::PATIENCE, look).await;
        let (mut program, located) = found.ok_or_else(|| {
            format!(
                "where its program and its directory are cannot be told on this worker: nothing answers within {} s; look at \
                 the file systems there",
                exec::PATIENCE.as_secs()
            )
        })?;
        if let Some(violation) = broken_by(&policy, queue, message, Some((&program, &located))) {
            return Err(violation.to_string());
        }
        if policy.executables.is_some() {
            program.confinement.executables = Some(located.executables);
        }
        if policy.working_dirs.is_some() {
            // What comes there until it starts was not looked at.
            let directory = located.working_dir.ok_or_else(|| {
                let directory = program.working_dir.as_deref().unwrap_or(Path::new("."));
                format!(
                    "the working directory `{}` is not there on this worker, or cannot be entered; create it, permit it, or \
                     correct `working_dir`",
                    directory.display()
                )
            })?;
            program.confinement.working_dir = Some(directory);
        }
        Ok(program)
    }

    /// Whether somebody has published the same signed message again. Without keys anybody may.
    pub(super) fn is_replayed(&self, record: &RunRecord, delivery: &Delivery) -> bool {
        self.has_keys() && record.is_copied_by(delivery.sequence)
    }

    /// Whether somebody has removed the record of a run. We remove none: when its time is over it is gone without a trace.
    pub(super) async fn is_erased(&self, message: &RunMessage) -> Result<bool, BrokerError> {
        let key = message.run_id.key();
        Ok(self.has_keys() && self.broker.was_removed(Bucket::Runs, &key).await?)
    }

    /// Whether only what is signed is executed here.
    pub(super) fn has_keys(&self) -> bool {
        self.options.gate.borrow().keys.is_some()
    }

    /// Refuses a signed run that might have run before, in a time of which no record is left. One that has begun goes
    /// on however long it takes, one that has ended is a repeat, and one past its `expires_at` ends as
    /// expired: all that the record decides.
    pub(super) async fn too_old(
        &self,
        gate: &Gate,
        message: &RunMessage,
    ) -> Result<Option<NotTaken>, BrokerError> {
        let (now, until) = (clock::now(), good_until(message));
        let is_in_time = gate.keys.is_none() || now < until;
        if is_in_time || message.expires_at.is_some_and(|at| at <= now) {
            return Ok(None);
        }
        let has_begun = match self.record(message).await? {
            Some((record, _)) => record.started_at.is_some() || record.state.is_final(),
            None => false,
        };
        Ok((!has_begun).then_some(NotTaken::Refused(Refusal::Outdated(until))))
    }
}

fn broken_by(
    policy: &WorkerPolicy,
    queue: &QueueName,
    message: &RunMessage,
    program: Option<(&Program, &Located)>,
) -> Option<Violation> {
    let (program, located) = program.unzip();
    let nowhere = Located::default();
    let located = located.unwrap_or(&nowhere);
    let found = Found {
        executables: &located.executables,
        working_dir: located.working_dir.as_deref(),
        variables: program.map(|program| &program.of_files),
        hidden: Hidden {
            executable: located.hidden_executable.as_deref(),
            working_dir: located.hidden_working_dir.as_deref(),
        },
        own_user: match policy.users {
            Some(_) => exec::own_user(),
            None => "",
        },
    };
    policy.check(message, queue, found).err()
}
