//! Whose runs are signed and whose are taken: the options for it, and the files of keys.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{CliError, Exit, named};
use crate::{
    broker::nats,
    run::{Authority, Keyring, Signer},
};

/// What a systemd unit calls the key in its `LoadCredential=`.
const CREDENTIAL: &str = "orchestrator-signing-key";
/// Names the keys of publishers, to publishers and to workers.
const TRUSTED_KEYS: &str = "ORCHESTRATOR_TRUSTED_KEYS";
/// The files of a directory that are read.
const EXTENSION: &str = "pub";
/// The largest file of keys.
const MAX_FILE: u64 = 1 << 20;

/// Options of everything that publishes runs.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Signing {
    /// Sign the runs with the private key in this file [default: systemd's credential `orchestrator-signing-key`]
    #[arg(
        long,
        env = "ORCHESTRATOR_SIGNING_KEY",
        hide_env_values = true,
        value_name = "FILE"
    )]
    signing_key: Option<PathBuf>,

    /// The public keys of everybody who may publish, a file or a directory of *.pub: whose definitions of jobs are
    /// signed with a run of them. What others put in the way of a run is removed
    #[arg(long, env = TRUSTED_KEYS, value_name = "FILE|DIR")]
    trusted_keys: Option<PathBuf>,
}

impl Signing {
    /// Reads the keys; `None`: nothing is signed.
    pub(super) fn authority(&self) -> Result<Option<Authority>, CliError> {
        let Some(path) = self.signing_key.clone().or_else(of_the_unit) else {
            return Ok(None);
        };
        let signer = signer(&path)?;
        let trusted = self.trusted_keys.as_deref().map(keyring).transpose()?;
        Ok(Some(Authority::new(signer, trusted)))
    }
}

fn of_the_unit() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(CREDENTIAL);
    path.exists().then_some(path)
}

/// Options of workers.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Trust {
    /// Execute only runs that are signed by one of these public keys: a file, or a directory of *.pub. Read again on
    /// SIGHUP
    #[arg(long, env = TRUSTED_KEYS, value_name = "FILE|DIR")]
    trusted_keys: Option<PathBuf>,

    /// Do not start without --trusted-keys [default where NATS is not on loopback]
    #[arg(long, env = "ORCHESTRATOR_REQUIRE_SIGNED")]
    require_signed: bool,

    /// Execute what whoever can write to NATS asks for, unsigned
    #[arg(
        long,
        env = "ORCHESTRATOR_TRUST_BROKER",
        conflicts_with_all = ["trusted_keys", "require_signed"]
    )]
    trust_broker: bool,
}

impl Trust {
    /// What a job's own `orchestrator` commands need to know whom to trust: the keys are public.
    pub(super) fn variable(&self) -> Option<(String, String)> {
        let path = std::path::absolute(self.trusted_keys.as_deref()?).ok()?;
        Some((TRUSTED_KEYS.to_owned(), path.to_string_lossy().into_owned()))
    }

    /// The keys that are trusted; `None`: everybody is, because that was asked for, or because nobody else is there.
    pub(super) fn keys(&self, url: &str) -> Result<Option<Keyring>, CliError> {
        if let Some(path) = &self.trusted_keys {
            return keyring(path).map(Some);
        }
        let why = match (self.require_signed, nats::is_on_loopback(url)) {
            (true, _) => "--require-signed without --trusted-keys: no run could be executed",
            (false, true) => return Ok(None),
            (false, false) if self.trust_broker => return Ok(None),
            (false, false) => {
                "NATS is not on loopback, and no keys are trusted: whoever can write to it could run commands here"
            }
        };
        Err(CliError::new(Exit::Usage, why).with_help(
            "make a key with `orchestrator keys new FILE`, give it to beat with --signing-key and its public part to \
             workers with --trusted-keys; or say --trust-broker if everybody who can write to NATS may",
        ))
    }
}

/// Reads a private key.
pub(super) fn signer(path: &Path) -> Result<Signer, CliError> {
    let bad = |what: String| {
        let message = format!("the signing key {}: {what}", named::shown(path));
        CliError::new(Exit::Usage, message)
    };
    let text = read(path).map_err(|error| {
        bad(error.to_string()).with_help("`orchestrator keys new FILE` makes one")
    })?;
    let mode = fs::metadata(path).map_or(0, |found| found.permissions().mode());
    if mode & 0o007 != 0 {
        let help = format!("chmod 600 {}", path.display());
        return Err(bad("everybody on this machine may read it".to_owned()).with_help(help));
    }
    let mut lines = text.lines().map(str::trim);
    let line = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    line.unwrap_or_default()
        .parse()
        .map_err(|error: crate::run::KeyError| bad(error.to_string()))
}

/// Reads the public keys of a file, or of all `*.pub` of a directory.
pub(super) fn keyring(path: &Path) -> Result<Keyring, CliError> {
    let bad = |path: &Path, what: String| {
        let message = format!("the trusted keys {}: {what}", named::shown(path));
        CliError::new(Exit::Usage, message)
    };
    let mut ring = Keyring::default();
    for file in files(path).map_err(|error| bad(path, error.to_string()))? {
        let text = read(&file).map_err(|error| bad(&file, error.to_string()))?;
        let keys = Keyring::parse(&text).map_err(|error| bad(&file, error.to_string()))?;
        ring.extend(keys);
    }
    if ring.is_empty() {
        let help = "`orchestrator keys show FILE` prints the public part of a key: one a line";
        return Err(bad(path, "there is no key in it".to_owned()).with_help(help));
    }
    Ok(ring)
}

fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == EXTENSION)
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The text of a file that may be anything.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}
