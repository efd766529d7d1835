//! `orchestrator init`: the files that an installation begins with.
//!
//! Never overwrites anything: what is there already is kept, and said.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
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

/// Who reads what is written.
#[derive(Debug, Clone, Copy)]
enum Audience {
    /// Whom the umask lets.
    Us,
    /// The users of units, too, whatever the umask is.
    Units,
}

/// What became of the files.
#[derive(Debug, Default, Serialize)]
struct Report {
    written: Vec<PathBuf>,
    kept: Vec<PathBuf>,
}

pub(super) fn run(args: &InitArgs, globals: &Globals) -> Result<(), CliError> {
    let mut report = Report::default();
    let drafts = drafts(args)?;
    let audience = match args.systemd {
        true => Audience::Units,
        false => Audience::Us,
    };
    for draft in drafts {
        let path = args.dir.join(&draft.path);
        match write(&path, &draft, audience) {
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
        for path in [&program, &dir, &dir.join("schedules")] {
            closed(path).map_or(Ok(()), Err)?;
        }
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

/// Why no unit could come to this place: it has a user of its own, and a /tmp of its own.
fn closed(path: &Path) -> Option<CliError> {
    // What is there already; links lead elsewhere.
    let real = path
        .ancestors()
        .find_map(|part| fs::canonicalize(part).ok())?;
    let shut = real.ancestors().find_map(|part| {
        let mode = fs::metadata(part).ok()?.permissions().mode();
        (mode & 0o001 == 0).then(|| format!("their user cannot enter {}", part.display()))
    });
    let is_temporary = ["/tmp", "/var/tmp"].iter().any(|dir| real.starts_with(dir));
    let temporary = || is_temporary.then(|| "they have a /tmp of their own".to_owned());
    let why = shut.or_else(temporary)?;
    let message = format!("units for {} would not start: {why}", path.display());
    let help = "`orchestrator init --systemd /etc/orchestrator`, or a directory in /opt, with the program in /usr/local/bin";
    Some(CliError::new(Exit::Usage, message).with_help(help))
}

fn write(path: &Path, draft: &Draft, audience: Audience) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        make(parent, audience)?;
    }
    // Not there at this very moment: a file that somebody else makes just now is kept, too.
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(draft.mode)
        .open(path)?;
    if let Audience::Units = audience {
        file.set_permissions(fs::Permissions::from_mode(draft.mode))?;
    }
    file.write_all(draft.text.as_bytes())
}

/// The directory, and those above that are missing.
fn make(directory: &Path, audience: Audience) -> io::Result<()> {
    let missing: Vec<_> = directory
        .ancestors()
        .take_while(|part| !part.as_os_str().is_empty() && !part.exists())
        .collect();
    fs::create_dir_all(directory)?;
    if let Audience::Units = audience {
        for part in missing {
            fs::set_permissions(part, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_name_the_program_and_the_configuration() {
        let drafts = units(Path::new("/usr/local/bin/o"), Path::new("/opt/o")).unwrap();
        let text = |path: &str| {
            let mut found = drafts.iter().filter(|draft| draft.path == Path::new(path));
            found.next().unwrap().text.as_str()
        };
        let beat = text("systemd/orchestrator-beat.service");
        for line in [
            "\nExecStart=/usr/local/bin/o beat\n",
            "\nExecReload=/usr/local/bin/o beat --check\n",
            "\nEnvironmentFile=/opt/o/orchestrator.env\n",
            "\nProtectHome=yes\n",
        ] {
            assert!(beat.contains(line), "{line} in {beat}");
        }
        let environment = text("orchestrator.env");
        assert!(environment.contains("\nORCHESTRATOR_SCHEDULES=/opt/o/schedules\n"));
        let secret = drafts.iter().filter(|draft| draft.mode == 0o600);
        assert_eq!(secret.count(), 1);
        let at_home = units(Path::new("/home/a/o"), Path::new("/opt/o")).unwrap();
        assert!(at_home[0].text.contains("\nProtectHome=read-only\n"));
        assert!(units(Path::new("/usr/bin/o"), Path::new("/opt/a b")).is_err());
    }

    #[test]
    fn a_place_that_units_cannot_reach_is_named() {
        let here = tempfile::tempdir().unwrap();
        let dir = here.path().join("a/b");
        let shut = fs::Permissions::from_mode(0o700);
        fs::set_permissions(here.path(), shut).unwrap();
        let why = closed(&dir).unwrap().to_string();
        assert!(why.contains("their user cannot enter "), "{why}");
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(here.path(), open).unwrap();
        if here.path().starts_with("/tmp") {
            let why = closed(&dir).unwrap().to_string();
            assert!(why.contains("a /tmp of their own"), "{why}");
        }
        assert!(closed(Path::new("/opt/orchestrator")).is_none());
        assert!(closed(Path::new("/usr/bin/env")).is_none());
    }
}
