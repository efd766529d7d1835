//! The program of one attempt: what is handed to the operating system, and what its refusals mean.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ffi::{CStr, CString, OsStr, OsString},
    fs::File,
    io::{self, IsTerminal},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use rustix::fs::{MemfdFlags, memfd_create};

use super::{RunContext, start::Identity, user::RunAs};
use crate::job::{Execute, Glob, TemplateError, UserName};

/// This executable, for jobs that start runs themselves.
static OWN_BINARY: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::current_exe().ok());

/// The environment of this process as the operating system wants it, by name: it never changes.
static INHERITED: LazyLock<BTreeMap<OsString, CString>> = LazyLock::new(|| {
    let lines = std::env::vars_os().filter_map(|(name, value)| {
        let line = line(&name, &value)?;
        Some((name, line))
    });
    lines.collect()
});

/// A program, ready to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The executable as it is looked up, for example in PATH.
    pub name: String,
    /// What follows it.
    pub arguments: Vec<String>,
    /// Added to what it is given of the worker's environment.
    pub variables: BTreeMap<String, String>,
    /// The names of those that the job's own files of variables set.
    pub of_files: BTreeSet<String>,
    /// Where it starts; the worker's own directory if absent.
    pub working_dir: Option<PathBuf>,
    /// Whose it is; the worker's own user's if absent.
    pub run_as: Option<UserName>,
    /// What it reads on standard input, if its streams are captured.
    pub stdin: Vec<u8>,
    /// Where it reads from and writes to.
    pub streams: Streams,
    /// What it is given of the worker, and what it may do with files.
    pub confinement: Confinement,
}

/// What a program is given of this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confinement {
    /// Variables that are handed on beside the usual ones, if its streams are captured.
    pub pass_env: Arc<[Glob]>,
    /// The mask of the modes of files that it makes; that of this process if absent.
    pub umask: Option<u32>,
    /// Where it was found by whoever allowed it, links followed: nothing else is executed. It is looked up if absent.
    pub executables: Option<Vec<PathBuf>>,
    /// The directory, links followed, in which it was allowed to start. That of the program if absent.
    pub working_dir: Option<PathBuf>,
}

/// The variables of this process that every job is given, with the patterns of some: what programs need to find their
/// way. They name files, and hold no secret.
const USUAL: [&str; 17] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NATS_CONTEXT",
    "NATS_CREDS",
    "NATS_CA",
    "NATS_CERT",
    "NATS_KEY",
];

impl Confinement {
    /// Whether a program that becomes somebody's is given a variable.
    fn passes(&self, name: &OsStr, becomes: Option<&Identity>) -> bool {
        let Some(name) = name.to_str() else {
            return false;
        };
        let is_asked_for = self.pass_env.iter().any(|glob| glob.matches(name));
        // Its own place for passing files may be closed to others.
        let is_private = becomes.is_some() && name == "TMPDIR";
        is_asked_for || !is_private && USUAL_GLOBS.iter().any(|glob| glob.matches(name))
    }
}

static USUAL_GLOBS: LazyLock<Vec<Glob>> =
    LazyLock::new(|| USUAL.iter().filter_map(|name| name.parse().ok()).collect());

/// Where a program reads from and writes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Streams {
    /// Its output is carried away, its input is prepared.
    #[default]
    Captured,
    /// Those of this process, and its session. A terminal is not read from: the program is not in its foreground.
    Inherited,
}

/// Where programs are looked for if there is no PATH at all.
const DEFAULT_SEARCH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What the operating system is told to start a program.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The paths to try, in order.
    pub(super) candidates: Vec<CString>,
    /// The argument vector, the program's name first.
    pub(super) arguments: Vec<CString>,
    /// `NAME=VALUE`
    pub(super) environment: Vec<Cow<'static, CStr>>,
    /// Where it starts.
    pub(super) working_dir: Option<CString>,
    /// Its standard input.
    pub(super) stdin: File,
    /// Its standard output and error, if they are not captured.
    pub(super) outputs: Option<[File; 2]>,
    /// Whose it becomes.
    pub(super) identity: Option<Identity>,
    /// The mask of modes, if it is another one.
    pub(super) umask: Option<u32>,
    /// Whether it is given its three streams, no other descriptor, and no terminal.
    pub(super) streams_only: bool,
}

impl Program {
    /// Fills in the placeholders of the run's definition. `None` if it is a request.
    pub fn prepare(context: &RunContext<'_>) -> Result<Option<Self>, TemplateError> {
        let spec = &context.message.spec;
        let (name, arguments) = match &spec.execute {
            Execute::Shell(script) => ("/bin/sh".to_owned(), vec!["-c".to_owned(), script.clone()]),
            Execute::Command(templates) => {
                let mut words = templates.iter().map(|template| template.render(context));
                let name = words.next().transpose()?.unwrap_or_default();
                (name, words.collect::<Result<_, _>>()?)
            }
            Execute::Http(_) => return Ok(None),
        };
        let json = context.arguments();
        Ok(Some(Self {
            name,
            arguments,
            variables: context.variables(&json),
            of_files: context.secrets.names().map(str::to_owned).collect(),
            working_dir: spec.working_dir.clone(),
            run_as: spec.run_as.clone(),
            stdin: json.into_bytes(),
            streams: Streams::Captured,
            confinement: Confinement::default(),
        }))
    }

    /// Everything that the operating system has to be told. Fails with a reason for the run's
    /// record.
    pub(super) fn prepared(&self, result: &Path, user: Option<&RunAs>) -> Result<Prepared, String> {
        let (stdin, outputs) = self
            .streams()
            .map_err(|error| format!("its standard streams cannot be made: {error}"))?;
        let variables = self.own_variables(result, user);
        let path = OsStr::new("PATH");
        let search = match variables.get(path) {
            Some(own) => Some(own.clone().into_owned()),
            None => std::env::var_os(path),
        };
        let nul = || {
            format!(
                "`{}` cannot be started: a nul byte in its arguments or environment",
                self.name
            )
        };
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| nul());
        let becomes = user.map(|user| &user.identity);
        let is_given = |name: &OsStr| match self.streams {
            Streams::Captured => self.confinement.passes(name, becomes),
            // It does what the user of this terminal could do without us.
            Streams::Inherited => true,
        };
        let inherited = INHERITED
            .iter()
            .filter(|(name, _)| !variables.contains_key(name.as_os_str()) && is_given(name));
        let inherited = inherited.map(|(_, line)| Ok(Cow::Borrowed(line.as_c_str())));
        let own = variables
            .iter()
            .map(|(name, value)| line(name, value).map(Cow::Owned).ok_or_else(nul));
        let words = std::iter::once(&self.name).chain(&self.arguments);
        let allowed = self.confinement.working_dir.as_ref();
        let directory = match (allowed.or(self.working_dir.as_ref()), user) {
            (Some(directory), _) => Some(directory.as_os_str()),
            // To see whether that user may be here.
            (None, Some(_)) => Some(OsStr::new(".")),
            (None, None) => None,
        };
        let allowed = self.confinement.executables.clone();
        Ok(Prepared {
            candidates: allowed
                .unwrap_or_else(|| self.candidates(search.as_deref()))
                .iter()
                .map(|path| text(path.as_os_str()))
                .collect::<Result<_, _>>()?,
            arguments: words
                .map(|word| text(OsStr::new(word)))
                .collect::<Result<_, _>>()?,
            environment: inherited.chain(own).collect::<Result<_, _>>()?,
            working_dir: directory.map(text).transpose()?,
            stdin,
            outputs,
            identity: becomes.cloned(),
            umask: self.confinement.umask,
            streams_only: self.streams == Streams::Captured,
        })
    }

    /// The variables that it is given beside those of this process, whichever those are.
    fn own_variables<'a>(
        &'a self,
        result: &'a Path,
        user: Option<&'a RunAs>,
    ) -> BTreeMap<&'a OsStr, Cow<'a, OsStr>> {
        let mut variables: BTreeMap<&OsStr, Cow<'_, OsStr>> = BTreeMap::new();
        // What the job itself asks for wins.
        for (name, value) in user.iter().flat_map(|user| user.variables()) {
            variables.insert(name, value.into());
        }
        if let Some(directory) = &self.working_dir
            && let Ok(absolute) = std::path::absolute(directory)
        {
            // A shell believes it.
            variables.insert(OsStr::new("PWD"), OsString::from(absolute).into());
        }
        for (name, value) in &self.variables {
            variables.insert(OsStr::new(name), OsStr::new(value).into());
        }
        variables.insert(OsStr::new("ORCHESTRATOR_RESULT"), result.as_os_str().into());
        if let Some(binary) = &*OWN_BINARY {
            variables.insert(OsStr::new("ORCHESTRATOR_BIN"), binary.as_os_str().into());
        }
        variables
    }

    fn streams(&self) -> io::Result<(File, Option<[File; 2]>)> {
        let own = |stream: BorrowedFd<'_>| stream.try_clone_to_owned().map(File::from);
        Ok(match self.streams {
            Streams::Captured => (file_of(&self.stdin)?, None),
            Streams::Inherited => {
                let stdin = io::stdin();
                let stdin = match stdin.is_terminal() {
                    true => file_of(&[])?,
                    false => own(stdin.as_fd())?,
                };
                let outputs = [own(io::stdout().as_fd())?, own(io::stderr().as_fd())?];
                (stdin, Some(outputs))
            }
        })
    }

    /// Where the program may be: its path, or its name in each directory of the search path.
    pub(super) fn candidates(&self, search: Option<&OsStr>) -> Vec<PathBuf> {
        if self.name.contains('/') {
            return vec![PathBuf::from(&self.name)];
        }
        if self.name.is_empty() {
            return Vec::new();
        }
        let search = search.unwrap_or(OsStr::new(DEFAULT_SEARCH));
        std::env::split_paths(search)
            .map(|directory| directory.join(&self.name))
            .collect()
    }
}

/// `NAME=VALUE`, unless there is a nul byte in it.
fn line(name: &OsStr, value: &OsStr) -> Option<CString> {
    let parts = [name.as_bytes(), b"=", value.as_bytes()];
    CString::new(parts.concat()).ok()
}

/// A file without a name: a program reads it like a pipe that has been filled and closed, and
/// neither can wait for the other.
fn file_of(bytes: &[u8]) -> io::Result<File> {
    let file = File::from(memfd_create("stdin", MemfdFlags::CLOEXEC)?);
    // Its position stays at the beginning.
    file.write_all_at(bytes, 0)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_usual_has_to_be_asked_for() {
        let plain = Confinement::default();
        let asking = Confinement {
            pass_env: ["TMPDIR", "SITE_*"]
                .map(|name| name.parse().unwrap())
                .into(),
            ..Confinement::default()
        };
        for (confinement, name, to_own_user, to_another) in [
            (&plain, "PATH", true, true),
            (&plain, "LC_TIME", true, true),
            (&plain, "NATS_CREDS", true, true),
            (&plain, "TMPDIR", true, false),
            (&asking, "TMPDIR", true, true),
            (&plain, "SITE_MODE", false, false),
            (&asking, "SITE_MODE", true, true),
            (&asking, "MY_SITE_MODE", false, false),
            (&plain, "NATS_PASSWORD", false, false),
            // It may be the seed itself.
            (&plain, "NATS_NKEY", false, false),
            (&plain, "PATHS", false, false),
        ] {
            let passes = |becomes| confinement.passes(OsStr::new(name), becomes);
            let found = (passes(None), passes(Some(&Identity::Own)));
            assert_eq!(found, (to_own_user, to_another), "{name}");
        }
    }
}
