//! The option that says where schedule files are, and how their findings are shown.

use std::path::PathBuf;

use clap::Args;

use super::{
    CliError, Exit, output,
    terminal::{harmless, one_line},
};
use crate::{
    clock,
    schedules::{self, Diagnostic, Loaded},
};

/// Where schedule files are.
#[derive(Debug, Clone, Args)]
pub struct SchedulesArgs {
    /// Directory with schedule files: its *.toml, without those in directories below
    #[arg(
        long,
        env = "ORCHESTRATOR_SCHEDULES",
        value_name = "DIR",
        default_value = "schedules"
    )]
    pub schedules: PathBuf,
}

impl SchedulesArgs {
    /// Loads the directory. Findings are shown; errors end the command with exit code 3.
    pub fn load(&self) -> Result<Loaded, CliError> {
        match schedules::load(std::slice::from_ref(&self.schedules), clock::now()) {
            Ok(loaded) => {
                show(&loaded.warnings);
                Ok(loaded)
            }
            Err(error) => {
                show(&error.diagnostics);
                Err(CliError::new(Exit::InvalidSchedules, error))
            }
        }
    }
}

/// Findings on standard error, with the offending text underlined. Whatever they quote of a file is harmless.
pub fn show(findings: &[Diagnostic]) {
    for finding in findings {
        let report = miette::Report::new(finding.cleaned(quoted, one_line));
        output::to_stderr_as_it_is(&format!("{report:?}"));
    }
}

/// Lines may end as on Windows.
fn quoted(text: &str) -> String {
    harmless(&text.replace("\r\n", "\n"))
}
