//! `lock`, `concurrency` and `rate`: what runs share with other runs of the cluster.

use toml::de::DeValue;

use super::{
    reader::{Item, Reader},
    values::template,
};
use crate::job::{Concurrency, Lock, PerTime, Rate};

pub(super) const LOCK_KEYS: [&str; 3] = ["name", "inherit", "wait"];
pub(super) const CONCURRENCY_KEYS: [&str; 3] = ["key", "limit", "wait"];
pub(super) const RATE_KEYS: [&str; 3] = ["key", "limit", "burst"];

/// Most places, and the largest burst.
const MOST: i64 = 1_000_000;

pub(super) fn lock(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<Lock> {
    if let DeValue::String(_) = item.get_ref() {
        return Some(Lock {
            name: template(reader, key, item)?,
            inherit: false,
            wait: None,
        });
    }
    let (mut lock_name, mut inherit, mut wait) = (None, false, None);
    for (name, value) in reader.table(key, item)? {
        match name.get_ref().as_ref() {
            "name" => lock_name = Some(template(reader, "lock.name", value)?),
            "inherit" => inherit = reader.boolean("lock.inherit", value)?,
            "wait" => wait = Some(reader.positive("lock.wait", value)?),
            other => reader.unknown_key(name.span(), other, "`lock`", &LOCK_KEYS),
        }
    }
    let Some(name) = lock_name else {
        let help = "write for example lock = { name = \"cookie-jar\" }";
        return missing(reader, item, "`lock` has no `name`", help);
    };
    Some(Lock {
        name,
        inherit,
        wait,
    })
}

pub(super) fn concurrency(
    reader: &mut Reader<'_>,
    key: &str,
    item: &Item<'_>,
) -> Option<Concurrency> {
    let (mut shared, mut limit, mut wait) = (None, None, None);
    for (name, value) in reader.table(key, item)? {
        match name.get_ref().as_ref() {
            "key" => shared = Some(template(reader, "concurrency.key", value)?),
            "limit" => limit = Some(reader.integer("concurrency.limit", value, 1..=MOST)?),
            "wait" => wait = Some(reader.positive("concurrency.wait", value)?),
            other => reader.unknown_key(name.span(), other, "`concurrency`", &CONCURRENCY_KEYS),
        }
    }
    let (Some(key), Some(limit)) = (shared, limit) else {
        let help = "write for example concurrency = { key = \"site:{arg.host}\", limit = 4 }";
        let message = "`concurrency` needs `key` and `limit`";
        return missing(reader, item, message, help);
    };
    Some(Concurrency { key, limit, wait })
}

pub(super) fn rate(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<Rate> {
    let (mut shared, mut limit, mut burst) = (None, None, Rate::default_burst());
    for (name, value) in reader.table(key, item)? {
        match name.get_ref().as_ref() {
            "key" => shared = Some(template(reader, "rate.key", value)?),
            "limit" => limit = Some(per_time(reader, value)?),
            "burst" => burst = reader.integer("rate.burst", value, 1..=MOST)?,
            other => reader.unknown_key(name.span(), other, "`rate`", &RATE_KEYS),
        }
    }
    let (Some(key), Some(limit)) = (shared, limit) else {
        let help = "write for example rate = { key = \"site:{arg.host}\", limit = \"2/s\" }";
        return missing(reader, item, "`rate` needs `key` and `limit`", help);
    };
    Some(Rate { key, limit, burst })
}

fn per_time(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<PerTime> {
    let text = reader.text("rate.limit", item)?;
    match text.parse() {
        Ok(limit) => Some(limit),
        Err(error) => {
            reader.error(item.span(), error);
            None
        }
    }
}

fn missing<T>(reader: &mut Reader<'_>, item: &Item<'_>, message: &str, help: &str) -> Option<T> {
    reader.error_with_help(item.span(), message, Some(help.to_owned()));
    None
}
