//! Celery's `beat_schedule`, dumped as JSON → drafts.
//!
//! A task is a function in a Python process. Either our worker calls it, in a process of its own, or,
//! where the Celery workers are to stay, our job sends it to them with `celery call`.

mod entries;
mod fields;
mod schedule;

use serde_json::{Map, Value};

use super::{
    ImportError, Imported, Input,
    document::{Document, Draft, key, plain_argument, seconds, text, texts},
    write::{Places, finish},
};
use fields::Days;
use schedule::When;

/// Who executes the tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Our workers: the function that the task's name says is called.
    Function,
    /// The Celery workers of that app.
    App(String),
}

/// Calls the function that its argument names, with the arguments of the run.
const CALL: &str = "import importlib, json, sys; m, f = sys.argv[1].rsplit('.', 1); a = json.load(sys.stdin); \
                    getattr(importlib.import_module(m), f)(*a.get('args', ()), **a.get('kwargs', dict()))";

/// Keys of entries and options that need no word: bookkeeping, or what no task can see.
const SILENT: [&str; 11] = [
    "task",
    "schedule",
    "args",
    "kwargs",
    "options",
    "name",
    "enabled",
    "description",
    "last_run_at",
    "total_run_count",
    "date_changed",
];

pub(super) fn read(input: &Input<'_>, target: &Target) -> Result<Imported, ImportError> {
    let places = Places::new(input);
    let dump = entries::read(input.text).map_err(|note| places.refuse(&note))?;
    let known = dump.timezone.as_deref().and_then(|zone| zone.parse().ok());
    let input = &Input {
        timezone: input.timezone.or(known),
        ..*input
    };
    let mut document = start(input, target);
    for entry in dump.entries {
        let origin = format!("entry `{}`", entry.name);
        let mut draft = Draft::new(entry.line, origin, entry.name);
        match &entry.value {
            Value::Object(fields) => fill(&mut draft, fields, target),
            _ => draft.leave_out(
                "this is not an entry",
                "an entry is an object with `task` and `schedule`",
            ),
        }
        document.drafts.push(draft);
    }
    Ok(finish(&places, document, input.now))
}

fn start(input: &Input<'_>, target: &Target) -> Document {
    let mut document = Document::new("beat_schedule", input);
    document.head = match target {
        Target::Function => vec![
            "Each job calls the function of its task in a process of its own: no Celery worker is needed.".to_owned(),
            "Set working_dir to the project, and put the Python of its virtual environment for `python3`.".to_owned(),
            "With --app, the import writes jobs that send the tasks to Celery workers.".to_owned(),
        ],
        Target::App(app) => vec![
            format!("Each job sends its task to the Celery workers of `{app}`. It ends when that is done: what"),
            "becomes of the task, Celery knows. Without --app, the import writes jobs that call the tasks.".to_owned(),
        ],
    };
    document.head.push(
        "Intervals lie on a grid of Unix time here; Celery counts them from the last dispatch."
            .to_owned(),
    );
    document.explain_zone(match input.timezone {
        Some(_) => "The `timezone` of the Celery app.",
        None => "The `timezone` of the Celery app, which is UTC unless it was set; --timezone sets another.",
    });
    document.set_default(
        "overlap",
        text("allow"),
        "beat sends a task though its last run still goes on; \"skip\" is safer where tasks do not bear that.",
    );
    document.set_default(
        "catch_up_window",
        seconds(366 * 86_400),
        "beat sends what was due while it was down once when it is back, however late.",
    );
    document
}

fn fill(draft: &mut Draft, fields: &Map<String, Value>, target: &Target) {
    if let Some(description) = fields.get("description").and_then(Value::as_str)
        && !description.trim().is_empty()
    {
        draft.set("description", text(description.trim()));
    }
    if fields.get("enabled") == Some(&Value::Bool(false)) {
        draft.set("enabled", "false".to_owned());
    }
    when(draft, fields.get("schedule"));
    let empty = Map::new();
    let options = fields
        .get("options")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    match fields.get("task").and_then(Value::as_str) {
        Some(task) => match target {
            Target::Function => called(draft, task, fields, options),
            Target::App(app) => sent(draft, app, task, fields, options),
        },
        None => draft.leave_out("the entry names no `task`", "give the name of the task"),
    }
    let unknown = fields.keys().filter(|key| !SILENT.contains(&key.as_str()));
    let carried = ["queue", "expires"];
    let others = options
        .keys()
        .filter(|key| !carried.contains(&key.as_str()));
    let lost: Vec<_> = unknown
        .map(|key| format!("`{key}`"))
        .chain(others.map(|key| format!("`options.{key}`")))
        .collect();
    if !lost.is_empty() {
        draft.lose(format!("{} of Celery", lost.join(", ")));
    }
}

fn when(draft: &mut Draft, schedule: Option<&Value>) {
    let Some(schedule) = schedule else {
        return draft.leave_out(
            "the entry has no `schedule`",
            "give one, or start the job by hand",
        );
    };
    match schedule::read(schedule) {
        Ok(When::Every(length)) if length.is_finite() && length > 0.0 => {
            let rounded = length.round().max(1.0);
            if (rounded - length).abs() > 1e-9 {
                draft.lose(format!(
                    "an interval of {length} s; it is {rounded} s here: whole seconds"
                ));
            }
            draft.set("every", seconds(whole(rounded)));
        }
        Ok(When::Every(length)) => {
            draft.leave_out(
                format!("an interval of {length} s comes due without end"),
                "give an interval of at least a second",
            );
        }
        Ok(When::Cron { expression, days }) => {
            draft.set("cron", text(&expression));
            match days {
                Days::Same => {}
                Days::Rewritten => draft.explanations.push(
                    "Celery wants both day fields to fit; `n#k`, the k-th weekday n of a month, says that."
                        .to_owned(),
                ),
                Days::Either => {
                    draft.keys.retain(|(key, _)| key != "enabled");
                    draft.set("enabled", "false".to_owned());
                    draft.lose_with_help(
                        "Celery wants both day fields to fit; here one is enough, so the job is disabled",
                        "enable it after the change of the days, or let the program look at the date",
                    );
                }
            }
        }
        Err(message) => draft.leave_out(message, "write `cron` or `every` by hand"),
    }
}

/// Seconds as a whole number; beyond its largest the loader refuses it, with its own message.
fn whole(seconds: f64) -> u64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 1e10"
    )]
    let whole = seconds.clamp(1.0, 1e10) as u64;
    whole
}

/// The job calls the function itself.
fn called(
    draft: &mut Draft,
    task: &str,
    fields: &Map<String, Value>,
    options: &Map<String, Value>,
) {
    if !task.contains('.') {
        draft.leave_out(
            format!("the task `{task}` does not say in which module its function is"),
            "write MODULE.FUNCTION in the command, or import with --app",
        );
    }
    let task = plain_argument(task);
    draft.set("command", texts(["python3", "-c", CALL, &task]));
    let mut arguments = Vec::new();
    for name in ["args", "kwargs"] {
        let Some(value) = given(fields, name) else {
            continue;
        };
        match toml_value(&value) {
            Some(value) => arguments.push(format!("{name} = {value}")),
            None => draft.leave_out(
                format!("`{name}` has a value that TOML does not have, such as null"),
                "leave it to the default of the function, or import with --app",
            ),
        }
    }
    if !arguments.is_empty() {
        draft.set("args", format!("{{ {} }}", arguments.join(", ")));
    }
    if let Some(queue) = options.get("queue") {
        match queue
            .as_str()
            .or_else(|| queue.get("name").and_then(Value::as_str))
        {
            Some(queue) => draft.queue(queue),
            None => draft.lose("`options.queue`: it is no name"),
        }
    }
    match options.get("expires").filter(|value| !value.is_null()) {
        None => {}
        Some(expires) => match expires.as_f64().filter(|length| *length >= 1.0) {
            Some(length) => draft.set("expires", seconds(whole(length.floor()))),
            None => draft.lose(format!(
                "`options.expires` = {expires}: it is no number of seconds"
            )),
        },
    }
}

/// The job sends the task to Celery workers.
fn sent(
    draft: &mut Draft,
    app: &str,
    task: &str,
    fields: &Map<String, Value>,
    options: &Map<String, Value>,
) {
    let mut argv = vec![
        "celery".to_owned(),
        "--app".to_owned(),
        app.to_owned(),
        "call".to_owned(),
    ];
    let mut add = |name: &str, value: String| argv.push(format!("--{name}={value}"));
    for name in ["args", "kwargs"] {
        if let Some(value) = given(fields, name) {
            add(name, value.to_string());
        }
    }
    for name in ["queue", "expires"] {
        match options.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(value)) => add(name, value.clone()),
            Some(value @ Value::Number(_)) => add(name, value.to_string()),
            Some(_) => draft.lose(format!("`options.{name}` of Celery")),
        }
    }
    argv.push("--".to_owned());
    argv.push(task.to_owned());
    draft.set("command", texts(argv.iter().map(|one| plain_argument(one))));
}

/// Arguments that are there; django-celery-beat keeps them as JSON in a text.
fn given(fields: &Map<String, Value>, name: &str) -> Option<Value> {
    let value = match fields.get(name)? {
        Value::String(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        value => value.clone(),
    };
    match &value {
        Value::Array(items) if items.is_empty() => None,
        Value::Object(members) if members.is_empty() => None,
        Value::Null => None,
        _ => Some(value),
    }
}

/// JSON in TOML, on one line; `None` where TOML has no such value.
fn toml_value(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.to_string(),
            None if number.is_u64() => return None,
            None => toml::Value::from(number.as_f64()?).to_string(),
        },
        Value::String(value) => text(value),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(toml_value).collect::<Option<_>>()?;
            format!("[{}]", items.join(", "))
        }
        Value::Object(members) => {
            let pair = |(name, value): (&String, &Value)| {
                Some(format!("{} = {}", key(name), toml_value(value)?))
            };
            let members: Vec<_> = members.iter().map(pair).collect::<Option<_>>()?;
            format!("{{ {} }}", members.join(", "))
        }
    })
}
