//! `orchestrator nkey`

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf};

use clap::Args;

use super::{CliError, Exit, named, output};
use crate::broker::nats;

/// Make an nkey, with which a user gets into NATS: the seed goes into a file, the public key is printed
///
/// The server's configuration names the public key, `--nats-nkey` the file.
#[derive(Debug, Args)]
pub struct NkeyArgs {
    /// Where the seed is to go; the file must not exist yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(args: &NkeyArgs) -> Result<(), CliError> {
    let path = named::shown(&args.file);
    let failed =
        |error: &dyn std::fmt::Display| CliError::new(Exit::Failed, format!("{path}: {error}"));
    let (seed, public) = nats::new_nkey().map_err(|error| failed(&error))?;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&args.file);
    let mut file = match file {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let message = format!("{path} exists already, and may be in use");
            return Err(CliError::new(Exit::Conflict, message).with_help("name another file"));
        }
        file => file.map_err(|error| failed(&error))?,
    };
    let written = writeln!(file, "{seed}").and_then(|()| file.sync_all());
    written.map_err(|error| failed(&error))?;
    output::to_stdout(&public)?;
    Ok(())
}
