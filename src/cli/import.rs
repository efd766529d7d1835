//! `orchestrator import`: schedules of cron, Celery and Kubernetes as a schedule file.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use chrono_tz::Tz;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{CliError, Exit, Globals, globals::Format, output, schedules::show};
use crate::{
    clock,
    schedules::{
        Diagnostic, Severity,
        import::{self, Imported, Input, MAX_BYTES, Target, Users},
        nearest,
    },
};

/// So many findings are shown; the file has them all as comments.
const SHOWN: usize = 100;

/// Writes the schedules of another scheduler as a schedule file, with comments on what could not be carried over.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 everything was imported, 1 some entries are in the output as comments only, \
    3 the input cannot be read, 7 the file to write exists"
)]
pub struct ImportArgs {
    #[command(subcommand)]
    #[allow(missing_docs, reason = "clap would show it as help of the command")]
    pub source: Source,
}

/// Where the schedules come from.
#[derive(Debug, Subcommand)]
pub enum Source {
    /// A crontab: of a user, /etc/crontab, or a file of /etc/cron.d
    Crontab {
        #[command(flatten)]
        #[allow(missing_docs, reason = "clap would show it as help of the command")]
        common: Common,
        /// The entries have a user before the command; known of /etc/crontab and /etc/cron.d
        #[arg(long)]
        system: bool,
    },
    /// A JSON dump of Celery's `beat_schedule`
    Celery {
        #[command(flatten)]
        #[allow(missing_docs, reason = "clap would show it as help of the command")]
        common: Common,
        /// Keep the Celery workers: jobs send the tasks of this app to them, instead of calling the functions
        #[arg(long, value_name = "APP")]
        app: Option<String>,
    },
    /// CronJobs of Kubernetes, in YAML or JSON: several documents, and lists
    Kubernetes {
        #[command(flatten)]
        #[allow(missing_docs, reason = "clap would show it as help of the command")]
        common: Common,
    },
}

/// The options of every import.
#[derive(Debug, Args)]
pub struct Common {
    /// The file to read; `-` for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Zone of schedules that name none; UTC if not given
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    pub timezone: Option<Tz>,

    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,

    /// Overwrite the file of --write
    #[arg(long, requires = "write")]
    pub force: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    jobs: Vec<&'a str>,
    left_out: usize,
    toml: &'a str,
    diagnostics: &'a [Diagnostic],
}

fn zone(text: &str) -> Result<Tz, String> {
    text.parse().map_err(|_| {
        let names = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        match nearest(text, names) {
            Some(name) => format!("there is no time zone `{text}`; did you mean `{name}`?"),
            None => format!("there is no time zone `{text}`"),
        }
    })
}

/// The file on standard output, findings on standard error.
pub fn run(args: ImportArgs, globals: &Globals) -> Result<(), CliError> {
    let common = match &args.source {
        Source::Crontab { common, .. }
        | Source::Celery { common, .. }
        | Source::Kubernetes { common } => common,
    };
    let name = match common.file.as_os_str() == "-" {
        true => "standard input".to_owned(),
        false => common.file.to_string_lossy().into_owned(),
    };
    let bytes = read(&common.file).map_err(|error| unreadable(&name, &error))?;
    let imported = import::text(&name, bytes).and_then(|text| {
        let input = Input {
            name: &name,
            text: &text,
            timezone: common.timezone,
            now: clock::now(),
        };
        match &args.source {
            Source::Crontab { system, .. } => import::crontab(&input, users(*system, &common.file)),
            Source::Celery { app, .. } => {
                let target = app.clone().map_or(Target::Function, Target::App);
                import::celery(&input, &target)
            }
            Source::Kubernetes { .. } => import::kubernetes(&input),
        }
    });
    match imported {
        Ok(imported) => finish(&imported, common, globals),
        Err(error) => {
            let diagnostics = std::slice::from_ref(&*error.diagnostic);
            match globals.output {
                Format::Json => output::json(&Report {
                    jobs: Vec::new(),
                    left_out: 0,
                    toml: "",
                    diagnostics,
                })?,
                Format::Table | Format::Name => show(diagnostics),
            }
            Err(CliError::silent(Exit::InvalidSchedules))
        }
    }
}

/// At most one byte more than is allowed, so that the size can be refused.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let limit = MAX_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    match file.as_os_str() == "-" {
        true => io::stdin().lock().take(limit).read_to_end(&mut bytes)?,
        false => fs::File::open(file)?.take(limit).read_to_end(&mut bytes)?,
    };
    Ok(bytes)
}

fn unreadable(name: &str, error: &io::Error) -> CliError {
    let (message, help) = match error.kind() {
        io::ErrorKind::NotFound => (
            "there is no such file".to_owned(),
            "give a file, or - for standard input",
        ),
        io::ErrorKind::PermissionDenied => (
            "it cannot be read: permission denied".to_owned(),
            "read it as a user who may, and pipe it to: orchestrator import … -",
        ),
        _ => (
            format!("it cannot be read: {error}"),
            "give a file, or - for standard input",
        ),
    };
    CliError::new(Exit::InvalidSchedules, format!("{name}: {message}")).with_help(help)
}

/// System crontabs are known by their place.
fn users(system: bool, file: &Path) -> Users {
    let path = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let of_system =
        path == Path::new("/etc/crontab") || path.parent() == Some(Path::new("/etc/cron.d"));
    match system || of_system {
        true => Users::Column,
        false => Users::None,
    }
}

fn finish(imported: &Imported, common: &Common, globals: &Globals) -> Result<(), CliError> {
    if let Some(file) = &common.write {
        write(file, common.force, &imported.toml)?;
    }
    let mut jobs = imported.jobs.iter().map(|name| name.as_str());
    match globals.output {
        Format::Json => output::json(&Report {
            jobs: jobs.collect(),
            left_out: imported.left_out,
            toml: &imported.toml,
            diagnostics: &imported.findings,
        })?,
        Format::Name => jobs.try_for_each(output::to_stdout)?,
        Format::Table if common.write.is_none() => output::to_stdout(imported.toml.trim_end())?,
        Format::Table => {}
    }
    if globals.output != Format::Json {
        tell(imported, globals);
    }
    if imported.left_out == 0 {
        return Ok(());
    }
    let entries = match imported.left_out {
        1 => "1 entry was".to_owned(),
        count => format!("{count} entries were"),
    };
    let message = format!("{entries} left out, {} imported", imported.jobs.len());
    Err(CliError::new(Exit::Failed, message)
        .with_help("what was left out is in the output, as comments"))
}

/// Errors always, warnings unless asked to be quiet.
fn tell(imported: &Imported, globals: &Globals) {
    let told = imported
        .findings
        .iter()
        .filter(|finding| !globals.quiet || finding.severity() == Severity::Error);
    let told: Vec<_> = told.cloned().collect();
    show(&told[..told.len().min(SHOWN)]);
    if told.len() > SHOWN {
        let rest = told.len() - SHOWN;
        output::to_stderr(&format!(
            "{rest} more findings; the output has them all as comments"
        ));
    }
}

fn write(file: &Path, force: bool, toml: &str) -> Result<(), CliError> {
    let mut options = fs::OpenOptions::new();
    match force {
        true => options.write(true).create(true).truncate(true),
        false => options.write(true).create_new(true),
    };
    let written = options
        .open(file)
        .and_then(|mut file| file.write_all(toml.as_bytes()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => CliError::new(
            Exit::Conflict,
            format!("{}: the file exists", file.display()),
        )
        .with_help("give another name, or overwrite it with --force"),
        _ => CliError::new(
            Exit::Failed,
            format!("{}: it cannot be written: {error}", file.display()),
        ),
    })
}
