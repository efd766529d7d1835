//! Placeholders in texts: `{arg.NAME}`, `{credential.NAME}` (in requests only), `{last_success}`, `{scheduled_for}`, `{run_id}`,
//! `{job}`, `{queue}` and `{attempt}`. `{{` and `}}` stand for braces.
//!
//! Checked when the schedule is loaded; filled in by the worker, one argument at a time, so a value
//! can never become two arguments or a shell command.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One argument with its placeholders. No more than its text is kept: there may be millions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template(Box<str>);

enum Part<'t> {
    Text(&'t str),
    Value(&'t str),
    Argument(&'t str),
    Credential(&'t str),
}

/// Gives placeholders their values.
pub trait Values {
    /// The value of a built-in placeholder; an unset one (no success yet) is the empty text.
    fn built_in(&self, name: &str) -> Option<String>;
    /// The value of `{arg.NAME}`.
    fn argument(&self, name: &str) -> Option<String>;
    /// The value of `{credential.NAME}`.
    fn credential(&self, _name: &str) -> Option<String> {
        None
    }
}

/// Why a template could not be read or filled in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// `{` without `}`.
    #[error("`{0}` has a `{{` without its `}}`; write `{{{{` for a brace")]
    Open(String),
    /// `}` without `{`.
    #[error("`{0}` has a `}}` without its `{{`; write `}}}}` for a brace")]
    Close(String),
    /// Not a placeholder of ours.
    #[error("`{{{0}}}` is not a placeholder; there are `{{arg.NAME}}`, {known}", known = known())]
    Unknown(String),
    /// The job has no such credential.
    #[error("the job has no credential `{0}`; name it in `credential`")]
    NoCredential(String),
    /// The run has no such argument.
    #[error("the run has no argument `{0}`; give it with `--arg {0}=VALUE` or in `args`")]
    Missing(String),
}

fn known() -> String {
    Template::BUILT_IN
        .map(|name| format!("`{{{name}}}`"))
        .join(", ")
}

impl Template {
    /// The placeholders that need no argument.
    pub const BUILT_IN: [&'static str; 6] = [
        "last_success",
        "scheduled_for",
        "run_id",
        "job",
        "queue",
        "attempt",
    ];

    /// The argument as written.
    pub fn source(&self) -> &str {
        &self.0
    }

    /// The names of the arguments that this template needs.
    pub fn arguments(&self) -> impl Iterator<Item = &str> {
        parts(&self.0).filter_map(|part| match part {
            Ok(Part::Argument(name)) => Some(name),
            Ok(Part::Text(_) | Part::Value(_) | Part::Credential(_)) | Err(_) => None,
        })
    }

    /// The names of the credentials that this template needs.
    pub fn credentials(&self) -> impl Iterator<Item = &str> {
        parts(&self.0).filter_map(|part| match part {
            Ok(Part::Credential(name)) => Some(name),
            Ok(Part::Text(_) | Part::Value(_) | Part::Argument(_)) | Err(_) => None,
        })
    }

    /// The argument with its placeholders filled in.
    pub fn render(&self, values: &impl Values) -> Result<String, TemplateError> {
        let mut text = String::with_capacity(self.0.len());
        for part in parts(&self.0) {
            match part? {
                Part::Text(literal) => text.push_str(literal),
                Part::Value(name) => match values.built_in(name) {
                    Some(value) => text.push_str(&value),
                    None => return Err(TemplateError::Unknown(name.to_owned())),
                },
                Part::Credential(name) => match values.credential(name) {
                    Some(value) => text.push_str(&value),
                    None => return Err(TemplateError::NoCredential(name.to_owned())),
                },
                Part::Argument(name) => match values.argument(name) {
                    Some(value) => text.push_str(&value),
                    None => return Err(TemplateError::Missing(name.to_owned())),
                },
            }
        }
        Ok(text)
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(source: &str) -> Result<Self, TemplateError> {
        for part in parts(source) {
            part?;
        }
        Ok(Self(source.into()))
    }
}

/// The parts of an argument; an error is the last.
fn parts(source: &str) -> impl Iterator<Item = Result<Part<'_>, TemplateError>> {
    let mut rest = source;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (part, after) = match first(rest) {
            Ok((part, after)) => (Ok(part), after),
            Err(TemplateError::Open(_)) => (Err(TemplateError::Open(source.to_owned())), ""),
            Err(TemplateError::Close(_)) => (Err(TemplateError::Close(source.to_owned())), ""),
            Err(error) => (Err(error), ""),
        };
        rest = after;
        Some(part)
    })
}

/// The first part of a text that is not empty, and the rest.
fn first(text: &str) -> Result<(Part<'_>, &str), TemplateError> {
    let at = text.find(['{', '}']).unwrap_or(text.len());
    if at > 0 {
        let (literal, after) = text.split_at(at);
        return Ok((Part::Text(literal), after));
    }
    for doubled in ["{{", "}}"] {
        if let Some(after) = text.strip_prefix(doubled) {
            return Ok((Part::Text(&doubled[..1]), after));
        }
    }
    let Some(inner) = text.strip_prefix('{') else {
        return Err(TemplateError::Close(text.to_owned()));
    };
    let Some((name, after)) = inner.split_once('}') else {
        return Err(TemplateError::Open(text.to_owned()));
    };
    placeholder(name).map(|part| (part, after))
}

fn placeholder(name: &str) -> Result<Part<'_>, TemplateError> {
    if let Some(credential) = name
        .strip_prefix("credential.")
        .filter(|name| !name.is_empty())
    {
        return Ok(Part::Credential(credential));
    }
    match name.strip_prefix("arg.") {
        Some(argument) if !argument.is_empty() => Ok(Part::Argument(argument)),
        None if Template::BUILT_IN.contains(&name) => Ok(Part::Value(name)),
        Some(_) | None => Err(TemplateError::Unknown(name.to_owned())),
    }
}

impl TryFrom<String> for Template {
    type Error = TemplateError;

    fn try_from(source: String) -> Result<Self, TemplateError> {
        source.parse()
    }
}

impl From<Template> for String {
    fn from(template: Template) -> String {
        template.0.into()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Values for Fixed {
        fn built_in(&self, name: &str) -> Option<String> {
            (name == "job").then(|| "crawl".to_owned())
        }

        fn argument(&self, name: &str) -> Option<String> {
            (name == "url").then(|| "http://x/{job}".to_owned())
        }
    }

    fn render(source: &str) -> Result<String, TemplateError> {
        source.parse::<Template>()?.render(&Fixed)
    }

    #[test]
    fn fills_in_once_and_never_again() {
        assert_eq!(
            render("--u={arg.url}/{job}").unwrap(),
            "--u=http://x/{job}/crawl"
        );
        assert_eq!(render("{{job}} }} plain").unwrap(), "{job} } plain");
        assert_eq!(render("").unwrap(), "");
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for bad in ["{", "}", "{joob}", "{arg.}", "{}", "a{job"] {
            assert!(bad.parse::<Template>().is_err(), "{bad}");
        }
        assert_eq!(
            render("{arg.depth}"),
            Err(TemplateError::Missing("depth".to_owned()))
        );
    }
}
