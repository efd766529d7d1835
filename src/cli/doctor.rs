//! `orchestrator doctor`

use clap::Args;

use super::{CliError, Exit, Globals, connect, globals::Format, output};
use crate::{broker::RemarkKind, clock, ops};

/// Look for what is wrong: broker, beat, schedules, workers, jobs; and say how to mend it
///
/// Ends with 1 if something does not work, with 0 if there are warnings at most.
#[derive(Debug, Args)]
pub struct DoctorArgs {}

pub(super) async fn run(_args: DoctorArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let mut findings = ops::doctor(broker.as_ref(), clock::now()).await?;
    findings.extend(ops::room_on_disk(&globals.data_dir));
    match globals.output {
        Format::Json => output::json(&findings)?,
        Format::Table | Format::Name => {
            for finding in &findings {
                let state = match finding.state {
                    RemarkKind::Ok => "ok",
                    RemarkKind::Warning => "warning",
                    RemarkKind::Failed => "FAILED",
                };
                output::to_stdout(&format!(
                    "{state:<8} {:<13} {}",
                    finding.check, finding.message
                ))?;
                if let Some(help) = &finding.help {
                    output::to_stdout(&format!("{:<22} {help}", ""))?;
                }
            }
        }
    }
    match findings
        .iter()
        .any(|finding| finding.state == RemarkKind::Failed)
    {
        true => Err(CliError::silent(Exit::Failed)),
        false => Ok(()),
    }
}
