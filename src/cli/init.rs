//! `orchestrator init`: the files that an installation begins with.
//!
//! Never overwrites anything: what is there already is kept, and said.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;

use super::{CliError, Exit, Globals, globals::Format, output};

/// The program's place in the units that packages install.
const PROGRAM: &str = "/usr/bin/orchestrator";
/// The configuration's place in them.
const CONFIGURATION: &str = "/etc/orchestrator";

/// Write a first schedule, with comments, and what goes with it; nothing is overwritten
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where to
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,

    /// Also the configuration of a nats-server for a trial
    // In place of the common option, which wants a URL.
    #[arg(long, num_args = 0, default_missing_value = "nats://127.0.0.1:4222")]
    nats: Option<String>,

    /// Also units for systemd, with an environment file
    #[arg(long)]
    systemd: bool,
}

/// A file to write.
struct Draft {
    path: PathBuf,
    text: String,
    mode: u32,
}

impl Draft {
    fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
            mode: 0o644,
        }
    }
}

/// What became of the files.
#[derive(Debug, Default, Serialize)]
struct Report {
    written: Vec<PathBuf>,
    kept: Vec<PathBuf>,
}

pub(super) fn run(args: &InitArgs, globals: &Globals) -> Result<(), CliError> {
    let mut report = Report::default();
    for draft in drafts(args)? {
        let path = args.dir.join(&draft.path);
        match write(&path, &draft) {
            Ok(()) => report.written.push(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => report.kept.push(path),
            Err(error) => {
                let message = format!("cannot write {}: {error}", path.display());
                return Err(CliError::new(Exit::Failed, message));
            }
        }
    }
    match globals.output {
        Format::Json => output::json(&report)?,
        Format::Name => report
            .written
            .iter()
            .try_for_each(|path| output::to_stdout(&path.display().to_string()))?,
        Format::Table => {
            let said = [("wrote", &report.written), ("kept", &report.kept)];
            for (what, paths) in said {
                for path in paths {
                    output::to_stdout(&format!("{what:<6} {}", path.display()))?;
                }
            }
        }
    }
    if !globals.quiet {
        output::to_stderr(&next_steps(args));
    }
    Ok(())
}

fn drafts(args: &InitArgs) -> Result<Vec<Draft>, CliError> {
    let mut drafts = vec![
        Draft::new(
            "schedules/first.toml",
            include_str!("../../deploy/first/first.toml"),
        ),
        Draft::new(
            "worker.toml",
            include_str!("../../deploy/first/worker.toml"),
        ),
    ];
    if args.nats.is_some() {
        let conf = include_str!("../../deploy/first/nats-server.conf");
        drafts.push(Draft::new("nats-server.conf", conf));
    }
    if args.systemd {
        let program = std::env::current_exe()?;
        let dir = std::path::absolute(&args.dir)?;
        drafts.extend(units(&program, &dir)?);
    }
    Ok(drafts)
}

/// The units of the packages, for a program and a configuration at other places.
fn units(program: &Path, dir: &Path) -> Result<Vec<Draft>, CliError> {
    let is_at_home = |path: &Path| {
        ["/home", "/root", "/run/user"]
            .iter()
            .any(|home| path.starts_with(home))
    };
    let home = match is_at_home(program) || is_at_home(dir) {
        true => "ProtectHome=read-only",
        false => "ProtectHome=yes",
    };
    let (program, dir) = (word(program)?, word(dir)?);
    let moved = |text: &str| {
        text.replace(PROGRAM, program)
            .replace(CONFIGURATION, dir)
            .replace("\nProtectHome=yes", &format!("\n{home}"))
    };
    let units = [
        (
            "orchestrator-beat.service",
            include_str!("../../deploy/orchestrator-beat.service"),
        ),
        (
            "orchestrator-worker@.service",
            include_str!("../../deploy/orchestrator-worker@.service"),
        ),
        (
            "orchestrator-up.service",
            include_str!("../../deploy/orchestrator-up.service"),
        ),
        (
            "orchestrator.target",
            include_str!("../../deploy/orchestrator.target"),
        ),
        (
            "sysusers.d/orchestrator.conf",
            include_str!("../../deploy/sysusers.conf"),
        ),
    ];
    let mut drafts: Vec<_> = units
        .iter()
        .map(|(name, text)| Draft::new(Path::new("systemd").join(name), moved(text)))
        .collect();
    let environment = moved(include_str!("../../deploy/orchestrator.env"));
    drafts.push(Draft {
        mode: 0o600,
        ..Draft::new("orchestrator.env", environment)
    });
    Ok(drafts)
}

/// A path as a unit takes it: systemd reads blanks, quotes and `%` as its own.
fn word(path: &Path) -> Result<&str, CliError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
    match path.to_str() {
        Some(text) if text.chars().all(is_plain) => Ok(text),
        _ => {
            let message = format!("no unit can be written for {}", path.display());
            let help = "use a path of letters, digits and /._-+@: only";
            Err(CliError::new(Exit::Usage, message).with_help(help))
        }
    }
}

fn write(path: &Path, draft: &Draft) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // Not there at this very moment: a file that somebody else makes just now is kept, too.
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(draft.mode)
        .open(path)?;
    file.write_all(draft.text.as_bytes())
}

/// What to do now.
fn next_steps(args: &InitArgs) -> String {
    let here = match args.dir == Path::new(".") {
        true => String::new(),
        false => format!("    cd {}\n", args.dir.display()),
    };
    let mut text = format!("\n{here}    orchestrator check\n");
    text.push_str(match args.nats.is_some() {
        true => {
            "    nats-server -c nats-server.conf\n    orchestrator beat\n    orchestrator worker --queue default\n"
        }
        false => "    orchestrator up\n",
    });
    text.push_str("    orchestrator runs\n");
    if args.systemd {
        let dir = std::path::absolute(&args.dir).unwrap_or_else(|_| args.dir.clone());
        let dir = dir.display();
        let units = match args.nats.is_some() {
            true => "orchestrator-beat orchestrator-worker@default",
            false => "orchestrator-up",
        };
        text.push_str(&format!(
            "\nAs services, as root:\n    \
             install -m 0644 -t /etc/systemd/system {dir}/systemd/orchestrator*\n    \
             install -D -m 0644 -t /etc/sysusers.d {dir}/systemd/sysusers.d/orchestrator.conf\n    \
             systemd-sysusers && systemctl daemon-reload\n    \
             systemctl enable --now {units}\n"
        ));
    }
    text.trim_end().to_owned()
}
