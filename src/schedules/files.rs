//! Finds and reads schedule files; the only I/O of loading.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};

use super::{
    Loaded,
    diagnostic::{Diagnostic, Findings, LoadError},
    document::{self, Collected},
    source::Source,
};

/// No schedule file is larger, in bytes.
const MAX_BYTES: u64 = 512 << 20;

/// Reads and validates the given files and the `*.toml` files directly in the given directories.
/// Either everything is right, or nothing is used and all findings of all files are returned.
pub fn load(paths: &[PathBuf], now: DateTime<Utc>) -> Result<Loaded, LoadError> {
    let mut findings = Findings::default();
    let files = find(paths, &mut findings);
    // One text at a time: a million jobs have a hundred megabytes of it.
    let mut collected = Collected::new(findings);
    for file in files {
        match read(&file) {
            Ok(source) => document::read(&mut collected, &source, now),
            Err(diagnostic) => collected.findings.push(*diagnostic),
        }
    }
    collected.finish(now)
}

/// The schedule files among the paths, sorted, each once.
fn find(paths: &[PathBuf], findings: &mut Findings) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => match list(path) {
                Ok(found) if found.is_empty() => {
                    let help = "schedule files end with .toml and lie directly in the directory";
                    findings.push(about(
                        path,
                        "there is no schedule file in this directory",
                        help,
                    ));
                }
                Ok(found) => files.extend(found),
                Err(error) => findings.push(unreadable(path, &error)),
            },
            Ok(_) => files.push(path.clone()),
            Err(error) => findings.push(unreadable(path, &error)),
        }
    }
    files.sort();
    files.dedup();
    files
}

/// The `*.toml` files directly in a directory, without hidden files and editors' backups.
pub(super) fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let hidden = name.starts_with(['.', '#']);
        if !hidden && name.ends_with(".toml") && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

pub(super) fn read(path: &Path) -> Result<Source, Box<Diagnostic>> {
    let failed = |error: io::Error| Box::new(unreadable(path, &error));
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(Box::new(about(
            path,
            "this is not a file",
            "give *.toml files or directories",
        )));
    }
    if metadata.len() > MAX_BYTES {
        let help = "split it into several files";
        return Err(Box::new(about(
            path,
            "this file is larger than 512 MiB",
            help,
        )));
    }
    let bytes = fs::read(path).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..good]).into_owned();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        let message = format!(
            "this is not UTF-8: line {line}, column {column} has byte {:#04x}",
            error.as_bytes()[good]
        );
        Box::new(about(path, &message, "save the file as UTF-8"))
    })?;
    let parent = path.parent().unwrap_or(Path::new(""));
    let directory = match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    };
    let absolute = std::path::absolute(directory).map_err(failed)?;
    Ok(Source::new(path.to_string_lossy(), text, absolute))
}

fn about(path: &Path, message: &str, help: &str) -> Diagnostic {
    let file = path.to_string_lossy();
    Diagnostic::without_place(Some(&file), message.to_owned(), Some(help.to_owned()))
}

fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    let (message, help) = match error.kind() {
        io::ErrorKind::NotFound => (
            "there is no such file or directory".to_owned(),
            "give the directory with --schedules, or make one with a *.toml file in it",
        ),
        io::ErrorKind::PermissionDenied => (
            "it cannot be read: permission denied".to_owned(),
            "make it readable for the user that runs orchestrator",
        ),
        _ => (
            format!("it cannot be read: {error}"),
            "look at the file system",
        ),
    };
    about(path, &message, help)
}
