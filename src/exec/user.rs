//! Who a program is executed as, if not as the user of this process: found out before anything is started.

use std::{
    ffi::{OsStr, OsString},
    sync::LazyLock,
};

use rustix::{
    process::geteuid,
    thread::{CapabilitySet, capabilities},
};

use super::start::{Account, Identity};
use crate::job::UserName;

/// What it takes to start a program as another user, and to end it again.
const NEEDED: [(&str, CapabilitySet); 4] = [
    ("CAP_SETUID", CapabilitySet::SETUID),
    ("CAP_SETGID", CapabilitySet::SETGID),
    ("CAP_KILL", CapabilitySet::KILL),
    ("CAP_CHOWN", CapabilitySet::CHOWN),
];

/// The shell of those whose entry names none.
const DEFAULT_SHELL: &str = "/bin/sh";

/// A user that a program can be executed as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunAs {
    pub(super) name: UserName,
    pub(super) identity: Identity,
    home: OsString,
    shell: OsString,
}

/// Why a program cannot be executed as a user; each with a reason for the record of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoUser {
    /// Nor could it be if it were tried again.
    Lasting(String),
    /// It cannot be told for the moment.
    Passing(String),
}

impl NoUser {
    pub(super) fn reason(self) -> String {
        match self {
            Self::Lasting(reason) | Self::Passing(reason) => reason,
        }
    }
}

impl RunAs {
    /// Looks the user up. May wait for a directory of users.
    fn find(name: &UserName) -> Result<Self, NoUser> {
        let here = here();
        let unread = |what: &str, error: std::io::Error| {
            NoUser::Passing(format!(
                "{what} of the user `{name}` cannot be looked up on {here}: {error}"
            ))
        };
        let account = Account::named(name.as_str()).map_err(|error| unread("the entry", error))?;
        let account = account.ok_or_else(|| {
            NoUser::Lasting(format!(
                "the user `{name}` does not exist on {here}, the machine of the worker; make it there (useradd), or correct `run_as`"
            ))
        })?;
        let lacking = lacking();
        let identity = match lacking.is_empty() {
            true => Identity::Of {
                uid: account.uid,
                gid: account.gid,
                groups: account
                    .groups()
                    .map_err(|error| unread("the groups", error))?,
            },
            false if account.uid == geteuid() => Identity::Own,
            false => {
                return Err(NoUser::Lasting(format!(
                    "the worker on {here} cannot run anything as `{name}`: it runs as `{}` and lacks {}; run it as root or as that user, or remove `run_as`",
                    own_user(),
                    lacking.join(", ")
                )));
            }
        };
        Ok(Self {
            name: name.clone(),
            identity,
            home: account.home,
            shell: match account.shell.is_empty() {
                true => DEFAULT_SHELL.into(),
                false => account.shell,
            },
        })
    }

    /// Why a job that cannot be ended for sure is not begun.
    pub(super) fn out_of_sight(&self) -> String {
        format!(
            "a job of the user `{}` could not be ended for sure: the processes of other users are hidden from this worker in /proc; give it CAP_SYS_PTRACE, ProtectProc=default in its unit, or control groups (Delegate=yes)",
            self.name
        )
    }

    /// The variables that tell a program whose it is.
    pub(super) fn variables(&self) -> [(&'static OsStr, &OsStr); 4] {
        let name = OsStr::new(self.name.as_str());
        [
            ("HOME", self.home.as_os_str()),
            ("USER", name),
            ("LOGNAME", name),
            ("SHELL", self.shell.as_os_str()),
        ]
        .map(|(variable, value)| (OsStr::new(variable), value))
    }
}

/// Looks a user up, on a thread that may wait.
pub(super) async fn find(name: &UserName) -> Result<RunAs, NoUser> {
    let name = name.clone();
    let found = tokio::task::spawn_blocking(move || RunAs::find(&name)).await;
    found.unwrap_or_else(|_| Err(NoUser::Passing("this worker is ending".to_owned())))
}

/// Why nothing will be executed here as this user, if so: a reason for the record of a run. What cannot be told for the
/// moment is left to the attempt.
pub async fn cannot_run_as(name: &UserName) -> Option<String> {
    match find(name).await {
        Err(NoUser::Lasting(reason)) => Some(reason),
        Err(NoUser::Passing(_)) | Ok(_) => None,
    }
}

/// The user of this process, by name or else by number.
pub fn own_user() -> &'static str {
    static OWN: LazyLock<String> = LazyLock::new(|| match Account::own() {
        Ok(Some(account)) => account.name.to_string_lossy().into_owned(),
        Ok(None) | Err(_) => geteuid().as_raw().to_string(),
    });
    &OWN
}

/// The capabilities that this process lacks to start programs as others.
fn lacking() -> Vec<&'static str> {
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let lacks = |(_, needed): &&(&str, CapabilitySet)| !effective.contains(*needed);
    NEEDED.iter().filter(lacks).map(|(name, _)| *name).collect()
}

fn here() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().into_owned()
}
