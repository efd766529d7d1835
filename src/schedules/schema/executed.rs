//! The keys that say what is executed, and within which limits.

use serde_json::{Value, json};

use super::{NAME, choice, duration};

fn http() -> Value {
    let text = |about: &str| json!({ "description": about, "type": "string", "minLength": 1 });
    json!({
        "description": "A request in place of a program; placeholders as in `command`",
        "type": "object",
        "additionalProperties": false,
        "required": ["url"],
        "properties": {
            "url": text("Placeholders are percent-encoded, unless the whole URL is one"),
            "method": choice(
                "The method", &crate::job::Method::ALL.map(|(name, _)| name), "GET"),
            "headers": { "type": "object", "additionalProperties": text("Placeholders are filled in") },
            "body": { "description": "A text is sent as it is, everything else as JSON" },
            "expect_status": {
                "description": "The statuses that mean success, 200 to 299 by default",
                "$ref": "#/$defs/statuses",
            },
            "expect_body": text("The answer must contain this"),
            "redirects": {
                "description": "How many are followed",
                "type": "integer", "minimum": 0, "maximum": 20, "default": 5,
            },
            "max_body": {
                "description": "A longer answer is a failure: bytes, or a text such as 1 MiB",
                "oneOf": [{ "type": "integer", "minimum": 0, "maximum": 1 << 30 }, { "type": "string" }],
                "default": "1 MiB",
            },
        },
    })
}

pub(super) fn executed() -> Value {
    json!({
        "queue": {
            "description": "The route to workers: critical, high, default, low or any other name",
            "type": "string",
            "pattern": NAME,
            "default": "default",
        },
        "command": {
            "description": "The program and its arguments, without a shell; placeholders: {arg.NAME}, {last_success}, {scheduled_for}, {run_id}, {job}, {queue}, {attempt}",
            "type": "array",
            "items": { "type": "string" },
            "minItems": 1,
        },
        "shell": {
            "description": "A script for /bin/sh -c, without placeholders",
            "type": "string",
            "minLength": 1,
        },
        "http": http(),
        "args": {
            "description": "Default arguments; those of a run by hand are laid over them",
            "type": "object",
        },
        "env": {
            "description": "Added to the worker's environment",
            "type": "object",
            "additionalProperties": { "type": "string" },
        },
        "env_file": {
            "description": "Files of variables (NAME=VALUE) on the worker; relative to this file's directory; their values are hidden in logs",
            "oneOf": [
                { "type": "string", "minLength": 1 },
                { "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": 1 },
            ],
        },
        "credential": {
            "description": "Secrets by name, from the worker's directory of credentials: {credential.NAME} in `http`, CREDENTIAL_NAME in a program's environment; hidden in logs",
            "oneOf": [
                { "type": "string", "pattern": NAME },
                { "type": "array", "items": { "type": "string", "pattern": NAME }, "minItems": 1 },
            ],
        },
        "working_dir": {
            "description": "Where the program starts; relative to this file's directory",
            "type": "string",
            "minLength": 1,
        },
        "run_as": {
            "description": "The user, by the name in /etc/passwd of the worker's machine, whose the processes are; the policy of the worker must list it in `users`",
            "type": "string",
            "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.@$-]{0,254}$",
        },
    })
}

pub(super) fn limits() -> Value {
    json!({
        "timeout": duration("An attempt that takes longer is ended"),
        "kill": {
            "description": "How an attempt is ended before its time",
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "signal": choice(
                    "The polite signal",
                    &crate::job::SignalName::ALL.map(|(name, _)| name), "SIGTERM"),
                "grace": duration("Time until SIGKILL, 10s by default"),
            },
        },
        "lock": {
            "description": "Held by one run of the cluster at a time, of whichever job; placeholders as in `command`",
            "oneOf": [
                { "type": "string", "minLength": 1 },
                {
                    "type": "object",
                    "additionalProperties": false,
                    "required": ["name"],
                    "properties": {
                        "name": { "description": "Which lock", "type": "string", "minLength": 1 },
                        "inherit": {
                            "description": "Runs that the holder starts may hold it, too",
                            "type": "boolean", "default": false,
                        },
                        "wait": duration("A run that could not start for so long ends as expired"),
                    },
                },
            ],
        },
        "concurrency": {
            "description": "At most so many runs with the same key at once, of whichever job",
            "type": "object",
            "additionalProperties": false,
            "required": ["key", "limit"],
            "properties": {
                "key": { "description": "Placeholders as in `command`", "type": "string", "minLength": 1 },
                "limit": { "description": "How many", "type": "integer", "minimum": 1, "maximum": 1_000_000 },
                "wait": duration("A run that could not start for so long ends as expired"),
            },
        },
        "unique": {
            "description": "Requests of the job by hand with the same key get the first run in place of a new one",
            "type": "object",
            "additionalProperties": false,
            "required": ["key"],
            "properties": {
                "key": { "description": "Placeholders as in `command`", "type": "string", "minLength": 1 },
                "for": duration("How long after the first request, at most 31 days"),
                "while": choice(
                    "In which state of the first run: until it starts, until it has ended, or even after that",
                    &["queued", "running", "finished"], "finished"),
            },
        },
        "limits": {
            "description": "What all processes of a run together may use up; needs control groups of version 2 on the worker",
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "memory": {
                    "description": "A run that needs more is ended, as out of memory: bytes, or a text such as 512M or 2 GiB",
                    "oneOf": [{ "type": "integer", "minimum": 1 << 20 }, { "type": "string" }],
                },
                "cpu": {
                    "description": "How many processors; a run that wants more is slowed down",
                    "type": "number", "minimum": 0.01, "maximum": 10_000,
                },
                "pids": {
                    "description": "How many processes and threads; further ones cannot be started",
                    "type": "integer", "minimum": 1, "maximum": 1 << 22,
                },
            },
        },
        "rate": {
            "description": "Runs with the same key, of whichever job, start no faster",
            "type": "object",
            "additionalProperties": false,
            "required": ["key", "limit"],
            "properties": {
                "key": { "description": "Placeholders as in `command`", "type": "string", "minLength": 1 },
                "limit": {
                    "description": "How many in which time: 2/s, 100/m, 3/10s",
                    "type": "string", "pattern": r"^\s*[1-9]\d*\s*/\s*(\d+\s*)?[a-z]+\s*$",
                },
                "burst": {
                    "description": "How many may start at once after a quiet time",
                    "type": "integer", "minimum": 1, "maximum": 1_000_000, "default": 1,
                },
            },
        },
        "lease_loss": choice(
            "What becomes of a job whose lease cannot be renewed in time: it goes on until somebody else took over, or it is ended before anybody can",
            &["continue", "stop"], "continue"),
        "success_exit": {
            "description": "Exit codes that mean success, [0] by default",
            "$ref": "#/$defs/exit_codes",
        },
        "ping": {
            "description": "A URL that is told when an attempt begins (/start) and how the run ended (/EXIT, /fail), as healthchecks.io has it",
            "type": "string",
            "pattern": "^https?://",
        },
        "output_limit": {
            "description": "How much output is kept of a run: bytes, or a text such as 1 MiB",
            "oneOf": [{ "type": "integer", "minimum": 0, "maximum": 1 << 30 }, { "type": "string" }],
            "default": "1 MiB",
        },
    })
}
