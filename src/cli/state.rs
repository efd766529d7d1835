//! `orchestrator state`

mod file;

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

use self::file::Target;
use super::{CliError, Exit, Globals, connect, globals::Format, output, signing::Signing};
use crate::{
    clock,
    ops::{self, Amount, Extent, Import, InstallationState},
};

/// What an installation knows, as a file: to move it, or to keep a copy
#[derive(Debug, Args)]
pub struct StateArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write definitions, watermark, pauses, last runs, waiting runs and dead letters to a file
    ///
    /// Without the records and logs of runs that have ended. Arguments of runs are in it: keep it safe.
    Export {
        /// The file; `-` is standard output. Replaced when the new one is whole; links are followed, devices and pipes written to
        #[arg(value_name = "FILE", default_value = "-")]
        file: PathBuf,
    },
    /// Put what such a file knows into an installation without a state
    ///
    /// Stop beat and workers there until it is done: while a beat is at work it is refused (exit code 7). Stop those of the old
    /// installation for good before you export, or both will execute what waits. Its checksum tells of damage, not of who
    /// wrote the file: what is signed here is what the file says then.
    Import {
        /// The file; `-` is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,

        /// Also into one that has a state: its values are replaced, its runs stay
        #[arg(long)]
        replace: bool,

        /// With a key, sign also the runs that nobody has signed, as those of `up`: say so only of a file that nobody else
        /// could write to. Without it they become dead letters
        #[arg(long)]
        sign_unsigned: bool,

        #[command(flatten)]
        signing: Signing,
    },
}

pub(super) async fn run(args: StateArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = match &args.action {
        Action::Import { signing, .. } => connect::publishing_broker(globals, signing).await?,
        Action::Export { .. } => connect::any_broker(globals).await?,
    };
    match args.action {
        Action::Export { file } => {
            let state = ops::export_state(broker.as_ref(), Extent::Whole, clock::now()).await?;
            let bytes = state
                .encode()
                .map_err(|error| CliError::new(Exit::Failed, error))?;
            let written = Target::of(&file).and_then(|target| match target {
                Target::Output => std::io::stdout().lock().write_all(&bytes).map(|()| true),
                Target::Straight(path) => file::write_straight(&path, &bytes).map(|()| false),
                Target::Anew(path) => file::write_anew(&path, &bytes).map(|()| false),
            });
            match written.map_err(|error| at(&file, &error))? {
                true => output::to_stderr(&told("exported", state.amount())),
                false => tell("exported", state.amount(), globals)?,
            }
            Ok(())
        }
        Action::Import {
            file,
            replace,
            sign_unsigned,
            ..
        } => {
            let bytes = read(&file).map_err(|error| at(&file, &error))?;
            let state = InstallationState::decode(&bytes).map_err(|reason| {
                CliError::new(Exit::Failed, format!("{}: {reason}", file.display()))
            })?;
            ops::refuse_beside_a_beat(broker.as_ref(), clock::now()).await?;
            let amount = ops::import_state(
                broker.as_ref(),
                &state,
                Import {
                    replace,
                    sign_unsigned,
                },
            );
            let amount = amount.await?;
            tell_of_unsigned(amount.unsigned);
            tell("imported", amount, globals)
        }
    }
}

fn tell(what: &str, amount: Amount, globals: &Globals) -> Result<(), CliError> {
    match globals.output {
        Format::Json => output::json(&amount),
        Format::Name | Format::Table => {
            output::to_stderr(&told(what, amount));
            Ok(())
        }
    }
}

fn told(what: &str, amount: Amount) -> String {
    let Amount {
        values, runs, dead, ..
    } = amount;
    format!("{what} {values} values, {runs} runs, {dead} dead letters")
}

fn tell_of_unsigned(runs: usize) {
    if runs > 0 {
        output::to_stderr(&format!(
            "{runs} runs that nobody signed became dead letters: look at them, and `orchestrator dead retry` those that you \
             know by their numbers. The file of an `up`, where nobody signs, is imported with --sign-unsigned if nobody else \
             could write to it"
        ));
    }
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    fs::read(file)
}

fn at(file: &Path, error: &std::io::Error) -> CliError {
    let told = CliError::new(Exit::Failed, format!("{}: {error}", file.display()));
    match (error.kind(), file.parent()) {
        (std::io::ErrorKind::NotFound, Some(directory))
            if !directory.as_os_str().is_empty() && !directory.exists() =>
        {
            told.with_help(format!("make the directory {} first", directory.display()))
        }
        _ => told,
    }
}
