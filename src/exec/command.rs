//! The program of one attempt: what is handed to the operating system, and what its refusals mean.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Seek, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

use rustix::fs::{MemfdFlags, memfd_create};

use super::RunContext;
use crate::job::{Execute, TemplateError};

/// This executable, for jobs that start runs themselves.
static OWN_BINARY: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::current_exe().ok());

/// A program, ready to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The executable as it is looked up, for example in PATH.
    pub name: String,
    /// What follows it.
    pub arguments: Vec<String>,
    /// Added to the worker's environment.
    pub variables: BTreeMap<String, String>,
    /// Where it starts; the worker's own directory if absent.
    pub working_dir: Option<PathBuf>,
    /// What it reads on standard input.
    pub stdin: Vec<u8>,
}

impl Program {
    /// Fills in the placeholders of the run's definition.
    pub fn prepare(context: &RunContext<'_>) -> Result<Self, TemplateError> {
        let spec = &context.message.spec;
        let (name, arguments) = match &spec.execute {
            Execute::Shell(script) => ("/bin/sh".to_owned(), vec!["-c".to_owned(), script.clone()]),
            Execute::Command(templates) => {
                let mut words = templates.iter().map(|template| template.render(context));
                let name = words.next().transpose()?.unwrap_or_default();
                (name, words.collect::<Result<_, _>>()?)
            }
        };
        let json = context.arguments();
        Ok(Self {
            name,
            arguments,
            variables: context.variables(&json),
            working_dir: spec.working_dir.clone(),
            stdin: json.into_bytes(),
        })
    }

    /// The command with its standard streams. The reason, if standard input cannot be made.
    pub(super) fn to_command(&self, result: &Path) -> Result<Command, String> {
        let stdin = file_of(&self.stdin)
            .map_err(|error| format!("its standard input cannot be made: {error}"))?;
        let mut command = Command::new(&self.name);
        command
            .args(&self.arguments)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(directory) = &self.working_dir {
            command.current_dir(directory);
            if let Ok(absolute) = std::path::absolute(directory) {
                command.env("PWD", absolute);
            }
        }
        command.envs(&self.variables);
        command.env("ORCHESTRATOR_RESULT", result);
        if let Some(binary) = &*OWN_BINARY {
            command.env("ORCHESTRATOR_BIN", binary);
        }
        Ok(command)
    }

    /// Why the operating system refused to start it, with what mends it.
    pub(super) fn not_started(&self, error: &io::Error) -> String {
        if let Some(reason) = self.working_dir.as_deref().and_then(unusable_directory) {
            return reason;
        }
        let name = &self.name;
        match error.kind() {
            io::ErrorKind::NotFound if self.name_exists() => format!(
                "`{name}` cannot be executed: the interpreter in its first line (`#!`) does not exist on this worker"
            ),
            io::ErrorKind::NotFound if name.contains('/') => format!(
                "`{name}` does not exist; correct the path in `command`, or install it on this worker"
            ),
            io::ErrorKind::NotFound => format!(
                "`{name}` is not in the worker's PATH; install it, or give its full path in `command`"
            ),
            io::ErrorKind::PermissionDenied => format!(
                "`{name}` is not executable by this worker; `chmod +x` it, or name its interpreter in `command`"
            ),
            io::ErrorKind::ArgumentListTooLong => format!(
                "the arguments and environment of `{name}` are too long for the operating system; hand large data over on standard input or in a file"
            ),
            _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => format!(
                "`{name}` is neither a program of this machine nor a script that begins with `#!`; name its interpreter in `command`"
            ),
            _ => format!("`{name}` cannot be started: {error}"),
        }
    }

    fn name_exists(&self) -> bool {
        let base = self.working_dir.as_deref().unwrap_or(Path::new(""));
        self.name.contains('/') && base.join(&self.name).exists()
    }
}

fn unusable_directory(directory: &Path) -> Option<String> {
    let shown = directory.display();
    match std::fs::read_dir(directory) {
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(format!(
            "the working directory `{shown}` does not exist on this worker; create it, or correct `working_dir`"
        )),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Some(format!(
            "the working directory `{shown}` is not a directory; correct `working_dir`"
        )),
        Err(_) if rustix::fs::access(directory, rustix::fs::Access::EXEC_OK).is_ok() => None,
        Err(error) => Some(format!(
            "the working directory `{shown}` cannot be entered: {error}; permit it, or correct `working_dir`"
        )),
    }
}

/// A file without a name: a program reads it like a pipe that has been filled and closed, and
/// neither can wait for the other.
fn file_of(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("stdin", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}
