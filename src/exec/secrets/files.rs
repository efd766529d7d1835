//! The files that secrets are read from.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::fs::OFlags;

use crate::job::CredentialName;

/// Largest file of secrets.
const LARGEST: u64 = 1 << 20;

pub(in crate::exec) fn credential(
    name: &CredentialName,
    directory: Option<&Path>,
) -> Result<String, String> {
    if name.is_reserved() {
        return Err(format!(
            "the credential `{name}` is one of the services themselves, and not for jobs and webhooks: name another one"
        ));
    }
    let Some(directory) = directory else {
        return Err(format!(
            "the credential `{name}` cannot be read: no directory of credentials was named; start this with --credentials-dir, or with LoadCredential={name}:PATH in its unit"
        ));
    };
    let path = directory.join(name.as_str());
    let text = read(&path).map_err(|error| {
        format!(
            "the credential `{name}` cannot be read on this machine: {}: {error}",
            path.display()
        )
    })?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

pub(super) fn variables(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let shown = path.display();
    let text = read(path)
        .map_err(|error| format!("`env_file` cannot be read on this worker: {shown}: {error}"))?;
    parse(&text).map_err(|line| {
        format!("`env_file` {shown}, line {line}: not a variable; write NAME=VALUE")
    })
}

/// Only a file has an end that is sure to come.
fn read(path: &Path) -> io::Result<String> {
    let not_a_file = || Err(io::Error::other("this is not a file"));
    if !fs::metadata(path)?.is_file() {
        return not_a_file();
    }
    // Somebody may have put another thing in its place.
    let at_once = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(at_once)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return not_a_file();
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other("it has more than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}

/// Reads `NAME=VALUE` lines as systemd's `EnvironmentFile` has them: empty lines and those that begin with
/// `#` or `;` do not count, one pair of quotes around a value is taken off, nothing else is interpreted.
/// Fails with the number of the line.
fn parse(text: &str) -> Result<BTreeMap<String, String>, usize> {
    let mut variables = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').ok_or(number)?;
        let (name, value) = (name.trim(), value.trim());
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(allowed) || value.contains('\0') {
            return Err(number);
        }
        let unquoted = ['"', '\'']
            .iter()
            .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        variables.insert(name.to_owned(), unquoted.unwrap_or(value).to_owned());
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_job_is_given_what_its_worker_gets_in_with() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["nats-password", "orchestrator-signing-key", "natsuki"] {
            std::fs::write(directory.path().join(name), "PaSsOfworker").unwrap();
            let read = credential(&name.parse().unwrap(), Some(directory.path()));
            match name {
                "natsuki" => assert_eq!(read.unwrap(), "PaSsOfworker"),
                _ => assert!(read.unwrap_err().contains("of the services themselves")),
            }
        }
    }

    #[test]
    fn a_file_is_read_no_further_than_it_may_be_long() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for (length, is_read) in [(1 << 20, true), ((1 << 20) + 1, false)] {
            std::fs::write(&path, vec![b'a'; length]).unwrap();
            assert_eq!(read(&path).is_ok(), is_read, "{length}");
        }
        // It says that it is empty.
        assert!(!read(Path::new("/proc/self/status")).unwrap().is_empty());
    }

    #[test]
    fn files_of_variables_are_read() {
        let text = "# c\n; c\n\nA=1\nexport B = two words \nC=\"q # $x\"\nD='it''s'\nE=\n";
        let read = parse(text).unwrap();
        let read: Vec<_> = read.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "q # $x"),
            ("D", "it''s"),
            ("E", ""),
        ];
        assert_eq!(read, expected);
        assert_eq!(parse("A=1\nnonsense\n"), Err(2));
        assert_eq!(parse("A B=1\n"), Err(1));
    }
}
