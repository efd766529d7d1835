//! What a worker may be asked to do, whoever asks: the rules of `worker.toml`. Pure.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
};

mod variables;

use super::RunMessage;
use crate::job::{Execute, Glob, QueueName, UserName};

/// The rules. A list that is not given allows everything, but for `users`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerPolicy {
    /// The names of jobs.
    pub jobs: Option<Vec<Glob>>,
    /// The names of queues.
    pub queues: Option<Vec<Glob>>,
    /// The programs of `command`, as they are found on this machine, symbolic links followed.
    pub executables: Option<Vec<Glob>>,
    /// The names of variables that a job may set.
    pub env: Option<Vec<Glob>>,
    /// The directories in which programs may start, and what is below them.
    pub working_dirs: Option<Vec<Glob>>,
    /// Who programs may run as. Without this list only the worker's own user, and that by not naming it.
    pub users: Option<Vec<UserName>>,
    /// Whether `shell` is allowed.
    pub shell: bool,
    /// Whether `http` and `ping` are allowed: requests that the worker sends.
    pub http: bool,
    /// The mask of the modes of files that jobs make.
    pub umask: Option<u32>,
}

/// What a run would execute on this machine, as far as it is there.
#[derive(Debug, Clone, Copy, Default)]
pub struct Found<'a> {
    /// The programs, one of which it is, with symbolic links followed.
    pub executables: &'a [PathBuf],
    /// Where it would start, with symbolic links followed.
    pub working_dir: Option<&'a Path>,
    /// The names of the variables that the job sets by its files.
    pub variables: Option<&'a BTreeSet<String>>,
    /// What another user may be able to use, and the worker cannot look at.
    pub hidden: Hidden<'a>,
    /// The worker's own user, by name or else by number.
    pub own_user: &'a str,
}

/// What cannot be looked at, and so is not known to be allowed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hidden<'a> {
    /// What may be the program.
    pub executable: Option<&'a Path>,
    /// Where it would start.
    pub working_dir: Option<&'a Path>,
}

/// A rule that a run breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its key in `worker.toml`.
    pub rule: &'static str,
    what: String,
    mend: Option<&'static str>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, what, mend } = self;
        write!(
            f,
            "the policy of the worker does not allow {what} (rule `{rule}`)"
        )?;
        match mend {
            Some(mend) => write!(f, "; {mend}"),
            None => Ok(()),
        }
    }
}

impl WorkerPolicy {
    /// The first rule that a run from `queue` breaks.
    pub fn check(
        &self,
        message: &RunMessage,
        queue: &QueueName,
        found: Found<'_>,
    ) -> Result<(), Violation> {
        let job = message.run_id.job().as_str();
        listed("jobs", &self.jobs, job, || format!("the job `{job}`"))?;
        let queue = queue.as_str();
        listed("queues", &self.queues, queue, || {
            format!("runs of the queue `{queue}`")
        })?;
        if message.spec.ping.is_some() && !self.http {
            return Err(broken("http", "`ping`, which sends requests"));
        }
        match &message.spec.execute {
            Execute::Shell(_) if !self.shell => return Err(broken("shell", "`shell`")),
            Execute::Http(_) if !self.http => return Err(broken("http", "`http`")),
            Execute::Http(_) => return self.check_user(message, None),
            Execute::Shell(_) => self.check_listed_variables(message, found)?,
            Execute::Command(_) => {
                self.check_listed_variables(message, found)?;
                self.check_executable(message, found)?;
            }
        }
        self.check_user(message, Some(found.own_user))?;
        self.check_working_dir(found)
    }

    /// What a worker without rules allows: everything but another user.
    pub fn check_without(message: &RunMessage) -> Result<(), Violation> {
        Self::default().check_user(message, None)
    }

    fn check_working_dir(&self, found: Found<'_>) -> Result<(), Violation> {
        let Some(allowed) = &self.working_dirs else {
            return Ok(());
        };
        if let Some(directory) = found.hidden.working_dir {
            return Err(cannot_be_seen("working_dirs", directory));
        }
        let Some(directory) = found.working_dir else {
            return Ok(());
        };
        let mut above = directory.ancestors().map(Path::to_string_lossy);
        match above.any(|path| allowed.iter().any(|glob| glob.matches(&path))) {
            true => Ok(()),
            false => {
                let what = format!("the working directory `{}`", directory.display());
                Err(broken("working_dirs", &what))
            }
        }
    }

    /// A list is about every program: who must not be root is not made root by a job that names nobody. `own` is absent
    /// where no program is started.
    fn check_user(&self, message: &RunMessage, own: Option<&str>) -> Result<(), Violation> {
        let (what, mend) = match (&message.spec.run_as, &message.spec.execute) {
            (Some(_), Execute::Http(_)) => {
                let what = "`run_as` with `http`, which starts no program".to_owned();
                (what, "remove `run_as`")
            }
            (Some(user), _) if self.is_listed(user.as_str()) => return Ok(()),
            (Some(user), _) => {
                let what = format!("`run_as = \"{user}\"`");
                let mend = "name the user in `users` of the file that the worker's --policy names";
                (what, mend)
            }
            (None, _) => match own {
                Some(own) if self.users.is_some() && !self.is_listed(own) => {
                    let what =
                        format!("jobs without `run_as`, which would run as its own user `{own}`");
                    (
                        what,
                        "give the job one of `users` as its `run_as`, or name the worker's own user there",
                    )
                }
                Some(_) | None => return Ok(()),
            },
        };
        Err(Violation {
            mend: Some(mend),
            ..broken("users", &what)
        })
    }

    fn is_listed(&self, user: &str) -> bool {
        let mut users = self.users.iter().flatten();
        users.any(|listed| listed.as_str() == user)
    }

    /// With a list of programs a variable must not make another one of them.
    fn check_executable(&self, message: &RunMessage, found: Found<'_>) -> Result<(), Violation> {
        let Some(allowed) = &self.executables else {
            return Ok(());
        };
        self.check_loading_variables(message, found)?;
        if let Some(path) = found.hidden.executable {
            return Err(cannot_be_seen("executables", path));
        }
        let mut paths = found.executables.iter().map(|path| path.to_string_lossy());
        let is_allowed = |path: &str| allowed.iter().any(|glob| glob.matches(path));
        match paths.find(|path| !is_allowed(path)) {
            None => Ok(()),
            Some(path) => Err(broken("executables", &format!("the program `{path}`"))),
        }
    }
}

fn listed(
    rule: &'static str,
    allowed: &Option<Vec<Glob>>,
    name: &str,
    what: impl FnOnce() -> String,
) -> Result<(), Violation> {
    match allowed {
        Some(globs) if !globs.iter().any(|glob| glob.matches(name)) => Err(broken(rule, &what())),
        Some(_) | None => Ok(()),
    }
}

fn broken(rule: &'static str, what: &str) -> Violation {
    Violation {
        rule,
        what: what.to_owned(),
        mend: None,
    }
}

fn cannot_be_seen(rule: &'static str, path: &Path) -> Violation {
    let what = format!("`{}`, which the worker cannot look at", path.display());
    Violation {
        mend: Some("let the worker search the directories above it"),
        ..broken(rule, &what)
    }
}

#[cfg(test)]
mod tests;
