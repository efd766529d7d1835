//! The wire contract: what beat publishes and workers in any language read. `docs/protocol.md`
//! specifies it with examples.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::{DEEPEST, RunId, is_shallow};
use crate::job::{Anchor, Execute, Job, Overlap, QueueName, RunSpec, Template, Values};

/// The version of the message that this build writes and reads.
pub const VERSION: u32 = 1;

/// Largest message, in bytes: what a default NATS server accepts.
const MAX_BYTES: usize = 1 << 20;

/// One run, self-contained: definition, arguments, limits and retry policy as of publishing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunMessage {
    /// Always [`VERSION`] after decoding.
    pub version: u32,
    /// Also the message id under which the broker drops repeats.
    pub run_id: RunId,
    /// The route.
    pub queue: QueueName,
    /// The tick, or the time a run by hand was asked for.
    pub scheduled_for: DateTime<Utc>,
    /// When the message was made.
    pub published_at: DateTime<Utc>,
    /// Not to be started earlier than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<DateTime<Utc>>,
    /// Not to be started later than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// When the job's last successful run started, as known at publishing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<DateTime<Utc>>,
    /// The run that asked for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<RunId>,
    /// The run that this one repeats, because a person asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<RunId>,
    /// Set if the job's older runs must have ended before this one starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Overlap>,
    /// Set if the job's ticks count from this kind of run: it is to be told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Anchor>,
    /// What to execute.
    pub spec: RunSpec,
}

/// Why bytes are not a message that this build can execute.
#[derive(Debug, Error)]
pub enum Malformed {
    /// More than 1 MiB.
    #[error(
        "the message has {0} bytes, more than {MAX_BYTES}: let its arguments name a file or a URL in place of what is large"
    )]
    Oversize(usize),
    /// Nobody could read its record.
    #[error("the argument `{0}` is nested deeper than {DEEPEST} levels")]
    Deep(String),
    /// `ps` would show it.
    #[error(
        "`command` has `{{credential.{0}}}`, which everybody on the machine could see: the program finds it in its environment"
    )]
    Exposed(String),
    /// Not JSON, or not of the contract's form.
    #[error("the message is not understood: {0}")]
    Json(#[from] serde_json::Error),
    /// A version from another time.
    #[error("the message has version {0}; this build understands version {VERSION}")]
    Version(u64),
}

/// What one run adds to its job's definition.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRequest {
    /// The id of the new run; of the job it is made for.
    pub run_id: RunId,
    /// The tick, or the time it was asked for.
    pub scheduled_for: DateTime<Utc>,
    /// Now.
    pub published_at: DateTime<Utc>,
    /// Not to be started earlier than this.
    pub not_before: Option<DateTime<Utc>>,
    /// When the job's last successful run started.
    pub last_success: Option<DateTime<Utc>>,
    /// Laid over the job's own arguments.
    pub args: serde_json::Map<String, serde_json::Value>,
    /// The run that asks for this one.
    pub parent: Option<RunId>,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

#[derive(Deserialize)]
struct Identified {
    run_id: RunId,
}

impl RunMessage {
    /// The run that a message is about, if as much can be understood of one that cannot be executed.
    pub fn run_id_in(bytes: &[u8]) -> Option<RunId> {
        let bytes = (bytes.len() <= MAX_BYTES).then_some(bytes)?;
        let Identified { run_id } = serde_json::from_slice(bytes).ok()?;
        Some(run_id)
    }

    /// A run that is due at `at`, published then, and of which there is no more to say.
    pub fn new(run_id: RunId, queue: QueueName, at: DateTime<Utc>, spec: RunSpec) -> Self {
        Self {
            version: VERSION,
            run_id,
            queue,
            scheduled_for: at,
            published_at: at,
            not_before: None,
            expires_at: None,
            last_success: None,
            parent: None,
            retry_of: None,
            overlap: None,
            anchor: None,
            spec,
        }
    }

    /// The message of a run of `job`, self-contained.
    pub fn for_job(job: &Job, request: RunRequest) -> Self {
        let mut spec = job.spec.clone();
        spec.args.extend(request.args);
        let expires_at = job.policy.expires.and_then(|expires| {
            let span = chrono::Duration::from_std(expires.get()).ok()?;
            let start = request.not_before.unwrap_or(request.scheduled_for);
            start.max(request.scheduled_for).checked_add_signed(span)
        });
        let at = request.scheduled_for;
        Self {
            published_at: request.published_at,
            not_before: request.not_before,
            expires_at,
            last_success: request.last_success,
            parent: request.parent,
            overlap: Some(job.policy.overlap).filter(|overlap| overlap.waits()),
            anchor: Some(job.trigger.anchor()).filter(|anchor| !anchor.is_epoch()),
            ..Self::new(request.run_id, job.queue.clone(), at, spec)
        }
    }

    /// The message as bytes, at most 1 MiB.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        self.check_depth()?;
        let bytes = serde_json::to_vec(self)?;
        if bytes.len() > MAX_BYTES {
            return Err(Malformed::Oversize(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads a message. Unknown fields are ignored, unknown versions refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_BYTES {
            return Err(Malformed::Oversize(bytes.len()));
        }
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if version != u64::from(VERSION) {
            return Err(Malformed::Version(version));
        }
        let message: Self = serde_json::from_slice(bytes)?;
        message.check_depth()?;
        message.check_command()?;
        Ok(message)
    }

    fn check_depth(&self) -> Result<(), Malformed> {
        let mut args = self.spec.args.iter();
        match args.find(|(_, value)| !is_shallow(value)) {
            Some((name, _)) => Err(Malformed::Deep(name.clone())),
            None => Ok(()),
        }
    }
}

impl RunMessage {
    /// Schedules cannot say this; whoever writes to the broker can.
    fn check_command(&self) -> Result<(), Malformed> {
        let Execute::Command(words) = &self.spec.execute else {
            return Ok(());
        };
        match words.iter().flat_map(Template::credentials).next() {
            Some(name) => Err(Malformed::Exposed(name.to_owned())),
            None => Ok(()),
        }
    }
}

impl Values for RunMessage {
    fn built_in(&self, name: &str) -> Option<String> {
        match name {
            "last_success" => Some(self.last_success.map(time).unwrap_or_default()),
            "scheduled_for" => Some(time(self.scheduled_for)),
            "run_id" => Some(self.run_id.to_string()),
            "job" => Some(self.run_id.job().to_string()),
            "queue" => Some(self.queue.to_string()),
            // There is none yet.
            "attempt" => Some(String::new()),
            _ => None,
        }
    }

    /// Texts as they are, everything else as JSON.
    fn argument(&self, name: &str) -> Option<String> {
        match self.spec.args.get(name)? {
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

/// A time as jobs see it.
pub fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_in_a_command_is_refused() {
        let mut message = message();
        let words = ["sh", "-c", "sleep 5 # {credential.apikey}"];
        message.spec.execute = Execute::Command(words.map(|word| word.parse().unwrap()).into());
        message.spec.credentials = vec!["apikey".parse().unwrap()];
        let error = RunMessage::decode(&message.encode().unwrap()).unwrap_err();
        assert!(error.to_string().contains("{credential.apikey}"), "{error}");
    }

    fn message() -> RunMessage {
        let spec = RunSpec::new(Execute::Command(vec!["true".parse().unwrap()]));
        let run_id = "crawl@20261123T023000Z".parse().unwrap();
        let at = "2026-11-23T02:30:00Z".parse().unwrap();
        RunMessage {
            published_at: "2026-11-23T02:30:00.1Z".parse().unwrap(),
            ..RunMessage::new(run_id, "high".parse().unwrap(), at, spec)
        }
    }

    #[test]
    fn survives_the_wire() {
        let bytes = message().encode().unwrap();
        assert_eq!(RunMessage::decode(&bytes).unwrap(), message());
    }

    #[test]
    fn ignores_unknown_fields_and_refuses_unknown_versions() {
        let mut value = serde_json::to_value(message()).unwrap();
        value["colour"] = "blue".into();
        let bytes = serde_json::to_vec(&value).unwrap();
        assert_eq!(RunMessage::decode(&bytes).unwrap(), message());
        value["version"] = 2.into();
        let bytes = serde_json::to_vec(&value).unwrap();
        assert!(matches!(
            RunMessage::decode(&bytes),
            Err(Malformed::Version(2))
        ));
        assert_eq!(RunMessage::run_id_in(&bytes), Some(message().run_id));
    }

    #[test]
    fn refuses_what_it_cannot_understand() {
        assert!(matches!(
            RunMessage::decode(b"hello"),
            Err(Malformed::Json(_))
        ));
        assert!(matches!(RunMessage::decode(b"{}"), Err(Malformed::Json(_))));
        assert_eq!(RunMessage::run_id_in(b"hello"), None);
        let mut deep = message();
        let nested = (0..DEEPEST).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        deep.spec.args.insert("deep".to_owned(), nested);
        assert!(matches!(deep.encode(), Err(Malformed::Deep(_))));
        let bytes = serde_json::to_vec(&deep).unwrap();
        assert!(matches!(
            RunMessage::decode(&bytes),
            Err(Malformed::Deep(_))
        ));
        let huge = vec![b' '; MAX_BYTES + 1];
        assert!(matches!(
            RunMessage::decode(&huge),
            Err(Malformed::Oversize(_))
        ));
    }
}
