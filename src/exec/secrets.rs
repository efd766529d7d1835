//! What a job is told that nobody else may see: credentials and files of variables, read on the worker
//! when an attempt starts, and hidden in everything that is kept of it.

mod files;

use std::{collections::BTreeMap, fmt, path::Path};

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use super::{
    Execution,
    http::encode,
    in_time::{PATIENCE, in_time},
};
use crate::{job::RunSpec, run::Exit};

pub(super) use files::credential;
use files::variables;

/// What stands for a secret.
const HIDDEN: &[u8] = b"***";
/// Shorter texts are not hidden: they are everywhere.
const SHORTEST: usize = 4;
/// Shorter lines of a secret that has several are not hidden each on its own.
const SHORTEST_LINE: usize = 8;

/// The secrets of one attempt.
#[derive(Default)]
pub struct Secrets {
    variables: BTreeMap<String, String>,
    credentials: BTreeMap<String, String>,
    redactor: Option<Redactor>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Secrets {
    /// Reads what the job names, as long as its files answer in time. Fails with a reason for the run's record that names
    /// the file.
    pub async fn read(spec: &RunSpec, directory: Option<&Path>) -> Result<Self, String> {
        if spec.env_files.is_empty() && spec.credentials.is_empty() {
            return Ok(Self::default());
        }
        let (spec, directory) = (spec.clone(), directory.map(Path::to_path_buf));
        let credentials = spec.credentials.iter().map(|name| format!("`{name}`"));
        let files = spec.env_files.iter().map(|path| path.display().to_string());
        let files = credentials.chain(files).collect::<Vec<_>>().join(", ");
        let look = move || Self::load(&spec, directory.as_deref());
        let loaded = in_time(PATIENCE, look).await;
        loaded.unwrap_or_else(|| {
            Err(format!(
                "its secrets cannot be read on this machine: nothing answers within {} s; look at the file systems of {files}",
                PATIENCE.as_secs()
            ))
        })
    }

    /// Reads what the job names, however long that takes. Fails with a reason for the run's record that names the file.
    pub fn load(spec: &RunSpec, directory: Option<&Path>) -> Result<Self, String> {
        let mut secrets = Self::default();
        for path in &spec.env_files {
            secrets.variables.extend(variables(path)?);
        }
        for name in &spec.credentials {
            let value = credential(name, directory)?;
            secrets.credentials.insert(name.to_string(), value);
        }
        let all = secrets
            .variables
            .values()
            .chain(secrets.credentials.values());
        secrets.redactor = Redactor::of(all.map(String::as_str))?;
        Ok(secrets)
    }

    /// The credential with this name.
    pub(super) fn credential(&self, name: &str) -> Option<&String> {
        self.credentials.get(name)
    }

    /// What a program finds in its environment: the variables of the files, and each credential under
    /// its name in capitals after `CREDENTIAL_`.
    pub(super) fn variables(&self) -> impl Iterator<Item = (String, String)> {
        let credentials = self.credentials.iter().map(|(name, value)| {
            let name = name.to_ascii_uppercase().replace('-', "_");
            (format!("CREDENTIAL_{name}"), value.clone())
        });
        let variables = self.variables.iter();
        let variables = variables.map(|(name, value)| (name.clone(), value.clone()));
        variables.chain(credentials)
    }

    /// The names of the variables of the files.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    /// What hides them.
    pub fn redactor(&self) -> Option<Redactor> {
        self.redactor.clone()
    }

    /// Hides them in what is recorded of an execution.
    pub fn hide(&self, execution: &mut Execution) {
        let Some(redactor) = &self.redactor else {
            return;
        };
        if let Exit::NotStarted(reason) | Exit::Failed(reason) = &mut execution.exit {
            *reason = redactor.text(reason);
        }
        if let Some(result) = &mut execution.result {
            redactor.value(result);
        }
    }
}

/// Hides secrets in bytes.
#[derive(Clone)]
pub struct Redactor {
    secrets: Vec<Vec<u8>>,
    finder: AhoCorasick,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    /// `None` if there is nothing to hide.
    fn of<'a>(values: impl Iterator<Item = &'a str>) -> Result<Option<Self>, String> {
        let mut secrets = Vec::new();
        for value in values {
            if value.len() >= SHORTEST {
                secrets.push(value.as_bytes().to_vec());
                secrets.extend(as_sent(value).map(String::into_bytes));
            }
            let lines = value.lines().map(str::trim);
            let lines = lines.filter(|line| line.len() >= SHORTEST_LINE && *line != value);
            secrets.extend(lines.map(|line| line.as_bytes().to_vec()));
        }
        if secrets.is_empty() {
            return Ok(None);
        }
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&secrets)
            .map_err(|error| format!("its secrets cannot be hidden: {error}; make them smaller"))?;
        Ok(Some(Self { secrets, finder }))
    }

    /// Takes what is complete out of `pending`, with the secrets hidden. What may be the beginning of one
    /// stays, unless it is the end.
    pub(super) fn take(&self, pending: &mut Vec<u8>, is_end: bool) -> Vec<u8> {
        let mut keep = match is_end {
            true => pending.len(),
            false => self.beginning(pending),
        };
        let mut ready = Vec::with_capacity(keep);
        let mut done = 0;
        for found in self.finder.find_iter(pending.as_slice()) {
            if found.start() >= keep {
                break;
            }
            ready.extend_from_slice(&pending[done..found.start()]);
            ready.extend_from_slice(HIDDEN);
            done = found.end();
            keep = keep.max(done);
        }
        ready.extend_from_slice(&pending[done..keep]);
        pending.drain(..keep);
        ready
    }

    /// Where the longest end of `bytes` begins that a secret could go on from.
    fn beginning(&self, bytes: &[u8]) -> usize {
        let longest = self.secrets.iter().map(Vec::len).max().unwrap_or(0);
        let first = bytes.len().saturating_sub(longest.saturating_sub(1));
        let could_go_on = |at: &usize| {
            let end = &bytes[*at..];
            let mut secrets = self.secrets.iter();
            secrets.any(|secret| secret.len() > end.len() && secret.starts_with(end))
        };
        (first..bytes.len())
            .find(could_go_on)
            .unwrap_or(bytes.len())
    }

    fn text(&self, text: &str) -> String {
        let mut pending = text.as_bytes().to_vec();
        String::from_utf8_lossy(&self.take(&mut pending, true)).into_owned()
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(fields) => {
                let old = std::mem::take(fields);
                for (name, mut field) in old {
                    self.value(&mut field);
                    fields.insert(self.text(&name), field);
                }
            }
            Value::Number(number) => {
                let text = number.to_string();
                let shown = self.text(&text);
                if shown != text {
                    *value = Value::String(shown);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }
}

/// As a request has it where that differs: in its URL, and in a body of JSON. A server may repeat what it was sent.
fn as_sent(value: &str) -> impl Iterator<Item = String> {
    let json = Value::from(value).to_string();
    let json = json.get(1..json.len() - 1).unwrap_or_default();
    let sent = [encode(value), json.to_owned()];
    sent.into_iter().filter(move |sent| sent != value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redactor(secrets: &[&str]) -> Redactor {
        Redactor::of(secrets.iter().copied()).unwrap().unwrap()
    }

    fn in_pieces(redactor: &Redactor, pieces: &[&[u8]]) -> Vec<u8> {
        let (mut pending, mut out) = (Vec::new(), Vec::new());
        for piece in pieces {
            pending.extend_from_slice(piece);
            out.extend(redactor.take(&mut pending, false));
        }
        out.extend(redactor.take(&mut pending, true));
        out
    }

    #[test]
    fn secrets_are_hidden_wherever_the_output_is_cut() {
        let redactor = redactor(&["hunter2!", "hunter2!longer", "two\nlines-of-it"]);
        let text = b"a hunter2! b hunter2!longer hunter hunter2!long lines-of-it";
        let whole = in_pieces(&redactor, &[text]);
        assert_eq!(whole, b"a *** b *** hunter ***long ***");
        for cut in 0..text.len() {
            let (first, second) = text.split_at(cut);
            assert_eq!(in_pieces(&redactor, &[first, second]), whole, "{cut}");
        }
    }

    #[test]
    fn secrets_are_hidden_as_a_request_has_them() {
        let redactor = redactor(&["p@ss \"word\""]);
        let text = b"p@ss \"word\" p%40ss%20%22word%22 p@ss \\\"word\\\"";
        assert_eq!(in_pieces(&redactor, &[text]), b"*** *** ***");
    }

    #[test]
    fn what_cannot_be_a_secret_does_not_wait() {
        let redactor = redactor(&["hunter2!"]);
        let mut pending = b"a prompt: ".to_vec();
        assert_eq!(redactor.take(&mut pending, false), b"a prompt: ");
        pending.extend(b"hun");
        assert_eq!(redactor.take(&mut pending, false), b"");
        pending.extend(b"gry");
        assert_eq!(redactor.take(&mut pending, false), b"hungry");
    }

    #[test]
    fn short_texts_are_not_secrets() {
        assert!(
            Redactor::of(["", "a", "abc"].into_iter())
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn results_are_redacted_with_their_names() {
        let mut value = serde_json::json!({ "hunter2!": ["x hunter2! y", 3, null] });
        redactor(&["hunter2!"]).value(&mut value);
        assert_eq!(value, serde_json::json!({ "***": ["x *** y", 3, null] }));
    }

    #[test]
    fn numbers_of_results_are_redacted() {
        let mut value =
            serde_json::json!({ "pin": 48_151_623, "98481516": [2, 1_481_516_230], "n": 48_151 });
        redactor(&["48151623"]).value(&mut value);
        let expected = serde_json::json!({ "pin": "***", "98481516": [2, "1***0"], "n": 48_151 });
        assert_eq!(value, expected);
    }

    proptest! {
        #[test]
        fn nothing_of_a_secret_is_left_over(
            secrets in prop::collection::vec("[ab]{4,8}", 1..4),
            pieces in prop::collection::vec("[ab]{0,12}", 0..8),
        ) {
            let all: Vec<_> = secrets.iter().map(String::as_str).collect();
            let redactor = redactor(&all);
            let parts: Vec<_> = pieces.iter().map(|piece| piece.as_bytes()).collect();
            let out = String::from_utf8(in_pieces(&redactor, &parts)).unwrap();
            for secret in &secrets {
                prop_assert!(!out.contains(secret.as_str()), "{out} has {secret}");
            }
        }
    }
}
