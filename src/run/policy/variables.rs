//! Which variables a job may set. Pure.

use std::collections::BTreeSet;

use super::{Found, RunMessage, Violation, WorkerPolicy, broken};

/// Names by which loaders, shells, interpreters and common tools are made to execute something else than what they were
/// started for; with `*` at their end what begins so. No such list is complete: that is what the rule `env` is for.
const LOADING: [&str; 76] = [
    // The loader and the C library.
    "LD_*",
    "GLIBC_TUNABLES",
    "GCONV_PATH",
    "NLSPATH",
    "LOCPATH",
    "MALLOC_*",
    "OPENSSL_*",
    "TERMINFO*",
    "TERMCAP",
    // Shells, and what they and others look for programs and files by.
    "PATH",
    "HOME",
    "SHELL",
    "SHELLOPTS",
    "ENV",
    "BASH*",
    "PS4",
    "PROMPT_COMMAND",
    "IFS",
    "CDPATH",
    "FPATH",
    "ZDOTDIR",
    "XDG_*",
    // Interpreters.
    "PYTHON*",
    "PERL5*",
    "PERLLIB",
    "PERLIO*",
    "RUBY*",
    "GEM_*",
    "BUNDLE_*",
    "NODE_*",
    "NPM_*",
    "npm_*",
    "DENO_*",
    "BUN_*",
    "JAVA_*",
    "_JAVA_*",
    "JDK_*",
    "CLASSPATH",
    "LUA_*",
    "PHP*",
    "R_*",
    "TCL*",
    "DOTNET_*",
    "CORECLR_*",
    "COMPlus_*",
    "MONO_*",
    "ERL_*",
    "ELIXIR_*",
    "JULIA_*",
    "GUILE_*",
    "OCAML*",
    "GHC*",
    "AWKPATH",
    "AWKLIBPATH",
    // Tools that start others.
    "GIT_*",
    "SSH_*",
    "RSYNC_*",
    "CVS_RSH",
    "CARGO_*",
    "RUSTC*",
    "RUSTFLAGS",
    "GOFLAGS",
    "MAKEFLAGS",
    "MAKEFILES",
    "GNUMAKEFLAGS",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "MANPAGER",
    "BROWSER",
    "LESSOPEN",
    "LESSCLOSE",
    "CURL_HOME",
    "WGETRC",
    "TAR_OPTIONS",
    "EMACS*",
];

impl WorkerPolicy {
    /// Every variable that the job sets is one of the list, if there is one.
    pub(super) fn check_listed_variables(
        &self,
        message: &RunMessage,
        found: Found<'_>,
    ) -> Result<(), Violation> {
        let Some(allowed) = &self.env else {
            return Ok(());
        };
        let is_allowed = |name: &str| allowed.iter().any(|glob| glob.matches(name));
        refuse("env", names(message, found).find(|name| !is_allowed(name)))
    }

    /// With a list of programs a variable must not make another one of them, unless whoever wrote the rules has written out
    /// its name.
    pub(super) fn check_loading_variables(
        &self,
        message: &RunMessage,
        found: Found<'_>,
    ) -> Result<(), Violation> {
        let is_written_out = |name: &str| {
            let mut allowed = self.env.iter().flatten();
            allowed.any(|glob| glob.as_str() == name)
        };
        let mut names = names(message, found);
        refuse(
            "executables",
            names.find(|name| loads(name) && !is_written_out(name)),
        )
    }
}

fn refuse(rule: &'static str, name: Option<&str>) -> Result<(), Violation> {
    match name {
        None => Ok(()),
        Some(name) => Err(Violation {
            mend: Some("`env` of the file that the worker's --policy names allows variables"),
            ..broken(rule, &format!("the variable `{name}`"))
        }),
    }
}

/// What the job sets, as a program finds it: a name ends at the first `=`.
fn names<'a>(message: &'a RunMessage, found: Found<'a>) -> impl Iterator<Item = &'a str> {
    let of_files = found.variables.into_iter().flat_map(BTreeSet::iter);
    let names = message.spec.env.keys().chain(of_files);
    names.map(|name| name.split_once('=').map_or(name.as_str(), |(name, _)| name))
}

fn loads(name: &str) -> bool {
    LOADING
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == *pattern,
        })
}
