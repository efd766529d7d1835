//! `orchestrator man` and `orchestrator completions`: what packages install beside the program.

use std::{io::Write, path::PathBuf};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, CliError, Exit};

/// The manual: its first page on standard output, or all pages as files
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for each command into this directory, which is made if it is missing
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What a shell needs to complete commands and options, on standard output
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub(super) fn man(args: &ManArgs) -> Result<(), CliError> {
    let command = Cli::command();
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        std::io::stdout().write_all(&page)?;
        return Ok(());
    };
    let written = std::fs::create_dir_all(dir).and_then(|()| {
        // Of hidden commands there is no page.
        clap_mangen::generate_to(command, dir)
    });
    written.map_err(|error| {
        let shown = dir.display();
        let message = format!("the manual cannot be written to {shown}: {error}");
        CliError::new(Exit::Failed, message)
    })
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "orchestrator", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}
