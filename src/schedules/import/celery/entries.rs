//! The entries in a JSON dump, in their order, with the line of each.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value};

use super::super::document::Note;

/// How to make a dump.
const DUMP: &str = "dump it with python3 -c 'import json; from PROJECT import app; \
                    print(json.dumps(app.conf.beat_schedule, default=repr, indent=1))'";

/// One entry of `beat_schedule`.
pub(super) struct Entry {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) value: Value,
}

/// What a dump says.
pub(super) struct Dump {
    pub(super) entries: Vec<Entry>,
    /// The zone, if the settings around the schedule were dumped, too.
    pub(super) timezone: Option<String>,
}

/// The members of an object in their order; of one name there may be several.
struct Pairs(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of entries")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Settings with the schedule among them.
#[derive(Deserialize)]
struct Settings {
    #[serde(alias = "CELERYBEAT_SCHEDULE", alias = "CELERY_BEAT_SCHEDULE")]
    beat_schedule: Pairs,
    #[serde(alias = "CELERY_TIMEZONE")]
    timezone: Option<String>,
}

pub(super) fn read(text: &str) -> Result<Dump, Note> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let line = error.line().max(1);
        Note::new(line, format!("this is not JSON: {error}")).with_help(DUMP)
    })?;
    let mut timezone = None;
    let pairs = match value {
        Value::Array(items) => listed(items)?,
        Value::Object(_) => match serde_json::from_str::<Settings>(text) {
            Ok(settings) => {
                timezone = settings.timezone;
                settings.beat_schedule.0
            }
            Err(_) => {
                serde_json::from_str::<Pairs>(text).map_or_else(|_| Vec::new(), |pairs| pairs.0)
            }
        },
        _ => return Err(Note::new(1, "this JSON holds no entries").with_help(DUMP)),
    };
    if pairs.is_empty() {
        return Err(Note::new(1, "there is no entry in this schedule").with_help(DUMP));
    }
    let entries = locate(text, pairs);
    Ok(Dump { entries, timezone })
}

/// A list of entries with their names inside.
fn listed(items: Vec<Value>) -> Result<Vec<(String, Value)>, Note> {
    let name = |object: &Map<String, Value>| object.get("name")?.as_str().map(str::to_owned);
    let mut pairs = Vec::with_capacity(items.len());
    for item in items {
        if item.get("model").is_some() {
            let message = "these are rows of a Django database, not a schedule";
            return Err(Note::new(1, message).with_help(
                "dump the schedule that django-celery-beat makes of them: an object of entries with \
                 `task` and `schedule`",
            ));
        }
        let found = item.as_object().and_then(name);
        pairs.push((found.unwrap_or_else(|| "job".to_owned()), item));
    }
    Ok(pairs)
}

/// Finds the line of each entry by its name, in the order of the text.
fn locate(text: &str, pairs: Vec<(String, Value)>) -> Vec<Entry> {
    let (mut from, mut line) = (0, 1);
    let mut entries = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        let quoted = Value::from(name.as_str()).to_string();
        if let Some(at) = text[from..].find(&quoted) {
            line += text[from..from + at].matches('\n').count();
            from += at + quoted.len();
        }
        entries.push(Entry { line, name, value });
    }
    entries
}
