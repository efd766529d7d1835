//! The corpus made with Debian's own cron: every entry gives the listed instants, every invalid
//! expression is refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use chrono::{DateTime, FixedOffset, TimeZone, Utc};
use orchestrator::job::cron::{CronTrigger, DstGap, DstRepeat};
use serde::Deserialize;

#[derive(Deserialize)]
struct Entry {
    expr: String,
    tz: chrono_tz::Tz,
    after: DateTime<FixedOffset>,
    next: Vec<DateTime<FixedOffset>>,
}

#[derive(Deserialize)]
struct Invalid {
    expr: String,
    why: String,
}

fn lines<T: for<'a> Deserialize<'a>>(text: &str) -> Vec<T> {
    let parse = |line| serde_json::from_str(line).unwrap();
    text.lines().map(parse).collect()
}

fn trigger(expression: &str, zone: chrono_tz::Tz) -> Result<CronTrigger, impl std::fmt::Display> {
    let (gap, repeat) = (DstGap::default(), DstRepeat::default());
    CronTrigger::new(vec![expression.to_owned()], zone, gap, repeat)
}

#[test]
fn every_entry_gives_the_listed_instants() {
    let entries: Vec<Entry> = lines(include_str!("data/cron/corpus_public.jsonl"));
    assert!(entries.len() > 500);
    let mut wrong = Vec::new();
    for entry in &entries {
        let trigger = match trigger(&entry.expr, entry.tz) {
            Ok(trigger) => trigger,
            Err(error) => {
                wrong.push(error.to_string());
                continue;
            }
        };
        let mut at: DateTime<Utc> = entry.after.to_utc();
        for expected in &entry.next {
            let found = trigger.next_after(at);
            if found != Some(expected.to_utc()) {
                let found = found.map(|found| entry.tz.from_utc_datetime(&found.naive_utc()));
                wrong.push(format!(
                    "{} in {} after {at}: {found:?}, not {expected}",
                    entry.expr, entry.tz
                ));
                break;
            }
            at = expected.to_utc();
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_invalid_expression_is_refused() {
    let entries: Vec<Invalid> = lines(include_str!("data/cron/invalid_public.jsonl"));
    assert!(entries.len() > 80);
    for Invalid { expr, why } in entries {
        let refused = trigger(&expr, chrono_tz::UTC);
        assert!(refused.is_err(), "{expr:?} was accepted: {why}");
    }
}
