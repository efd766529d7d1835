//! What a worker may be asked to do, whoever asks: the rules of `worker.toml`. Pure.

use std::{collections::BTreeMap, fmt, path::Path};

use super::RunMessage;
use crate::job::{Execute, Glob, QueueName};

/// The rules. A list that is not given allows everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerPolicy {
    /// The names of jobs.
    pub jobs: Option<Vec<Glob>>,
    /// The names of queues.
    pub queues: Option<Vec<Glob>>,
    /// The programs of `command`, as they are found on this machine, symbolic links followed.
    pub executables: Option<Vec<Glob>>,
    /// The directories in which programs may start, and what is below them.
    pub working_dirs: Option<Vec<Glob>>,
    /// Whether `shell` is allowed.
    pub shell: bool,
    /// Whether `http` is allowed.
    pub http: bool,
    /// The mask of the modes of files that jobs make.
    pub umask: Option<u32>,
}

/// What a run would execute on this machine, as far as it is there.
#[derive(Debug, Clone, Copy, Default)]
pub struct Found<'a> {
    /// The program, with symbolic links followed.
    pub executable: Option<&'a Path>,
    /// Where it would start, with symbolic links followed.
    pub working_dir: Option<&'a Path>,
    /// What it would be given beside the worker's own variables, those of files included.
    pub variables: Option<&'a BTreeMap<String, String>>,
}

/// A rule that a run breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its key in `worker.toml`.
    pub rule: &'static str,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, what } = self;
        write!(
            f,
            "the policy of the worker does not allow {what} (rule `{rule}`)"
        )
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
        match &message.spec.execute {
            Execute::Shell(_) if !self.shell => return Err(broken("shell", "`shell`")),
            Execute::Http(_) if !self.http => return Err(broken("http", "`http`")),
            Execute::Http(_) => return Ok(()),
            Execute::Shell(_) => {}
            Execute::Command(_) => self.check_executable(message, found)?,
        }
        if let (Some(allowed), Some(directory)) = (&self.working_dirs, found.working_dir) {
            let mut above = directory.ancestors().map(Path::to_string_lossy);
            if !above.any(|path| allowed.iter().any(|glob| glob.matches(&path))) {
                let what = format!("the working directory `{}`", directory.display());
                return Err(broken("working_dirs", &what));
            }
        }
        Ok(())
    }

    /// With a list of programs a variable must not make another one of them.
    fn check_executable(&self, message: &RunMessage, found: Found<'_>) -> Result<(), Violation> {
        let Some(allowed) = &self.executables else {
            return Ok(());
        };
        let given = found.variables.into_iter().flat_map(BTreeMap::keys);
        let mut names = message.spec.env.keys().chain(given);
        if let Some(name) = names.find(|name| name.starts_with("LD_")) {
            return Err(broken("executables", &format!("the variable `{name}`")));
        }
        let Some(found) = found.executable else {
            return Ok(());
        };
        let path = found.to_string_lossy();
        match allowed.iter().any(|glob| glob.matches(&path)) {
            true => Ok(()),
            false => Err(broken("executables", &format!("the program `{path}`"))),
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::RunSpec;

    fn message(execute: Execute) -> RunMessage {
        RunMessage {
            version: 1,
            run_id: "crawl-full@20261123T023000Z".parse().unwrap(),
            queue: "high".parse().unwrap(),
            scheduled_for: "2026-11-23T02:30:00Z".parse().unwrap(),
            published_at: "2026-11-23T02:30:00Z".parse().unwrap(),
            not_before: None,
            expires_at: None,
            last_success: None,
            parent: None,
            retry_of: None,
            overlap: None,
            anchor: None,
            spec: RunSpec::new(execute),
        }
    }

    fn globs(texts: &[&str]) -> Option<Vec<Glob>> {
        Some(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn every_rule_has_its_name() {
        let command = || message(Execute::Command(vec!["crawl".parse().unwrap()]));
        let shell = message(Execute::Shell("crawl".to_owned()));
        let found = Found {
            executable: Some(Path::new("/opt/crawler/bin/crawl")),
            working_dir: Some(Path::new("/srv/crawler/data")),
            variables: None,
        };
        let rule = |policy: WorkerPolicy, message: &RunMessage| {
            policy
                .check(message, &message.queue, found)
                .err()
                .map(|broken| broken.rule)
        };
        let policy = WorkerPolicy::default;
        assert_eq!(rule(policy(), &command()), None);
        assert_eq!(rule(policy(), &shell), Some("shell"));
        assert_eq!(
            rule(
                WorkerPolicy {
                    shell: true,
                    ..policy()
                },
                &shell
            ),
            None
        );
        let cases = [
            (
                &["crawl-*"][..],
                &["default", "high"][..],
                &["/opt/crawler/bin/*"][..],
                &["/srv/crawler"][..],
                None,
            ),
            (&["crawl"], &["high"], &["**"], &["/"], Some("jobs")),
            (&["*"], &["default"], &["**"], &["/"], Some("queues")),
            (
                &["*"],
                &["*"],
                &["/opt/*", "crawl"],
                &["/"],
                Some("executables"),
            ),
            (
                &["*"],
                &["*"],
                &["/opt/**"],
                &["/srv/crawl", "/srv/crawler/data/x"],
                Some("working_dirs"),
            ),
            (&[], &[], &[], &[], Some("jobs")),
        ];
        for (jobs, queues, executables, working_dirs, expected) in cases {
            let policy = WorkerPolicy {
                jobs: globs(jobs),
                queues: globs(queues),
                executables: globs(executables),
                working_dirs: globs(working_dirs),
                ..policy()
            };
            assert_eq!(rule(policy, &command()), expected);
        }
        let mut preloaded = command();
        preloaded
            .spec
            .env
            .insert("LD_PRELOAD".to_owned(), "/tmp/x.so".to_owned());
        let listed = WorkerPolicy {
            executables: globs(&["**"]),
            ..policy()
        };
        assert_eq!(rule(listed, &preloaded), Some("executables"));
        assert_eq!(rule(policy(), &preloaded), None);
    }
}
