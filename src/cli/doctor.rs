//! `orchestrator doctor`

use std::path::PathBuf;

use clap::Args;

use super::{CliError, Exit, Globals, connect, globals::Format, output};
use crate::{
    broker::{Broker, RemarkKind},
    clock, exec,
    ops::{self, Finding},
};

/// Variables that name files with secrets, beside those of our options.
const SECRETS: [&str; 4] = [
    "NATS_CREDS",
    "NATS_KEY",
    "NATS_NKEY",
    "ORCHESTRATOR_SIGNING_KEY",
];

/// Look for what is wrong: broker, beat, schedules, workers, jobs, this machine; and say how to mend it
///
/// Ends with 1 if something does not work, with 0 if there are warnings at most.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The monitoring of a nats-server, which tells when it syncs; may be repeated, `off` for none
    /// [default: port 8222 of each server]
    #[arg(
        long = "monitor",
        env = "ORCHESTRATOR_MONITOR",
        value_name = "URL",
        value_delimiter = ','
    )]
    monitors: Vec<String>,
}

pub(super) async fn run(args: DoctorArgs, globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let mut findings = ops::doctor(broker.as_ref(), clock::now()).await?;
    findings.extend(durability(args, broker.as_ref()).await);
    findings.extend(ops::room_on_disk(&globals.data_dir));
    findings.extend(ops::data_directory(&globals.data_dir));
    let secrets = secrets(globals);
    let open = secrets
        .iter()
        .filter_map(|(what, path)| ops::open_secret(what, path));
    findings.extend(open);
    findings.push(ops::open_files());
    match globals.output {
        Format::Json => output::json(&findings)?,
        Format::Table | Format::Name => print(&findings)?,
    }
    match findings
        .iter()
        .any(|finding| finding.state == RemarkKind::Failed)
    {
        true => Err(CliError::silent(Exit::Failed)),
        false => Ok(()),
    }
}

/// Files with secrets that somebody names, and who does.
fn secrets(globals: &Globals) -> Vec<(&'static str, PathBuf)> {
    let access = &globals.access;
    let options = [
        ("--nats-creds", &access.nats_creds),
        ("--nats-nkey", &access.nats_nkey),
        ("--nats-password-file", &access.nats_password_file),
        ("--nats-token-file", &access.nats_token_file),
        ("--nats-key", &access.nats_key),
    ];
    let options = options
        .into_iter()
        .filter_map(|(name, path)| Some((name, path.clone()?)));
    // NATS_NKEY may be the seed itself: there is no file of that name.
    let variables = SECRETS.iter().filter_map(|name| {
        let path = std::env::var_os(name)?;
        Some((*name, PathBuf::from(path)))
    });
    options.chain(variables).collect()
}

/// What the servers do not tell their clients.
async fn durability(args: DoctorArgs, broker: &dyn Broker) -> Vec<Finding> {
    let Some(servers) = broker.servers() else {
        return Vec::new();
    };
    let monitors = match args.monitors.is_empty() {
        true => ops::usual_monitors(servers),
        false => args.monitors,
    };
    let mut findings = Vec::new();
    for monitor in monitors.iter().filter(|monitor| *monitor != "off") {
        let answer = exec::fetch(&format!("{}/varz", monitor.trim_end_matches('/'))).await;
        let answer = answer.as_deref().map_err(String::as_str);
        findings.push(ops::durability(monitor, answer));
    }
    findings
}

fn print(findings: &[Finding]) -> Result<(), CliError> {
    for finding in findings {
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
    Ok(())
}
