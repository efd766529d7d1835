//! `worker.toml`: the rules of a worker, read as schedules are.

use std::{fs, io::ErrorKind, path::Path};

use toml::de::{DeTable, DeValue};

use super::{
    LoadError, Source,
    diagnostic::{Diagnostic, Findings},
    files,
    reader::{Item, Reader},
    users::user,
};
use crate::{job::Glob, run::WorkerPolicy};

/// Every key.
const KEYS: [&str; 9] = [
    "jobs",
    "queues",
    "executables",
    "env",
    "working_dirs",
    "users",
    "shell",
    "http",
    "umask",
];

/// Reads and validates the file. The paths in it are followed to where they lead now.
pub fn load_policy(path: &Path) -> Result<WorkerPolicy, LoadError> {
    match files::read(path) {
        Ok(source) => read(&source, followed),
        Err(_) if fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound) => {
            Err(LoadError::of(vec![missing(path)]))
        }
        Err(diagnostic) => Err(LoadError::of(vec![*diagnostic])),
    }
}

fn missing(path: &Path) -> Diagnostic {
    let help =
        "--policy or ORCHESTRATOR_POLICY names it; `orchestrator init` writes one with every rule";
    Diagnostic::without_place(
        Some(&path.to_string_lossy()),
        "there is no such file".to_owned(),
        Some(help.to_owned()),
    )
}

/// Validates a text, with paths as they are written.
pub fn parse_policy(source: &Source) -> Result<WorkerPolicy, LoadError> {
    read(source, str::to_owned)
}

/// Validates a text; `follow` says where the beginning of a path leads.
fn read(source: &Source, follow: fn(&str) -> String) -> Result<WorkerPolicy, LoadError> {
    let mut findings = Findings::default();
    let mut policy = WorkerPolicy::default();
    {
        let mut reader = Reader::new(source, &mut findings);
        let (document, errors) = DeTable::parse_recoverable(&source.text);
        for error in errors {
            reader.syntax(error.span().unwrap_or(0..0), error.message());
        }
        for (key, item) in document.get_ref() {
            let name: &str = key.get_ref();
            match name {
                "jobs" => policy.jobs = names(&mut reader, "jobs", item),
                "queues" => policy.queues = names(&mut reader, "queues", item),
                "executables" => {
                    policy.executables = paths(&mut reader, "executables", item, follow);
                }
                "env" => policy.env = variables(&mut reader, item),
                "working_dirs" => {
                    policy.working_dirs = paths(&mut reader, "working_dirs", item, follow);
                }
                "users" => {
                    let each = "a list of names";
                    policy.users = reader.list("users", item, each, |reader, item| {
                        user(reader, "users", item)
                    });
                }
                "shell" => policy.shell = reader.boolean("shell", item).unwrap_or(false),
                "http" => policy.http = reader.boolean("http", item).unwrap_or(false),
                "umask" => policy.umask = umask(&mut reader, item),
                other => reader.unknown_key(key.span(), other, "worker.toml", &KEYS),
            }
        }
    }
    findings.finish().map(|_| policy)
}

/// Patterns of names. An empty list allows nothing.
fn names(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<Vec<Glob>> {
    reader.list(key, item, "a list of names", |reader, item| {
        let text = reader.text(key, item)?;
        let fits = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_' | '-' | '*' | '?');
        if text.is_empty() || !text.chars().all(fits) {
            let message = format!("`{key}`: \"{text}\" cannot be the name of anything");
            let help = "names have a-z, 0-9, `_` and `-`; `*` stands for any part of one";
            reader.error_with_help(item.span(), message, Some(help.to_owned()));
            return None;
        }
        text.parse().ok()
    })
}

/// Patterns of names of variables.
fn variables(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<Glob>> {
    reader.list("env", item, "a list of names", |reader, item| {
        let text = reader.text("env", item)?;
        let fits = |c: char| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '*' | '?');
        if text.is_empty() || !text.chars().all(fits) {
            let message = format!("`env`: \"{text}\" cannot be the name of a variable");
            let help =
                "names have letters, 0-9 and `_`; `*` stands for any part of one: \"SITE_*\"";
            reader.error_with_help(item.span(), message, Some(help.to_owned()));
            return None;
        }
        text.parse().ok()
    })
}

/// Patterns of whole paths.
fn paths(
    reader: &mut Reader<'_>,
    key: &str,
    item: &Item<'_>,
    follow: fn(&str) -> String,
) -> Option<Vec<Glob>> {
    reader.list(key, item, "a list of paths", |reader, item| {
        let text = reader.plain_text(key, item)?;
        let goes_up = text.split('/').any(|part| part == "..");
        if !text.starts_with('/') || goes_up {
            let message = format!("`{key}`: \"{text}\" is not a whole path");
            let help = "write it from the root, without `..`: \"/usr/bin/python3\", \"/opt/crawler/bin/*\"";
            reader.error_with_help(item.span(), message, Some(help.to_owned()));
            return None;
        }
        follow(&text).parse().ok()
    })
}

fn umask(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<u32> {
    const HELP: &str = "write it in octal, as text: \"027\"";
    let DeValue::String(text) = item.get_ref() else {
        reader.mismatch("umask", item, "text", Some(HELP));
        return None;
    };
    let mask = u32::from_str_radix(text, 8)
        .ok()
        .filter(|mask| *mask <= 0o777);
    if mask.is_none() {
        let message = format!("`umask` cannot be \"{text}\"");
        reader.error_with_help(item.span(), message, Some(HELP.to_owned()));
    }
    mask
}

/// Follows the symbolic links in the part of a path that is no pattern, as far as it is there: what is compared with it
/// was followed, too.
fn followed(text: &str) -> String {
    let plain = match text.find(['*', '?']) {
        None => text.len(),
        Some(at) => text[..at].rfind('/').unwrap_or(0),
    };
    let (plain, pattern) = text.split_at(plain);
    let real = std::fs::canonicalize(plain).ok();
    let real = real.map(|path| path.to_string_lossy().trim_end_matches('/').to_owned());
    match real {
        Some(real) if real.is_empty() && pattern.is_empty() => "/".to_owned(),
        Some(real) if !plain.is_empty() => format!("{real}{pattern}"),
        Some(_) | None => text.to_owned(),
    }
}

impl LoadError {
    pub(super) fn of(diagnostics: Vec<Diagnostic>) -> Self {
        Self { diagnostics }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<WorkerPolicy, LoadError> {
        let source = Source::new("worker.toml", text, "/etc".into());
        parse_policy(&source)
    }

    #[test]
    fn a_policy_is_read() {
        let policy = parse(
            "jobs = [\"crawl-*\"]\nqueues = []\nexecutables = [\"/usr/bin/python3*\"]\n\
             working_dirs = [\"/srv\"]\nusers = [\"crawler\"]\nenv = [\"SITE_*\"]\nshell = true\numask = \"027\"\n",
        );
        let policy = policy.unwrap();
        let first = |globs: &Option<Vec<Glob>>| {
            globs
                .as_ref()
                .map(|globs| globs.first().map(Glob::to_string))
        };
        assert_eq!(first(&policy.jobs), Some(Some("crawl-*".to_owned())));
        assert_eq!(first(&policy.queues), Some(None));
        assert_eq!(
            first(&policy.executables),
            Some(Some("/usr/bin/python3*".to_owned()))
        );
        assert_eq!(first(&policy.env), Some(Some("SITE_*".to_owned())));
        assert!(parse("env = [\"A=B\"]\n").is_err());
        assert_eq!(policy.users, Some(vec!["crawler".parse().unwrap()]));
        assert_eq!(
            (policy.shell, policy.http, policy.umask),
            (true, false, Some(0o27))
        );
        assert_eq!(parse("").unwrap(), WorkerPolicy::default());
    }

    #[test]
    fn mistakes_are_told_with_their_places_all_at_once() {
        let text = "exectables = []\nshell = \"yes\"\numask = \"99\"\nexecutables = [\"python3\", \"/a/../b\"]\njobs = [\"Crawl\"]\nusers = [\"*\", \"1000\"]\n";
        let error = parse(text).unwrap_err();
        let found: Vec<_> = error
            .errors()
            .map(|one| {
                (
                    one.line().unwrap(),
                    one.message().to_owned(),
                    one.help().map(str::to_owned),
                )
            })
            .collect();
        let lines: Vec<_> = found.iter().map(|(line, ..)| *line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 4, 5, 6, 6], "{found:?}");
        assert_eq!(found[0].2.as_deref(), Some("did you mean `executables`?"));
        assert!(found[3].1.contains("not a whole path"), "{found:?}");
        assert!(found[6].2.as_ref().unwrap().contains("no patterns"));
        assert!(found[7].2.as_ref().unwrap().contains("/etc/passwd"));
        assert!(parse("jobs = [").is_err());
    }

    #[test]
    fn links_in_patterns_are_followed_up_to_the_first_star() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        let at = |rest: &str| format!("{}/{rest}", root.display());
        assert_eq!(followed(&at("link/*")), at("real/*"));
        assert_eq!(followed(&at("link")), at("real"));
        assert_eq!(followed(&at("li*")), at("li*"));
        assert_eq!(followed(&at("none/x")), at("none/x"));
        assert_eq!(followed("/"), "/");
        assert_eq!(followed("/*"), "/*");
        assert_eq!(followed("/**"), "/**");
    }
}
