//! `orchestrator check`: what is wrong in schedule files, all of it at once.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{CliError, Exit, Globals, globals::Format, output, schedules};
use crate::{
    clock,
    schedules::{Diagnostic, Loaded, load},
};

/// Checks schedule files and shows every mistake with its place.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Files or directories; the schedules directory if none is given
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help of the command")]
    pub schedules: schedules::SchedulesArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    jobs: usize,
    diagnostics: &'a [Diagnostic],
}

/// Exit code 3 if there are errors; warnings are shown and pass.
pub fn run(args: CheckArgs, globals: &Globals) -> Result<(), CliError> {
    let paths = match args.paths.is_empty() {
        true => vec![args.schedules.schedules],
        false => args.paths,
    };
    let loaded = load(&paths, clock::now());
    let (jobs, diagnostics) = match &loaded {
        Ok(loaded) => (loaded.set.len(), &loaded.warnings),
        Err(error) => (0, &error.diagnostics),
    };
    match globals.output {
        Format::Json => output::json(&Report {
            ok: loaded.is_ok(),
            jobs,
            diagnostics,
        })?,
        Format::Table | Format::Name => schedules::show(diagnostics),
    }
    match (loaded, globals.output) {
        (Ok(loaded), Format::Table) if !globals.quiet => output::to_stdout(&summary(&loaded)),
        (Ok(loaded), Format::Name) => loaded
            .set
            .iter()
            .try_for_each(|job| output::to_stdout(job.name.as_str())),
        (Ok(_), _) => Ok(()),
        (Err(_), Format::Json) => Err(CliError::silent(Exit::InvalidSchedules)),
        (Err(error), _) => Err(CliError::new(Exit::InvalidSchedules, error)),
    }
}

fn summary(loaded: &Loaded) -> String {
    let counted = |count: usize, noun: &str| match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    };
    let mut text = format!(
        "ok: {} in {}",
        counted(loaded.set.len(), "job"),
        counted(loaded.files, "file")
    );
    if !loaded.warnings.is_empty() {
        text.push_str(&format!(", {}", counted(loaded.warnings.len(), "warning")));
    }
    text
}
