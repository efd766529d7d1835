//! What must hold for every input, whoever makes it: the fuzz targets here and the short run in
//! `tests/fuzz.rs`.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use orchestrator::{
    job::{Job, cron::CronTrigger},
    schedules::{self, Source},
};

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_428_000, 0).unwrap_or_default()
}

/// The loader neither panics nor hangs; every finding has its place within the text; what it accepts
/// survives the wire and has its ticks in order.
pub fn schedule(text: &str) {
    let source = Source::new("fuzz.toml", text, PathBuf::from("/srv"));
    match schedules::parse(&[source], now()) {
        Err(error) => {
            assert!(!error.diagnostics.is_empty(), "refused without a reason");
            for found in &error.diagnostics {
                assert!(!found.message().is_empty());
                let lines = text.lines().count() + 1;
                assert!(found.line().is_none_or(|line| (1..=lines).contains(&line)));
            }
        }
        Ok(loaded) => {
            for job in loaded.set.iter() {
                let wire = serde_json::to_string(job.as_ref()).expect("a job is JSON");
                let read: Job = serde_json::from_str(&wire).expect("what was written");
                assert_eq!(&read, job.as_ref());
                assert_eq!(read.fingerprint(), job.fingerprint());
                ordered(|after| job.next_after(after));
            }
        }
    }
}

/// The parser neither panics nor hangs; what it accepts fires, in order, on whole seconds.
pub fn cron(expression: &str) {
    for zone in [chrono_tz::UTC, chrono_tz::Australia::Lord_Howe] {
        let expressions = vec![expression.to_owned()];
        let read = CronTrigger::new(expressions, zone, Default::default(), Default::default());
        match read {
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert!(error.span.end <= expression.len(), "{error:?}");
                assert!(error.span.start <= error.span.end, "{error:?}");
            }
            Ok(trigger) => assert!(ordered(|after| trigger.next_after(after)) > 0),
        }
    }
}

/// Walks a few instants; returns how many there were.
fn ordered(next: impl Fn(DateTime<Utc>) -> Option<DateTime<Utc>>) -> usize {
    let (mut after, mut count) = (now(), 0);
    while let Some(tick) = next(after).filter(|_| count < 5) {
        assert!(tick > after, "{tick} does not lie after {after}");
        assert_eq!(tick.timestamp_subsec_nanos(), 0, "{tick}");
        after = tick;
        count += 1;
    }
    count
}
