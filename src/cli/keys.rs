//! `orchestrator keys`

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use rustix::{fs::RenameFlags, rand::GetRandomFlags};
use serde::Serialize;

use super::{CliError, Exit, Globals, globals::Format, named, output, signing};
use crate::run::{PublicKey, Signer};

/// The keys with which runs are signed
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a private key, in a new file that only its owner can read; print its public key and its id
    New {
        /// The file; it must not exist
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the public keys and their ids of files: private keys, public keys, directories of *.pub
    Show {
        /// The files
        #[arg(value_name = "FILE|DIR", required = true)]
        files: Vec<PathBuf>,
    },
}

/// A key as it is shown. As a line it is what `--trusted-keys` reads.
#[derive(Debug, Serialize)]
struct KeyView {
    key_id: String,
    public_key: String,
    file: PathBuf,
}

impl KeyView {
    fn of(key: &PublicKey, file: &Path) -> Self {
        Self {
            key_id: key.id().to_string(),
            public_key: key.to_string(),
            file: file.to_owned(),
        }
    }

    fn line(&self) -> String {
        format!("{} {}", self.public_key, self.key_id)
    }
}

pub(super) fn run(args: KeysArgs, globals: &Globals) -> Result<(), CliError> {
    match args.action {
        Action::New { file } => {
            let mut seed = [0; 32];
            let made = random(&mut seed).and_then(|()| {
                let signer = Signer::from_seed(&seed);
                write_new(&file, &signer)?;
                Ok(signer)
            });
            let signer = made.map_err(|error| cannot_make(&file, &error))?;
            let view = KeyView::of(signer.public(), &file);
            match globals.output {
                Format::Json => output::json(&view),
                Format::Table => output::to_stdout(&view.line()),
                Format::Name => output::to_stdout(&view.key_id),
            }
        }
        Action::Show { files } => {
            let mut views = Vec::new();
            for file in &files {
                views.extend(public_keys(file)?);
            }
            match globals.output {
                Format::Json => output::json(&views),
                Format::Table => views
                    .iter()
                    .try_for_each(|view| output::to_stdout(&view.line())),
                Format::Name => views
                    .iter()
                    .try_for_each(|view| output::to_stdout(&view.key_id)),
            }
        }
    }
}

fn public_keys(file: &Path) -> Result<Vec<KeyView>, CliError> {
    let is_private = file.is_file()
        && signing::read(file).is_ok_and(|text| {
            text.lines()
                .any(|line| line.starts_with("ed25519-private:"))
        });
    if is_private {
        let signer = signing::signer(file)?;
        return Ok(vec![KeyView::of(signer.public(), file)]);
    }
    let ring = signing::keyring(file)?;
    Ok(ring.keys().map(|key| KeyView::of(key, file)).collect())
}

fn cannot_make(file: &Path, error: &io::Error) -> CliError {
    let message = format!("no key is made at {}: {error}", named::shown(file));
    match error.kind() {
        io::ErrorKind::AlreadyExists => CliError::new(Exit::Conflict, message)
            .with_help("a key is never overwritten: name another file, or move this one away"),
        io::ErrorKind::NotFound => CliError::new(Exit::NotFound, message),
        io::ErrorKind::PermissionDenied => CliError::new(Exit::NotPermitted, message),
        _ => CliError::new(Exit::Failed, message),
    }
}

fn random(seed: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < seed.len() {
        filled += rustix::rand::getrandom(&mut seed[filled..], GetRandomFlags::empty())?;
    }
    Ok(())
}

/// Whole or not at all, and never over another file: written beside it, then renamed.
fn write_new(file: &Path, signer: &Signer) -> io::Result<()> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let written = write_partial(&partial, signer).and_then(|()| {
        let here = rustix::fs::CWD;
        rustix::fs::renameat_with(here, &partial, here, file, RenameFlags::NOREPLACE)?;
        let parent = file
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    });
    if written.is_err() {
        // It may not be there.
        let _ = fs::remove_file(&partial);
    }
    written
}

fn write_partial(partial: &Path, signer: &Signer) -> io::Result<()> {
    let mut writing = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(partial)?;
    let public = signer.public();
    write!(
        writing,
        "# The private key of orchestrator's key {}. Who reads it can run commands on workers that trust it.\n{}\n",
        public.id(),
        signer.secret()
    )?;
    writing.sync_all()
}
