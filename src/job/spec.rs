//! What a worker executes and within which limits: the part of a job that travels in each run's
//! message.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    Concurrency, CredentialName, HttpRequest, Lock, Rate, ResourceLimits, RetryPolicy, Seconds,
    Template, UserName,
};

/// What to execute, with its limits and retry policy, self-contained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The program.
    pub execute: Execute,
    /// Default arguments; those of a run by hand are laid over them.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub args: serde_json::Map<String, serde_json::Value>,
    /// Added to the worker's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Files of variables, read on the worker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_files: Vec<PathBuf>,
    /// Secrets, read on the worker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<CredentialName>,
    /// Where the program starts; the worker's own directory if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<PathBuf>,
    /// Who its processes belong to; the worker's own user if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as: Option<UserName>,
    /// An attempt that takes longer is ended with `kill`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Seconds>,
    /// How an attempt is ended before its time.
    #[serde(default)]
    pub kill: Kill,
    /// What happens after a failed attempt.
    #[serde(default)]
    pub retry: RetryPolicy,
    /// Held by one run at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Box<Lock>>,
    /// Held by some runs at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Box<Concurrency>>,
    /// How fast runs may start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Box<Rate>>,
    /// What a run may use up of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceLimits>,
    /// What becomes of an attempt whose lease cannot be renewed; see [`RunSpec::lease_loss`].
    #[serde(default, skip_serializing_if = "LeaseLoss::is_default")]
    pub lease_loss: LeaseLoss,
    /// Exit codes that mean success.
    #[serde(default)]
    pub success_exit: SuccessExit,
    /// Where to tell that an attempt began and how the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ping: Option<Box<str>>,
    /// How many bytes of output are kept of a run; the oldest are dropped beyond it.
    #[serde(default = "RunSpec::default_output_limit")]
    pub output_limit: u64,
}

impl RunSpec {
    /// A spec with every optional part at its default.
    pub fn new(execute: Execute) -> Self {
        Self {
            execute,
            args: serde_json::Map::new(),
            env: BTreeMap::new(),
            env_files: Vec::new(),
            credentials: Vec::new(),
            working_dir: None,
            run_as: None,
            timeout: None,
            kill: Kill::default(),
            retry: RetryPolicy::default(),
            lock: None,
            concurrency: None,
            rate: None,
            limits: None,
            lease_loss: LeaseLoss::default(),
            success_exit: SuccessExit::default(),
            ping: None,
            output_limit: Self::default_output_limit(),
        }
    }

    /// What becomes of an attempt whose lease cannot be renewed. Whoever holds a lock is stopped, whatever
    /// the job says: somebody else may be given the lock.
    pub fn lease_loss(&self) -> LeaseLoss {
        match self.lock {
            Some(_) => LeaseLoss::Stop,
            None => self.lease_loss,
        }
    }

    /// Whether a status means success.
    pub fn expects(&self, status: u16) -> bool {
        match &self.execute {
            Execute::Http(http) => http.expects(status),
            Execute::Command(_) | Execute::Shell(_) => false,
        }
    }

    /// Whether a run has to hold something before it may start.
    pub fn is_limited(&self) -> bool {
        self.lock.is_some() || self.concurrency.is_some() || self.rate.is_some()
    }

    /// Every text with placeholders.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        let argv = match &self.execute {
            Execute::Command(argv) => argv.as_slice(),
            Execute::Shell(_) | Execute::Http(_) => &[],
        };
        let http = match &self.execute {
            Execute::Http(http) => Some(http.templates()),
            Execute::Command(_) | Execute::Shell(_) => None,
        };
        let lock = self.lock.iter().map(|lock| &lock.name);
        let places = self.concurrency.iter().map(|places| &places.key);
        let rate = self.rate.iter().map(|rate| &rate.key);
        let http = http.into_iter().flatten();
        argv.iter()
            .chain(http)
            .chain(lock)
            .chain(places)
            .chain(rate)
    }

    /// 1 MiB of output is kept unless the job says otherwise.
    pub const fn default_output_limit() -> u64 {
        1 << 20
    }
}

/// The exit codes that mean success; only 0 by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<i32>", into = "Vec<i32>")]
pub struct SuccessExit(Option<Box<[i32]>>);

impl SuccessExit {
    /// The codes.
    pub fn codes(&self) -> &[i32] {
        self.0.as_deref().unwrap_or(&[0])
    }
}

impl From<Vec<i32>> for SuccessExit {
    fn from(codes: Vec<i32>) -> Self {
        // Nearly every job has the default: it takes no memory of its own.
        Self((codes != [0]).then(|| codes.into()))
    }
}

impl From<SuccessExit> for Vec<i32> {
    fn from(codes: SuccessExit) -> Self {
        codes.codes().to_vec()
    }
}

/// The program of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Execute {
    /// An argument vector, executed without a shell. Never empty; placeholders are filled in.
    Command(Vec<Template>),
    /// A script for `/bin/sh -c`, taken as it is: no placeholders, arguments by environment.
    Shell(String),
    /// A request in place of a program.
    Http(Box<HttpRequest>),
}

/// What becomes of an attempt whose lease could not be renewed in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseLoss {
    /// It goes on until it is seen that somebody else has taken over.
    #[default]
    Continue,
    /// It is ended before anybody else may start the run.
    Stop,
}

impl LeaseLoss {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How an attempt is ended before its time: `signal` to the process group, after `grace` SIGKILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kill {
    /// The polite signal.
    pub signal: SignalName,
    /// How long the process group has to end after it.
    pub grace: Seconds,
}

impl Default for Kill {
    fn default() -> Self {
        Self {
            signal: SignalName::Term,
            grace: Seconds::from_secs(10),
        }
    }
}

/// A signal that may be asked for in `kill`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalName {
    /// SIGTERM
    #[serde(rename = "SIGTERM")]
    Term,
    /// SIGINT
    #[serde(rename = "SIGINT")]
    Int,
    /// SIGHUP
    #[serde(rename = "SIGHUP")]
    Hup,
    /// SIGQUIT
    #[serde(rename = "SIGQUIT")]
    Quit,
    /// SIGUSR1
    #[serde(rename = "SIGUSR1")]
    Usr1,
    /// SIGUSR2
    #[serde(rename = "SIGUSR2")]
    Usr2,
    /// SIGKILL
    #[serde(rename = "SIGKILL")]
    Kill,
}

impl SignalName {
    /// Every signal with the name that users write.
    pub const ALL: [(&'static str, Self); 7] = [
        ("SIGTERM", Self::Term),
        ("SIGINT", Self::Int),
        ("SIGHUP", Self::Hup),
        ("SIGQUIT", Self::Quit),
        ("SIGUSR1", Self::Usr1),
        ("SIGUSR2", Self::Usr2),
        ("SIGKILL", Self::Kill),
    ];
}

impl FromStr for SignalName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .find(|(name, _)| *name == text)
            .map(|&(_, signal)| signal)
            .ok_or_else(|| format!("`{text}` is not a signal that can be sent to a job"))
    }
}

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, signal)| signal == self);
        f.pad(name.map_or("", |(name, _)| name))
    }
}
