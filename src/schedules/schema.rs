//! The JSON Schema of schedule files, for editors. A test compares its keys with those that are read.

mod executed;

use serde_json::{Map, Value, json};

use crate::job::Event;
use executed::{executed, limits};

const DURATION: &str = r"^\s*(\d+\s*[a-zµ]+\s*)+$";
const NAME: &str = "^[a-z0-9][a-z0-9_-]{0,62}$";

/// The JSON Schema (draft 2020-12) of one schedule file.
pub fn schema() -> Value {
    let job = job_properties();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "orchestrator schedules",
        "description": "Jobs of orchestrator: what to run, when, where, and what to do when it fails",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "defaults": {
                "description": "Values for all jobs of this file; a job's own value wins",
                "type": "object",
                "additionalProperties": false,
                "properties": job.clone(),
            },
            "job": {
                "description": "The jobs by name",
                "type": "object",
                "propertyNames": { "pattern": NAME },
                "additionalProperties": { "$ref": "#/$defs/job" },
            },
            "blackout": {
                "description": "Stretches of time by name, in which the jobs that name them do not run",
                "type": "object",
                "propertyNames": { "pattern": NAME },
                "additionalProperties": blackout(),
            },
            "notify": {
                "description": "Webhooks by name: who is told what happens to jobs",
                "type": "object",
                "propertyNames": { "pattern": NAME },
                "additionalProperties": webhook(),
            },
        },
        "$defs": {
            "job": {
                "type": "object",
                "additionalProperties": false,
                "properties": job,
                "dependentRequired": { "offset": ["every"] },
                "allOf": [
                    { "not": { "required": ["command", "shell"] } },
                    { "not": { "required": ["command", "http"] } },
                    { "not": { "required": ["shell", "http"] } },
                    { "not": { "required": ["cron", "every"] } },
                    { "not": { "required": ["cron", "at"] } },
                    { "not": { "required": ["every", "at"] } },
                ],
            },
            "duration": {
                "description": "A duration with units, for example 90s, 15m or 1h 30m",
                "type": "string",
                "pattern": DURATION,
            },
            "statuses": {
                "type": "array",
                "items": { "type": "integer", "minimum": 100, "maximum": 599 },
            },
            "exit_codes": {
                "type": "array",
                "items": { "type": "integer", "minimum": 0, "maximum": 255 },
            },
        },
    })
}

fn job_properties() -> Map<String, Value> {
    let mut properties = Map::new();
    for group in [about(), due(), executed(), limits(), policies()] {
        if let Value::Object(group) = group {
            properties.extend(group);
        }
    }
    properties
}

fn duration(description: &str) -> Value {
    json!({ "description": description, "$ref": "#/$defs/duration" })
}

fn choice(description: &str, words: &[&str], default: &str) -> Value {
    json!({ "description": description, "enum": words, "default": default })
}

fn about() -> Value {
    json!({
        "description": { "description": "For people; never interpreted", "type": "string" },
        "tags": {
            "description": "For people and filters; never interpreted",
            "type": "array",
            "items": { "type": "string" },
        },
        "enabled": {
            "description": "A disabled job has no ticks; it can still be run by hand",
            "type": "boolean",
            "default": true,
        },
    })
}

/// A TOML date with a time is no JSON type: editors see its text.
fn moment(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn cron() -> Value {
    json!({
        "description": "A crontab(5) expression, or the union of several: 5 fields, 6 with leading seconds, or @daily …",
        "oneOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "string" }, "minItems": 1 },
        ],
    })
}

fn timezone() -> Value {
    json!({
        "description": "IANA name of the zone in which times are read and shown",
        "type": "string",
        "default": "UTC",
        "examples": ["UTC", "Asia/Shanghai", "Europe/Berlin"],
    })
}

/// `[blackout.NAME]`
fn blackout() -> Value {
    let date = || moment("A date, or a date with a time: 2026-12-24, 2026-12-24T18:00:00");
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "description": { "description": "For people; never interpreted", "type": "string" },
            "cron": cron(),
            "duration": duration("How long it lasts each time that `cron` begins one"),
            "from": date(),
            "to": date(),
            "timezone": timezone(),
        },
        "oneOf": [
            { "required": ["cron", "duration"] },
            { "required": ["from", "to"] },
        ],
    })
}

/// `[notify.NAME]`
fn webhook() -> Value {
    let events = json!({ "enum": Event::ALL.map(Event::name) });
    let some = |items: Value| json!({ "oneOf": [items, { "type": "array", "items": items, "minItems": 1 }] });
    let mut properties = json!({
        "description": { "description": "For people; never interpreted", "type": "string" },
        "url": {
            "description": "Where messages are sent with POST; may contain {credential.NAME}",
            "type": "string",
        },
        "secret": {
            "description": "The credential that messages are signed with",
            "type": "string", "pattern": NAME,
        },
        "repeat": duration("A job that goes on failing is not told again for so long, 1h by default"),
    });
    properties["on"] = some(events);
    properties["jobs"] = some(json!({ "type": "string", "pattern": NAME }));
    properties["tags"] = some(json!({ "type": "string" }));
    properties["on"]["description"] = "What is told; everything by default".into();
    properties["jobs"]["description"] =
        "Of which jobs; with `tags`, of those too; of all by default".into();
    properties["tags"]["description"] = "Of jobs with which tags".into();
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
        "required": ["url"],
    })
}

fn due() -> Value {
    let moment = moment("RFC 3339, or local time in the job's zone: 2026-12-24T18:00:00");
    json!({
        "cron": cron(),
        "every": duration("An interval of whole seconds, 1s to 366days, aligned to the epoch"),
        "offset": duration("Shifts the grid of `every`; shorter than the interval"),
        "at": {
            "description": "A date with a time, or a list of some",
            "oneOf": [moment.clone(), { "type": "array", "items": moment, "minItems": 1 }],
        },
        "anchor": choice(
            "From where `every` counts: the start of Unix time, the end of the last successful run, or the start of the last run",
            &["epoch", "last_success", "last_start"], "epoch"),
        "timezone": timezone(),
        "dst_gap": choice(
            "What becomes of a fixed time that a change of the clock skips", &["run_after", "skip"], "run_after"),
        "dst_repeat": choice(
            "How often a fixed time runs that comes round twice", &["once", "twice"], "once"),
        "first_run": choice(
            "When a job that was never seen before runs first", &["next", "now"], "next"),
    })
}

fn policies() -> Value {
    json!({
        "retry": {
            "description": "What happens after a failed attempt",
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "attempts": {
                    "description": "How often a run is attempted in all",
                    "type": "integer", "minimum": 1, "maximum": 1000, "default": 1,
                },
                "backoff": {
                    "description": "How the delays grow, or the delays themselves",
                    "oneOf": [
                        { "enum": ["fixed", "exponential"] },
                        { "type": "array", "items": { "$ref": "#/$defs/duration" }, "minItems": 1 },
                    ],
                    "default": "exponential",
                },
                "initial": duration("The first delay, 10s by default"),
                "max": duration("No delay is longer, 1h by default"),
                "jitter": {
                    "description": "Share of the delay by which it varies at random",
                    "type": "number", "minimum": 0, "maximum": 1, "default": 0.1,
                },
                "on_exit": {
                    "description": "If not empty, only these exit codes are retried",
                    "$ref": "#/$defs/exit_codes",
                },
                "not_on_exit": {
                    "description": "These exit codes are never retried",
                    "$ref": "#/$defs/exit_codes",
                },
                "on_status": {
                    "description": "If not empty, of the answers to requests only these statuses are retried",
                    "$ref": "#/$defs/statuses",
                },
                "not_on_status": {
                    "description": "Answers with these statuses are never retried",
                    "$ref": "#/$defs/statuses",
                },
                "max_crashes": {
                    "description": "A run that took more workers with it than this is dead",
                    "type": "integer", "minimum": 0, "maximum": 1000, "default": 3,
                },
            },
        },
        "alert_if_no_success_for": duration(
            "The job is overdue if it has not succeeded for so long: logged, shown, told to webhooks"),
        "expires": duration("A run not started by so long after its tick ends as expired"),
        "catch_up": choice(
            "Which of several overdue ticks are run", &["skip", "latest", "all"], "latest"),
        "catch_up_window": duration("Older ticks are missed, 1h by default"),
        "max_catch_up": {
            "description": "At most so many overdue ticks are run under catch_up = \"all\"",
            "type": "integer", "minimum": 1, "maximum": 100_000, "default": 100,
        },
        "overlap": choice(
            "What happens to a tick while a run of its job is live",
            &["skip", "queue", "allow", "replace"], "skip"),
        "jitter": duration(
            "Runs start up to so long after their ticks, each by its own delay; at most 1day"),
        "start": moment("Instants of the trigger before this are no ticks"),
        "end": moment("Instants of the trigger after this are no ticks"),
        "blackout": {
            "description": "Blackouts, of any file, in which the job does not run: a name or a list of some",
            "oneOf": [
                { "type": "string", "pattern": NAME },
                { "type": "array", "items": { "type": "string", "pattern": NAME } },
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::schedules::{
        blackout::BLACKOUT_KEYS,
        http::HTTP_KEYS,
        limits::{CONCURRENCY_KEYS, LOCK_KEYS, RATE_KEYS},
        notify::NOTIFY_KEYS,
        resources::RESOURCE_KEYS,
        retry::RETRY_KEYS,
        settings,
        unique::UNIQUE_KEYS,
        values::KILL_KEYS,
    };

    fn keys_at(pointer: &str) -> BTreeSet<String> {
        let schema = schema();
        let table = schema.pointer(pointer).unwrap().as_object().unwrap();
        table.keys().cloned().collect()
    }

    fn set<'a>(keys: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
        keys.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn every_key_that_is_read_is_in_the_schema_and_the_other_way_round() {
        assert_eq!(keys_at("/$defs/job/properties"), set(settings::keys()));
        assert_eq!(
            keys_at("/properties/defaults/properties"),
            set(settings::keys())
        );
        let inner = |key: &str| keys_at(&format!("/$defs/job/properties/{key}/properties"));
        assert_eq!(inner("retry"), set(RETRY_KEYS));
        assert_eq!(inner("kill"), set(KILL_KEYS));
        assert_eq!(inner("concurrency"), set(CONCURRENCY_KEYS));
        assert_eq!(inner("rate"), set(RATE_KEYS));
        assert_eq!(inner("limits"), set(RESOURCE_KEYS));
        assert_eq!(inner("unique"), set(UNIQUE_KEYS));
        assert_eq!(inner("http"), set(HTTP_KEYS));
        let lock = "/$defs/job/properties/lock/oneOf/1/properties";
        assert_eq!(keys_at(lock), set(LOCK_KEYS));
        let webhook = "/properties/notify/additionalProperties/properties";
        assert_eq!(keys_at(webhook), set(NOTIFY_KEYS));
        let blackout = "/properties/blackout/additionalProperties/properties";
        assert_eq!(keys_at(blackout), set(BLACKOUT_KEYS));
    }

    #[test]
    fn the_stored_schema_is_up_to_date() {
        let stored = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/schedule.schema.json");
        let stored: Value =
            serde_json::from_str(&std::fs::read_to_string(stored).unwrap()).unwrap();
        assert_eq!(
            stored,
            schema(),
            "run `orchestrator schema > docs/schedule.schema.json`"
        );
    }
}
