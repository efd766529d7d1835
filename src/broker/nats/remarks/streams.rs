//! Whether a stream or bucket still has the settings that it needs. Pure.
//!
//! How much is kept is an operator's choice: no word of it.

use serde_json::Value;

use super::super::setup::Stream;
use crate::broker::{Remark, RemarkKind};

/// What must not differ, and what happens if it does.
fn vital(stream: Stream) -> &'static [(&'static str, &'static str)] {
    match stream {
        Stream::Jobs => &[
            ("retention", "runs stay after they have ended"),
            ("discard", "runs that wait get lost"),
            ("discard_new_per_subject", "runs that wait get lost"),
            ("max_msgs_per_subject", "runs of a job may overlap"),
            ("max_age", "runs that wait get lost"),
        ],
        Stream::Logs | Stream::Dead => &[
            ("retention", "what was read is gone"),
            ("discard", "what is new is refused when it is full"),
        ],
        Stream::Values(_) => &[
            ("retention", "values that were read are gone"),
            ("max_age", "values are forgotten too soon, or never"),
        ],
    }
}

/// What is wrong with its settings, if anything is.
pub(super) fn remark(stream: Stream, name: &str, wanted: &Value, found: &Value) -> Option<Remark> {
    let differs = |key: &str| !same(&wanted[key], &found[key]);
    let broken = vital(stream).iter().find(|(key, _)| differs(key));
    if let Some((key, consequence)) = broken {
        let message = format!(
            "{name} was changed: {key} is {}, and {consequence}",
            shown(&found[*key])
        );
        let help = format!(
            "set it to {} with `nats stream edit {name}`; if the server refuses that, remove the stream while \
             nothing is in it: it is made again",
            shown(&wanted[*key])
        );
        return Some(told(RemarkKind::Failed, message, help));
    }
    if found["storage"] != "file" {
        let message = format!("{name} is kept in memory: a restart of the server empties it");
        let help = format!("remove {name} while nothing is in it; it is made again, on the disk");
        return Some(told(RemarkKind::Warning, message, help));
    }
    let copies = |config: &Value| config["num_replicas"].as_u64().unwrap_or(1).max(1);
    let (has, wants) = (copies(found), copies(wanted));
    (has < wants).then(|| {
        let message = format!("{name} has {has} of {wants} copies");
        let help = format!(
            "`nats stream edit {name} --replicas {wants}` changes it; our --replicas is for streams that are yet to be made"
        );
        told(RemarkKind::Warning, message, help)
    })
}

/// What is well, in one line.
pub(super) fn summary(names: &[String]) -> Option<Remark> {
    let first = names.first()?;
    let message = match names.len() {
        1 => format!("{first} is as it should be"),
        many => format!("{many} streams and buckets are as they should be"),
    };
    Some(Remark {
        check: "streams",
        kind: RemarkKind::Ok,
        message,
        help: None,
    })
}

/// What there is to say of streams that are not there, of `all`.
pub(super) fn missing(names: &[String], all: usize) -> Option<Remark> {
    if names.is_empty() {
        return None;
    }
    if names.len() == all {
        return Some(told(
            RemarkKind::Warning,
            "no beat has set this server up yet: there is no stream and no bucket of this namespace"
                .to_owned(),
            "start `orchestrator beat`, which makes them all; give it --replicas 3 in a cluster"
                .to_owned(),
        ));
    }
    let help = "beat makes what is missing when it begins to lead; if it could not, its log says why: most often there is \
        no room, so give the server's disk, its account or `max_file_store` 2 GB beyond what runs and records need";
    Some(told(
        RemarkKind::Failed,
        format!("missing: {}", names.join(", ")),
        help.to_owned(),
    ))
}

fn told(kind: RemarkKind, message: String, help: String) -> Remark {
    Remark {
        check: "streams",
        kind,
        message,
        help: Some(help),
    }
}

/// What is not said is the same as nothing.
fn same(wanted: &Value, found: &Value) -> bool {
    let nothing = |value: &Value| {
        matches!(value, Value::Null | Value::Bool(false)) || value == 0 || value == -1
    };
    wanted == found || (nothing(wanted) && nothing(found))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "not set".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::broker::Bucket;

    fn jobs() -> Value {
        json!({
            "storage": "file", "retention": "workqueue", "discard": "new", "discard_new_per_subject": true,
            "max_msgs_per_subject": 1, "num_replicas": 3, "max_msgs": -1,
        })
    }

    #[test]
    fn what_a_promise_rests_on_must_not_differ() {
        let kind = |key: &str, value: Value| {
            let mut found = jobs();
            found[key] = value;
            remark(Stream::Jobs, "ORCH_JOBS", &jobs(), &found).map(|remark| remark.kind)
        };
        assert_eq!(kind("max_msgs", json!(5000)), None, "an operator's choice");
        assert_eq!(kind("num_replicas", json!(5)), None);
        assert_eq!(kind("max_age", json!(0)), None);
        assert_eq!(kind("num_replicas", json!(1)), Some(RemarkKind::Warning));
        assert_eq!(kind("storage", json!("memory")), Some(RemarkKind::Warning));
        for (key, value) in [
            ("retention", json!("limits")),
            ("discard", json!("old")),
            ("discard_new_per_subject", Value::Null),
            ("max_msgs_per_subject", json!(-1)),
            ("max_age", json!(1_000_000_000)),
        ] {
            assert_eq!(kind(key, value), Some(RemarkKind::Failed), "{key}");
        }
    }

    #[test]
    fn a_bucket_must_forget_in_time_and_not_before() {
        let wanted =
            json!({ "storage": "file", "retention": "limits", "max_age": 60_000_000_000_u64 });
        let mut found = wanted.clone();
        let bucket = Stream::Values(Bucket::Workers);
        assert_eq!(remark(bucket, "KV_ORCH_WORKERS", &wanted, &found), None);
        found["max_age"] = json!(0);
        let remark = remark(bucket, "KV_ORCH_WORKERS", &wanted, &found).unwrap();
        assert_eq!(
            remark.message,
            "KV_ORCH_WORKERS was changed: max_age is 0, and values are forgotten too soon, or never"
        );
    }

    #[test]
    fn what_is_missing_is_named_unless_nothing_is_there() {
        let names = |count: usize| -> Vec<String> {
            let names = ["ORCH_JOBS", "ORCH_LOGS", "ORCH_DEAD"].into_iter();
            names.take(count).map(str::to_owned).collect()
        };
        assert_eq!(missing(&names(0), 3), None);
        let some = missing(&names(2), 3).unwrap();
        assert_eq!(some.kind, RemarkKind::Failed);
        assert_eq!(some.message, "missing: ORCH_JOBS, ORCH_LOGS");
        let all = missing(&names(3), 3).unwrap();
        assert_eq!(all.kind, RemarkKind::Warning);
        assert!(all.message.contains("no beat has set this server up yet"));
    }
}
