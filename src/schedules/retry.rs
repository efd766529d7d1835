//! `retry = { attempts, backoff, initial, max, jitter, on_exit, not_on_exit, on_status, not_on_status, max_crashes }`

use toml::de::DeValue;

use super::{
    http::statuses,
    reader::{Item, Reader},
    values::exit_codes,
};
use crate::job::{Backoff, RetryPolicy, Seconds};

pub(super) const RETRY_KEYS: [&str; 10] = [
    "attempts",
    "backoff",
    "initial",
    "max",
    "jitter",
    "on_exit",
    "not_on_exit",
    "on_status",
    "not_on_status",
    "max_crashes",
];

/// How delays grow, before the first delay is known.
#[derive(Clone)]
enum Growth {
    Fixed,
    Exponential,
    List(Vec<Seconds>),
}

pub(super) fn retry(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<RetryPolicy> {
    let mut policy = RetryPolicy::default();
    let mut growth = Growth::Exponential;
    let mut initial = None;
    let (mut attempts, mut crashes) = (None, None);
    for (name, value) in reader.table(key, item)? {
        match name.get_ref().as_ref() {
            "attempts" => {
                attempts = Some(value.span());
                let read = reader.integer("retry.attempts", value, 1..=1000);
                policy.attempts = read.unwrap_or(policy.attempts);
            }
            "backoff" => growth = backoff(reader, value).unwrap_or(growth),
            "initial" => {
                let read = reader.positive("retry.initial", value);
                initial = Some((read, value.span()));
            }
            "max" => policy.max = reader.positive("retry.max", value).unwrap_or(policy.max),
            "jitter" => {
                policy.jitter = reader.share("retry.jitter", value).unwrap_or(policy.jitter);
            }
            "on_exit" => policy.on_exit = exit_codes(reader, "retry.on_exit", value)?,
            "not_on_exit" => policy.not_on_exit = exit_codes(reader, "retry.not_on_exit", value)?,
            "on_status" => policy.on_status = statuses(reader, "retry.on_status", value)?,
            "not_on_status" => {
                policy.not_on_status = statuses(reader, "retry.not_on_status", value)?;
            }
            "max_crashes" => {
                let read = reader.integer("retry.max_crashes", value, 0..=1000);
                policy.max_crashes = read.unwrap_or(policy.max_crashes);
                crashes = Some(());
            }
            other => reader.unknown_key(name.span(), other, "`retry`", &RETRY_KEYS),
        }
    }
    if attempts.is_none() && crashes.is_none() {
        let help = "write for example attempts = 3";
        reader.warn(
            item.span(),
            "`retry` without `attempts` never retries",
            help,
        );
    }
    let (delay, place) = match initial {
        Some((delay, place)) => (delay, Some(place)),
        None => (None, None),
    };
    let delay = delay.unwrap_or(Seconds::from_secs(10));
    policy.backoff = match (growth, place) {
        (Growth::Fixed, _) => Backoff::Fixed(delay),
        (Growth::Exponential, _) => Backoff::Exponential(delay),
        (Growth::List(delays), None) => Backoff::List(delays),
        (Growth::List(_), Some(place)) => {
            let help = "leave `initial` out; the list has the delays".to_owned();
            let message = "`retry.initial` and a list of delays exclude each other";
            reader.error_with_help(place, message, Some(help));
            return None;
        }
    };
    Some(policy)
}

fn backoff(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Growth> {
    let key = "retry.backoff";
    if let DeValue::Array(_) = item.get_ref() {
        let delays = reader.one_or_more(key, item, |reader, item| reader.duration(key, item))?;
        return Some(Growth::List(delays));
    }
    let text = reader.text(key, item)?;
    match text {
        "fixed" => Some(Growth::Fixed),
        "exponential" => Some(Growth::Exponential),
        _ => {
            let near = reader.did_you_mean(text, ["fixed", "exponential"]);
            let all = "it is \"fixed\", \"exponential\" or a list of delays";
            let help = near.map_or_else(|| all.to_owned(), |near| format!("{near} {all}"));
            let message = format!("`{key}` cannot be \"{text}\"");
            reader.error_with_help(item.span(), message, Some(help));
            None
        }
    }
}
