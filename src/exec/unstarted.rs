//! Why a program could not be started, in words that name the thing, its place and the mend.

use std::{io, path::Path};

use super::{
    command::Program,
    start::{Failure, Step},
};
use crate::job::UserName;

impl Program {
    /// For the run's record.
    pub(super) fn not_started(&self, failure: &Failure) -> String {
        let error = &failure.error;
        let user = self.run_as.as_ref();
        match (failure.step, user) {
            (Step::Preparation, _) => format!("`{}` cannot be started: {error}", self.name),
            (Step::User, user) => {
                let user = user.map_or("its user", UserName::as_str);
                format!(
                    "the worker cannot become the user `{user}`: {error}; in a unit this takes CAP_SETUID, CAP_SETGID, CAP_KILL, CAP_CHOWN and PrivateUsers=no"
                )
            }
            (Step::Directory, user) => self.not_entered(error, user),
            (Step::Program, user) => self.not_executed(error, user),
        }
    }

    fn not_executed(&self, error: &io::Error, user: Option<&UserName>) -> String {
        let name = &self.name;
        let code = error.raw_os_error();
        match (error.kind(), user) {
            (io::ErrorKind::NotFound, _) if self.name_exists() => format!(
                "`{name}` cannot be executed: the interpreter in its first line (`#!`) does not exist on this worker"
            ),
            (io::ErrorKind::NotFound, _) if name.contains('/') => format!(
                "`{name}` does not exist; correct the path in `command`, or install it on this worker"
            ),
            (io::ErrorKind::NotFound, _) => format!(
                "`{name}` is not in the worker's PATH; install it, or give its full path in `command`"
            ),
            (io::ErrorKind::PermissionDenied, None) => format!(
                "`{name}` is not executable by this worker; `chmod +x` it, or name its interpreter in `command`"
            ),
            (io::ErrorKind::PermissionDenied, Some(user)) if !name.contains('/') => format!(
                "`{name}` cannot be executed by the user `{user}` from any directory of the PATH; install it where that user can reach it, or give its full path in `command`"
            ),
            (io::ErrorKind::PermissionDenied, Some(user)) => format!(
                "`{name}` is not executable by the user `{user}`; `chmod +x` it and the directories above it for that user, or correct `run_as`"
            ),
            (io::ErrorKind::ArgumentListTooLong, _) => format!(
                "the arguments and environment of `{name}` are too long for the operating system; hand large data over on standard input or in a file"
            ),
            _ if code == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => format!(
                "`{name}` is neither a program of this machine nor a script that begins with `#!`; name its interpreter in `command`"
            ),
            (_, Some(user)) if code == Some(rustix::io::Errno::AGAIN.raw_os_error()) => format!(
                "`{name}` cannot be started: the user `{user}` has as many processes as it may; end some, or raise its limit (nproc)"
            ),
            _ => format!("`{name}` cannot be started: {error}"),
        }
    }

    fn not_entered(&self, error: &io::Error, user: Option<&UserName>) -> String {
        let own = std::env::current_dir().unwrap_or_default();
        let directory = match &self.working_dir {
            Some(directory) => format!("the working directory `{}`", directory.display()),
            None => format!("the worker's own directory `{}`", own.display()),
        };
        match (error.kind(), user) {
            (io::ErrorKind::NotFound, _) => format!(
                "{directory} does not exist on this worker; create it, or correct `working_dir`"
            ),
            (io::ErrorKind::NotADirectory, _) => {
                format!("{directory} is not a directory; correct `working_dir`")
            }
            (_, None) => {
                format!(
                    "{directory} cannot be entered: {error}; permit it, or correct `working_dir`"
                )
            }
            (_, Some(user)) => format!(
                "{directory} cannot be entered by the user `{user}`: {error}; permit it there and in the directories above, or set `working_dir` to one that this user may enter"
            ),
        }
    }

    fn name_exists(&self) -> bool {
        let base = self.working_dir.as_deref().unwrap_or(Path::new(""));
        self.name.contains('/') && base.join(&self.name).exists()
    }
}
