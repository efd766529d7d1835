//! Where a program and its directory really are, to be compared with what is allowed.

use std::{ffi::OsString, fs, io, os::unix::fs::MetadataExt, path::PathBuf};

use rustix::fs::{Access, access};

use super::command::Program;

/// The bits of a mode that let somebody execute a file.
const ANYBODY_EXECUTES: u32 = 0o111;

/// What would be executed, and where, links followed; as far as it is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Located {
    /// The file that would be executed. Another user may not be able to execute the first one in the PATH: then all that
    /// it could come to.
    pub executables: Vec<PathBuf>,
    /// The directory in which it would start.
    pub working_dir: Option<PathBuf>,
    /// A file that another user may be able to execute, and this process cannot look at.
    pub hidden_executable: Option<PathBuf>,
    /// A directory that another user may be able to enter, and this process cannot look at.
    pub hidden_working_dir: Option<PathBuf>,
}

impl Program {
    /// Looks for it as an execution does.
    pub fn located(&self) -> Located {
        let here = std::env::current_dir().unwrap_or_default();
        let base = match &self.working_dir {
            Some(directory) => here.join(directory),
            None => here,
        };
        let search = match self.variables.get("PATH") {
            Some(own) => Some(OsString::from(own)),
            None => std::env::var_os("PATH"),
        };
        let mut located = Located::default();
        let candidates = self.candidates(search.as_deref()).into_iter();
        let mut candidates = candidates.map(|path| base.join(path));
        match self.run_as {
            None => {
                // An execution goes on behind a directory of that name.
                let can_be_executed =
                    |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
                let found = candidates.find(can_be_executed);
                let real = found.and_then(|path| fs::canonicalize(path).ok());
                located.executables.extend(real);
            }
            Some(_) => candidates.for_each(|path| located.look_at(path)),
        }
        match fs::canonicalize(&base) {
            Ok(real) => located.working_dir = Some(real),
            Err(error) if self.run_as.is_some() && !is_absent(&error) => {
                located.hidden_working_dir = Some(base);
            }
            Err(_) => {}
        }
        located
    }
}

impl Located {
    /// A file that another user may be able to execute.
    fn look_at(&mut self, path: PathBuf) {
        let real = fs::metadata(&path).and_then(|found| {
            let is_program = found.is_file() && found.mode() & ANYBODY_EXECUTES != 0;
            is_program.then(|| fs::canonicalize(&path)).transpose()
        });
        match real {
            Ok(Some(real)) => self.executables.push(real),
            Ok(None) => {}
            Err(error) if is_absent(&error) => {}
            Err(_) => self.hidden_executable = self.hidden_executable.take().or(Some(path)),
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
    kinds.contains(&error.kind())
}
