//! What a program is told about its run: environment variables and placeholders. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Secrets;
use crate::{
    job::Values,
    run::{RunMessage, time},
};

/// The longest text that Linux takes as one variable is 128 KiB, its name included.
const MAX_VARIABLE: usize = 120 * 1024;

/// One attempt of one run, as its program sees it.
#[derive(Debug, Clone, Copy)]
pub struct RunContext<'a> {
    /// The run.
    pub message: &'a RunMessage,
    /// The number of the attempt.
    pub attempt: u32,
    /// The fence of the attempt.
    pub fence: u64,
    /// The lock that it holds, with the token.
    pub lock: Option<(&'a str, u64)>,
    /// What only the program may see.
    pub secrets: &'a Secrets,
    /// What the worker hands on, so that a job reaches the same broker.
    pub hand_on: &'a BTreeMap<String, String>,
}

impl RunContext<'_> {
    /// The arguments as JSON.
    pub(super) fn arguments(&self) -> String {
        Value::Object(self.message.spec.args.clone()).to_string()
    }

    /// What is added to the worker's own environment. The job's `env` wins over what is handed on;
    /// what describes the run wins over both. Arguments too long for a variable are on standard
    /// input only.
    pub(super) fn variables(&self, arguments: &str) -> BTreeMap<String, String> {
        let message = self.message;
        let mut variables = self.hand_on.clone();
        variables.extend(self.secrets.variables());
        variables.extend(message.spec.env.clone());
        let last_success = message.last_success.map(time).unwrap_or_default();
        let of_the_run = [
            ("ORCHESTRATOR_RUN_ID", message.run_id.to_string()),
            ("ORCHESTRATOR_JOB", message.run_id.job().to_string()),
            ("ORCHESTRATOR_QUEUE", message.queue.to_string()),
            ("ORCHESTRATOR_ATTEMPT", self.attempt.to_string()),
            ("ORCHESTRATOR_SCHEDULED_FOR", time(message.scheduled_for)),
            ("ORCHESTRATOR_LAST_SUCCESS", last_success),
            ("ORCHESTRATOR_FENCE", self.fence.to_string()),
            ("TRACEPARENT", self.traceparent()),
        ];
        variables.extend(of_the_run.map(|(name, value)| (name.to_owned(), value)));
        if let Some((name, token)) = self.lock {
            variables.insert("ORCHESTRATOR_LOCK".to_owned(), name.to_owned());
            variables.insert("ORCHESTRATOR_LOCK_TOKEN".to_owned(), token.to_string());
        }
        if arguments.len() <= MAX_VARIABLE {
            variables.insert("ORCHESTRATOR_ARGS".to_owned(), arguments.to_owned());
        }
        variables
    }

    /// W3C trace context: the trace is the run, the span is the attempt, the same wherever they
    /// are computed.
    pub(super) fn traceparent(&self) -> String {
        let run = self.message.run_id.to_string();
        let trace = fnv1a(&run).max(1);
        let span = (fnv1a(&format!("{run}/{}", self.fence)) >> 64).max(1);
        format!("00-{trace:032x}-{span:016x}-01")
    }
}

impl Values for RunContext<'_> {
    fn built_in(&self, name: &str) -> Option<String> {
        match name {
            "attempt" => Some(self.attempt.to_string()),
            _ => self.message.built_in(name),
        }
    }

    fn argument(&self, name: &str) -> Option<String> {
        self.message.argument(name)
    }

    fn credential(&self, name: &str) -> Option<String> {
        self.secrets.credential(name).cloned()
    }
}

/// FNV-1a, 128 bits: the same on every machine and in every version.
fn fnv1a(text: &str) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    text.bytes().fold(BASIS, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(PRIME)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Execute, RunSpec};
    use chrono::DateTime;
    use serde_json::json;

    static NO_SECRETS: std::sync::LazyLock<Secrets> = std::sync::LazyLock::new(Secrets::default);

    fn message() -> RunMessage {
        let mut spec = RunSpec::new(Execute::Shell("true".to_owned()));
        spec.env.insert("LEVEL".to_owned(), "job".to_owned());
        spec.env
            .insert("ORCHESTRATOR_JOB".to_owned(), "forged".to_owned());
        spec.args.insert("url".to_owned(), json!("http://x/?a=b c"));
        spec.args.insert("depth".to_owned(), json!(3));
        let run_id = "crawl@20261123T023000Z".parse().unwrap();
        let at = DateTime::from_timestamp(1_795_401_000, 0).unwrap();
        RunMessage::new(run_id, "high".parse().unwrap(), at, spec)
    }

    fn context<'a>(
        message: &'a RunMessage,
        hand_on: &'a BTreeMap<String, String>,
    ) -> RunContext<'a> {
        RunContext {
            message,
            attempt: 2,
            fence: 3,
            lock: Some(("cookie-jar", 7)),
            secrets: &NO_SECRETS,
            hand_on,
        }
    }

    #[test]
    fn tells_the_run() {
        let message = message();
        let hand_on = BTreeMap::from([
            ("LEVEL".to_owned(), "worker".to_owned()),
            ("NATS_URL".to_owned(), "nats://x".to_owned()),
        ]);
        let context = context(&message, &hand_on);
        let variables = context.variables(&context.arguments());
        let expected = [
            ("LEVEL", "job"),
            ("NATS_URL", "nats://x"),
            ("ORCHESTRATOR_JOB", "crawl"),
            ("ORCHESTRATOR_RUN_ID", "crawl@20261123T023000Z"),
            ("ORCHESTRATOR_QUEUE", "high"),
            ("ORCHESTRATOR_ATTEMPT", "2"),
            ("ORCHESTRATOR_FENCE", "3"),
            ("ORCHESTRATOR_LOCK", "cookie-jar"),
            ("ORCHESTRATOR_LOCK_TOKEN", "7"),
            ("ORCHESTRATOR_SCHEDULED_FOR", "2026-11-23T02:30:00Z"),
            ("ORCHESTRATOR_LAST_SUCCESS", ""),
            (
                "ORCHESTRATOR_ARGS",
                r#"{"depth":3,"url":"http://x/?a=b c"}"#,
            ),
        ];
        for (name, value) in expected {
            assert_eq!(
                variables.get(name).map(String::as_str),
                Some(value),
                "{name}"
            );
        }
        let trace = &variables["TRACEPARENT"];
        assert_eq!(trace.len(), 55, "{trace}");
        assert_eq!(*trace, context.traceparent());
    }

    #[test]
    fn arguments_fill_placeholders() {
        let message = message();
        let hand_on = BTreeMap::new();
        let context = context(&message, &hand_on);
        assert_eq!(context.argument("url").as_deref(), Some("http://x/?a=b c"));
        assert_eq!(context.argument("depth").as_deref(), Some("3"));
        assert_eq!(context.argument("none"), None);
        assert_eq!(context.built_in("last_success").as_deref(), Some(""));
    }

    #[test]
    fn long_arguments_are_not_a_variable() {
        let message = message();
        let hand_on = BTreeMap::new();
        let variables = context(&message, &hand_on).variables(&"x".repeat(MAX_VARIABLE + 1));
        assert!(!variables.contains_key("ORCHESTRATOR_ARGS"));
    }
}
