//! Whether a stream or bucket still has the settings that it needs. Pure.
//!
//! What is wanted is what they are made with. How much is kept is an operator's choice, as long as it is not next to nothing.

use serde_json::Value;

use super::{
    super::setup::Stream,
    rules::{Rule, failed, shown, told, warned},
};
use crate::broker::{Remark, RemarkKind};

/// What must not differ from what it is made with, and what happens if it does.
fn vital(stream: Stream) -> Vec<Rule> {
    match stream {
        Stream::Jobs => vec![
            failed("subjects", "runs get lost, or others come in"),
            failed("subject_transform", "runs get lost"),
            failed("no_ack", "nobody is told whether a run is stored"),
            failed("retention", "runs stay after they have ended"),
            failed("discard", "runs that wait get lost"),
            failed("discard_new_per_subject", "runs that wait get lost"),
            failed("max_msgs_per_subject", "runs of a job may overlap"),
            failed("max_age", "runs that wait get lost"),
            failed("max_consumers", "no more queues than that are served"),
            failed("deny_delete", "runs that wait cannot be removed"),
            failed("sealed", "no run can be published"),
        ],
        Stream::Logs => vec![
            failed("subjects", "output gets lost"),
            failed("subject_transform", "output gets lost"),
            failed("no_ack", "nobody is told whether output is stored"),
            failed("retention", "what was read is gone"),
            failed("discard", "what is new is refused when it is full"),
            failed("deny_purge", "output cannot be bounded"),
            failed("sealed", "no output is kept"),
        ],
        Stream::Dead => vec![
            failed("subjects", "dead letters get lost"),
            failed("subject_transform", "dead letters get lost"),
            failed("no_ack", "nobody is told whether a letter is stored"),
            failed("retention", "what was read is gone"),
            failed("discard", "what is new is refused when it is full"),
            failed("deny_delete", "letters cannot be discarded"),
            failed("sealed", "no letter is kept"),
        ],
        Stream::Values(_) => vec![
            failed("subjects", "values get lost"),
            failed("subject_transform", "values get lost"),
            failed("no_ack", "nobody is told whether a value is stored"),
            failed("retention", "values that were read are gone"),
            failed("discard", "values get lost when it is full"),
            failed("discard_new_per_subject", "no value can be changed"),
            failed("max_age", "values are forgotten too soon, or never"),
            failed("max_consumers", "not everybody can follow the changes"),
            failed(
                "allow_rollup_hdrs",
                "who may write one value can remove all of them",
            ),
            failed("sealed", "no value can be written"),
            warned("max_msgs_per_subject", "values that were replaced stay"),
        ],
    }
}

/// A run's message has at most 1 MiB, a letter half of one in base64; both have headers beside it.
const LARGEST: i64 = (1 << 20) + (4 << 10);
/// What a server with little room is asked for when the stream is made.
const LITTLE: i64 = 8 << 20;
const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * SECOND;

/// Limits that may be there, but none smaller than these; none is more than any.
fn floors(stream: Stream) -> Vec<(Rule, i64)> {
    let size = (failed("max_msg_size", "what is larger is refused"), LARGEST);
    let lost = |key, consequence, least| (warned(key, consequence), least);
    match stream {
        Stream::Jobs => {
            let published =
                "a run that is published again later is given out again, for its record to stop it";
            vec![size, lost("duplicate_window", published, 120 * SECOND)]
        }
        Stream::Values(_) => vec![size],
        Stream::Logs => {
            let gone = "output is gone before anybody reads it";
            vec![
                size,
                lost("max_msgs", gone, 1000),
                lost("max_msgs_per_subject", gone, 100),
                lost("max_bytes", gone, LITTLE),
                lost("max_age", gone, DAY),
            ]
        }
        Stream::Dead => {
            let gone = "letters are gone before anybody reads them";
            vec![
                size,
                lost("max_msgs", gone, 1000),
                lost("max_msgs_per_subject", gone, 100),
                lost("max_bytes", gone, LITTLE),
                lost("max_age", gone, 7 * DAY),
            ]
        }
    }
}

/// What is wrong with its settings.
pub(super) fn remarks(stream: Stream, name: &str, wanted: &Value, found: &Value) -> Vec<Remark> {
    let changed = |rule: &Rule, least: Option<i64>| {
        let key = rule.key;
        let message = format!(
            "{name} was changed: {key} is {}, and {}",
            shown(key, &found[key]),
            rule.consequence
        );
        let or_more = least.map(|least| format!(", or to {} at least,", shown(key, &least.into())));
        let help = format!(
            "{}{} with `nats stream edit {name}`; if the server refuses that, remove the stream while nothing is in it: \
             it is made again",
            rule.mend(wanted, found),
            or_more.unwrap_or_default()
        );
        told(rule.kind, message, help)
    };
    let mut broken = vital(stream);
    broken.retain(|rule| rule.is_broken(wanted, found));
    if let Some(sealed) = broken.iter().find(|rule| rule.key == "sealed") {
        // Other settings come with it, and none can be changed.
        return vec![changed(sealed, None)];
    }
    let mut remarks: Vec<_> = broken.iter().map(|rule| changed(rule, None)).collect();
    for (rule, least) in floors(stream) {
        let limit = found[rule.key].as_i64().unwrap_or(-1);
        if limit > 0 && limit < least {
            remarks.push(changed(&rule, Some(least)));
        }
    }
    remarks.extend(kept(stream, name, wanted, found));
    remarks
}

/// What there is to say of where and how much of it is kept.
fn kept(stream: Stream, name: &str, wanted: &Value, found: &Value) -> Option<Remark> {
    if found["storage"] != "file" {
        let message = format!("{name} is kept in memory: a restart of the server empties it");
        let help = format!("remove {name} while nothing is in it; it is made again, on the disk");
        return Some(told(RemarkKind::Warning, message, help));
    }
    let copies = |config: &Value| config["num_replicas"].as_u64().unwrap_or(1).max(1);
    let (has, wants) = (copies(found), copies(wanted));
    if has < wants {
        let message = format!("{name} has {has} of {wants} copies");
        let help = format!(
            "`nats stream edit {name} --replicas {wants}` changes it; our --replicas is for streams that are yet to be made"
        );
        return Some(told(RemarkKind::Warning, message, help));
    }
    let is_bounded = |key: &str| found[key].as_i64().is_some_and(|limit| limit > 0);
    (stream == Stream::Jobs && !is_bounded("max_bytes") && !is_bounded("max_msgs")).then(|| {
        let message = format!(
            "{name} has no bound: waiting runs can take the room that workers need for the records of runs"
        );
        let help = format!(
            "`nats stream edit {name} --max-bytes SIZE`, a quarter of what the account or the server has"
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::broker::Bucket;

    fn jobs() -> Value {
        json!({
            "storage": "file", "retention": "workqueue", "discard": "new", "discard_new_per_subject": true,
            "max_msgs_per_subject": 1, "num_replicas": 3, "max_msgs": -1, "max_bytes": 1 << 30,
        })
    }

    #[test]
    fn what_a_promise_rests_on_must_not_differ() {
        let kind = |key: &str, value: Value| {
            let mut found = jobs();
            found[key] = value;
            let remarks = remarks(Stream::Jobs, "ORCH_JOBS", &jobs(), &found);
            assert!(remarks.len() < 2, "{remarks:?}");
            remarks.first().map(|remark| remark.kind)
        };
        assert_eq!(kind("max_msgs", json!(5000)), None, "an operator's choice");
        assert_eq!(kind("num_replicas", json!(5)), None);
        assert_eq!(kind("max_bytes", json!(5000)), None, "an operator's choice");
        assert_eq!(kind("max_bytes", json!(-1)), Some(RemarkKind::Warning));
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
        assert_eq!(remarks(bucket, "KV_ORCH_WORKERS", &wanted, &found), []);
        found["max_age"] = json!(0);
        let remarks = remarks(bucket, "KV_ORCH_WORKERS", &wanted, &found);
        assert_eq!(
            remarks[0].message,
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
