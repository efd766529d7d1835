//! Job names: from a command line, and each once.

use std::collections::{HashMap, HashSet};

use super::super::reader::narrow;
use crate::job::JobName;

/// Programs that only prepare for the one that is meant.
const PREPARING: [&str; 12] = [
    "cd", "test", "[", "[[", "sleep", "export", "source", ".", "set", "umask", "mkdir", "if",
];

/// Programs that execute another one: how many words come before it, and which options take a word.
const WRAPPERS: [(&str, usize, &[&str]); 15] = [
    ("nice", 0, &["-n"]),
    ("ionice", 0, &["-c", "-n"]),
    ("env", 0, &["-u", "-C"]),
    ("exec", 0, &["-a"]),
    ("nohup", 0, &[]),
    ("time", 0, &["-f", "-o"]),
    ("then", 0, &[]),
    ("command", 0, &[]),
    ("chronic", 0, &[]),
    ("setsid", 0, &[]),
    ("sudo", 0, &["-u", "-g"]),
    ("systemd-cat", 0, &["-t", "-p"]),
    ("timeout", 1, &["-k", "-s"]),
    ("flock", 1, &["-w", "-E"]),
    ("root", 0, &[]),
];

/// Programs that execute a script.
const INTERPRETERS: [&str; 10] = [
    "python", "python2", "python3", "bash", "sh", "perl", "ruby", "php", "node", "java",
];

/// A name for what a command line executes.
pub(super) fn of_command(command: &str) -> String {
    let simple = command.split(['&', '|', ';', '(', ')', '\n']);
    let mut fallback = None;
    for part in simple {
        let words: Vec<_> = part
            .split_whitespace()
            .map(|word| word.trim_matches(['\'', '"', '{', '}']))
            .filter(|word| !word.is_empty() && *word != "!")
            .collect();
        let Some((program, rest)) = program(&words) else {
            continue;
        };
        let found = spell(program, rest);
        if !PREPARING.contains(&program) {
            return found;
        }
        fallback.get_or_insert(found);
    }
    fallback.unwrap_or_else(|| "job".to_owned())
}

/// The program that is meant, behind assignments and wrappers, with its arguments.
fn program<'w, 'a>(words: &'w [&'a str]) -> Option<(&'a str, &'w [&'a str])> {
    let mut rest = words;
    loop {
        let (first, behind) = rest.split_first()?;
        let base = base(first);
        rest = behind;
        if first
            .split_once('=')
            .is_some_and(|(name, _)| is_variable(name))
        {
            continue;
        }
        let Some((_, words, values)) = WRAPPERS.iter().find(|(name, ..)| *name == base) else {
            return Some((base, rest));
        };
        while let Some((option, behind)) = rest.split_first()
            && option.starts_with('-')
        {
            rest = match values.contains(option) {
                true => behind.get(1..).unwrap_or_default(),
                false => behind,
            };
        }
        rest = rest.get(*words..).unwrap_or_default();
    }
}

fn is_variable(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.chars().all(fits)
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The last component without its ending.
fn stem(path: &str) -> &str {
    let base = base(path.trim_end_matches('/'));
    match base.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        Some(_) | None => base,
    }
}

fn spell(program: &str, arguments: &[&str]) -> String {
    if program == "run-parts" {
        let directory = arguments.iter().find(|word| !word.starts_with('-'));
        return directory
            .map_or(program, |path| base(path.trim_end_matches('/')))
            .to_owned();
    }
    let mut name = stem(program).to_owned();
    let mut rest = arguments;
    if INTERPRETERS.contains(&program) {
        let module = rest.iter().position(|word| *word == "-m");
        let script = module
            .map(|at| at + 1)
            .or_else(|| rest.iter().position(|word| !word.starts_with('-')));
        let inline = rest.iter().any(|word| matches!(*word, "-c" | "-e" | "-lc"));
        if let Some(at) = script.filter(|_| !inline || module.is_some())
            && let Some(word) = rest.get(at)
        {
            name = match module {
                Some(_) => (*word).to_owned(),
                None => stem(word).to_owned(),
            };
            rest = rest.get(at + 1..).unwrap_or_default();
        }
    }
    let plain = |word: &&&str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic())
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-'))
    };
    if let Some(word) = rest.first().filter(plain) {
        name = format!("{name}-{word}");
    }
    name
}

/// Gives names out, each once.
#[derive(Default)]
pub(super) struct Names {
    taken: HashSet<JobName>,
    /// The last number that was given to a name.
    last: HashMap<String, usize>,
}

impl Names {
    /// The nearest valid name that is free: as it is, or with `-2`, `-3` …
    pub(super) fn give(&mut self, wish: &str) -> Option<JobName> {
        let lower = wish.to_lowercase();
        let mut wanted = narrow(&lower);
        while wanted.contains("--") {
            wanted = wanted.replace("--", "-");
        }
        let last = self.last.entry(wanted.clone()).or_insert(0);
        loop {
            *last += 1;
            let name = match *last {
                1 => wanted.clone(),
                number => {
                    let suffix = format!("-{number}");
                    let room = 63 - suffix.len();
                    let kept: String = wanted.chars().take(room).collect();
                    format!("{}{suffix}", kept.trim_end_matches(['-', '_']))
                }
            };
            let name: JobName = name.parse().ok()?;
            if self.taken.insert(name.clone()) {
                return Some(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_executed() {
        for (command, name) in [
            ("/usr/local/bin/backup.sh --full", "backup"),
            (
                "cd /srv/app && php artisan schedule:run >> /dev/null 2>&1",
                "artisan-schedule:run",
            ),
            ("python3 -m crawler.main --all", "crawler.main"),
            (
                "test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }",
                "cron.daily",
            ),
            (
                "/usr/bin/flock -n /tmp/lock nice -n 19 /opt/sync.py",
                "sync",
            ),
            ("FOO=1 certbot renew -q", "certbot-renew"),
            ("bash -c 'echo hi'", "bash"),
            ("timeout 30 curl -fsS https://x/", "curl"),
            ("cd /srv", "cd"),
            ("&&", "job"),
            ("日本語", "日本語"),
        ] {
            assert_eq!(of_command(command), name, "{command}");
        }
    }

    #[test]
    fn every_name_is_given_once() {
        let mut names = Names::default();
        let mut give = |wish: &str| names.give(wish).unwrap().to_string();
        assert_eq!(give("A.B"), "a-b");
        assert_eq!(give("a b"), "a-b-2");
        assert_eq!(give("a-b-2"), "a-b-2-2");
        assert_eq!(give("日本語"), "name");
        let long = "x".repeat(80);
        assert_eq!(give(&long), "x".repeat(63));
        assert_eq!(give(&long), format!("{}-2", "x".repeat(61)));
    }
}
