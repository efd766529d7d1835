//! What there is to say about a server: its version, its room, and the settings of our streams.

mod consumers;
mod rules;
mod streams;
mod version;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use super::{
    NatsBroker,
    api::code,
    setup::{Stream, buckets, knows_batches},
};
use crate::{
    broker::{BrokerError, Remark, RemarkKind},
    clock,
};

#[derive(Deserialize)]
struct Account {
    #[serde(default)]
    storage: i64,
    #[serde(default)]
    streams: i64,
    limits: Limits,
}

#[derive(Deserialize)]
struct Limits {
    #[serde(default)]
    max_storage: i64,
    #[serde(default)]
    max_streams: i64,
}

#[derive(Deserialize)]
struct StreamInfo {
    config: Value,
    #[serde(default)]
    state: StreamState,
    /// The server's clock; from 2.10 on.
    ts: Option<DateTime<Utc>>,
}

#[derive(Deserialize, Default)]
struct StreamState {
    #[serde(default)]
    messages: i64,
    #[serde(default)]
    bytes: i64,
}

pub(super) async fn remarks(broker: &NatsBroker) -> Result<Vec<Remark>, BrokerError> {
    let server = broker.client.server_info();
    let mut remarks = vec![
        version::remark(&server.version),
        largest(server.max_payload),
    ];
    let operation = "ask for the account";
    let account = broker.api::<Account>(operation, "INFO", &Value::Null).await;
    match account {
        Ok(account) => remarks.extend([room(&account), places(&account)]),
        Err(error) => remarks.push(refused(broker.error(operation, error))?),
    }
    let (mut well, mut missing, mut clock_seen) = (Vec::new(), Vec::new(), None);
    for stream in all_streams() {
        let name = broker.stream_name(stream);
        let subject = format!("STREAM.INFO.{name}");
        let operation = format!("look at {name}");
        let before = clock::now();
        let found = match broker
            .api::<StreamInfo>(&operation, &subject, &Value::Null)
            .await
        {
            Ok(found) => found,
            Err(error) if error.is(code::NO_STREAM) => {
                missing.push(name);
                continue;
            }
            Err(error) => {
                remarks.push(refused(broker.error(&operation, error))?);
                continue;
            }
        };
        if let (None, Some(theirs)) = (&clock_seen, found.ts) {
            clock_seen = Some(clocks(theirs, before, clock::now()));
        }
        if stream == Stream::Jobs {
            remarks.extend(room_in(&name, &found));
            remarks.push(batches(&server.version, &found.config));
        }
        let wanted = broker.stream_config(stream, &name);
        let wrong = streams::remarks(stream, &name, &wanted, &found.config);
        if wrong.is_empty() {
            well.push(name);
        }
        remarks.extend(wrong);
    }
    let jobs = broker.stream_name(Stream::Jobs);
    if !missing.contains(&jobs) {
        match consumers::remarks(broker).await {
            Ok(found) => remarks.extend(found),
            Err(error) => remarks.push(refused(broker.error("look at consumers", error))?),
        }
    }
    remarks.extend(clock_seen);
    remarks.extend(streams::missing(&missing, all_streams().count()));
    remarks.extend(streams::summary(&well));
    Ok(remarks)
}

/// What one may not look at is told; all else ends the looking about.
fn refused(error: BrokerError) -> Result<Remark, BrokerError> {
    match error {
        BrokerError::NotPermitted { .. } => {
            let help = "give this user the role of an operator or a viewer: deploy/nats-server.conf says what belongs to it";
            Ok(remark(
                "permissions",
                RemarkKind::Warning,
                error.to_string(),
                Some(help),
            ))
        }
        error => Err(error),
    }
}

fn all_streams() -> impl Iterator<Item = Stream> {
    let streams = [Stream::Jobs, Stream::Logs, Stream::Dead];
    streams.into_iter().chain(buckets().map(Stream::Values))
}

/// The server's clock beside ours; it told the time at some moment between `before` and `after`.
fn clocks(theirs: DateTime<Utc>, before: DateTime<Utc>, after: DateTime<Utc>) -> Remark {
    const NEAR: chrono::Duration = chrono::Duration::seconds(2);
    let (ahead, behind) = (theirs - after, before - theirs);
    let (off, how) = match ahead > behind {
        true => (ahead, "ahead of"),
        false => (behind, "behind"),
    };
    if off <= NEAR {
        let message = "the server's agrees with this machine's".to_owned();
        return remark("clock", RemarkKind::Ok, message, None);
    }
    let off = humantime::format_duration(std::time::Duration::from_secs(
        off.num_seconds().unsigned_abs(),
    ));
    let message = format!("the server's is {off} {how} this machine's");
    let help = "keep all machines on NTP: ticks and expiries go by their clocks, the ages of buckets by the server's";
    remark("clock", RemarkKind::Warning, message, Some(help))
}

/// A run's message has up to 1 MiB, its headers come on top.
fn largest(max_payload: usize) -> Remark {
    const WANTED: usize = (1 << 20) + (64 << 10);
    match max_payload >= WANTED {
        true => remark(
            "limits",
            RemarkKind::Ok,
            format!("messages may have {} KiB", max_payload >> 10),
            None,
        ),
        false => remark(
            "limits",
            RemarkKind::Warning,
            format!(
                "messages may have {} KiB: runs with arguments of that size are refused",
                max_payload >> 10
            ),
            Some("set `max_payload: 2MB` in the server's configuration"),
        ),
    }
}

/// Whether the account has room for our streams and buckets.
fn places(account: &Account) -> Remark {
    let (used, limit) = (account.streams, account.limits.max_streams);
    let ours = i64::try_from(all_streams().count()).unwrap_or_default();
    if limit <= 0 {
        let message = format!("{used} streams, without a limit of the account");
        return remark("limits", RemarkKind::Ok, message, None);
    }
    let message = format!("{used} of {limit} streams that the account may have are there");
    match limit < ours || (used >= limit) {
        true => {
            let help = "an installation has eleven streams and buckets, some made on first use: raise the account's limit";
            remark("limits", RemarkKind::Warning, message, Some(help))
        }
        false => remark("limits", RemarkKind::Ok, message, None),
    }
}

fn remark(check: &'static str, kind: RemarkKind, message: String, help: Option<&str>) -> Remark {
    let help = help.map(str::to_owned);
    Remark {
        check,
        kind,
        message,
        help,
    }
}

fn room(account: &Account) -> Remark {
    const MB: i64 = 1 << 20;
    let (used, limit) = (account.storage / MB, account.limits.max_storage / MB);
    // Without a limit of the account, the disk or the server's own one counts, which it does not tell.
    if account.limits.max_storage <= 0 {
        return remark(
            "room",
            RemarkKind::Ok,
            format!("{used} MB are stored"),
            None,
        );
    }
    let message = format!("{used} MB of {limit} MB are stored");
    // Not by megabytes: of a small account the last one is most.
    let (used, limit) = (account.storage, account.limits.max_storage);
    match used.saturating_mul(10) >= limit.saturating_mul(8) {
        true => {
            let help =
                "when it is full, beat waits and submitters are refused: raise the account's limit";
            remark("room", RemarkKind::Warning, message, Some(help))
        }
        false => remark("room", RemarkKind::Ok, message, None),
    }
}

/// How full a stream is that somebody has given a limit.
fn room_in(stream: &str, found: &StreamInfo) -> Option<Remark> {
    const KB: i64 = 1 << 10;
    let state = &found.state;
    let limit = |name: &str| found.config[name].as_i64().unwrap_or(-1);
    let limits = [
        ("runs", state.messages, limit("max_msgs")),
        ("KB", state.bytes / KB, limit("max_bytes") / KB),
    ];
    let limited = limits.into_iter().filter(|(_, _, limit)| *limit > 0);
    let nearest = limited.max_by(|(_, a, of_a), (_, b, of_b)| (a * of_b).cmp(&(b * of_a)));
    let (unit, held, limit) = nearest?;
    let message = format!("{stream} holds {held} of {limit} {unit}");
    Some(match held * 10 >= limit * 8 {
        true => {
            let help = "when it is full, beat waits and submitters are refused: start more workers, or raise the stream's limit";
            remark("room", RemarkKind::Warning, message, Some(help))
        }
        false => remark("room", RemarkKind::Ok, message, None),
    })
}

/// Whether a burst can be stored at once.
fn batches(server: &str, config: &Value) -> Remark {
    let (message, help) = match (config["allow_atomic"] == true, knows_batches(server)) {
        (true, _) => ("bursts are stored as batches, where that is quicker", None),
        (false, true) => (
            "the stream takes no batches: each run of a burst is stored by itself",
            Some(
                "set `allow_atomic` of the stream, or remove it while it is empty: it is made again",
            ),
        ),
        (false, false) => (
            "before nats-server 2.12 each run of a burst is stored by itself",
            None,
        ),
    };
    remark("batches", RemarkKind::Ok, message.to_owned(), help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_with_a_limit_tells_how_full_it_is() {
        let found = |messages, max_msgs, bytes, max_bytes| StreamInfo {
            config: serde_json::json!({"max_msgs": max_msgs, "max_bytes": max_bytes}),
            state: StreamState { messages, bytes },
            ts: None,
        };
        assert_eq!(room_in("S", &found(1000, -1, 1000, -1)), None);
        let room = room_in("S", &found(10, 100, 90 << 10, 100 << 10)).unwrap();
        assert_eq!(
            (room.kind, room.message.as_str()),
            (RemarkKind::Warning, "S holds 90 of 100 KB")
        );
        let room = room_in("S", &found(79, 100, 0, -1)).unwrap();
        assert_eq!(
            (room.kind, room.message.as_str()),
            (RemarkKind::Ok, "S holds 79 of 100 runs")
        );
    }

    #[test]
    fn little_room_is_told_in_time() {
        let account = |used: i64, limit: i64| Account {
            storage: used << 20,
            streams: 0,
            limits: Limits {
                max_storage: limit << 20,
                max_streams: -1,
            },
        };
        assert_eq!(room(&account(79, 100)).kind, RemarkKind::Ok);
        let mut small = account(4, 4);
        small.storage -= 1;
        assert_eq!(room(&small).kind, RemarkKind::Warning);
        assert_eq!(room(&account(80, 100)).kind, RemarkKind::Warning);
        assert_eq!(room(&account(80_000, 0)).kind, RemarkKind::Ok);
    }

    #[test]
    fn clocks_are_compared_within_what_the_question_took() {
        let at = |seconds: i64| DateTime::from_timestamp(1_000_000 + seconds, 0).unwrap();
        for (theirs, before, after, kind) in [
            (0, 0, 0, RemarkKind::Ok),
            (5, 0, 10, RemarkKind::Ok),
            (2, 0, 0, RemarkKind::Ok),
            (3, 0, 0, RemarkKind::Warning),
            (-3, 0, 1, RemarkKind::Warning),
        ] {
            let remark = clocks(at(theirs), at(before), at(after));
            assert_eq!(remark.kind, kind, "{theirs} {before} {after}");
        }
        let message = clocks(at(-90), at(0), at(0)).message;
        assert_eq!(message, "the server's is 1m 30s behind this machine's");
    }

    #[test]
    fn small_limits_are_told() {
        assert_eq!(largest(1 << 20).kind, RemarkKind::Warning);
        assert_eq!(largest(2_000_000).kind, RemarkKind::Ok);
        let account = |streams, max_streams| Account {
            storage: 0,
            streams,
            limits: Limits {
                max_storage: 0,
                max_streams,
            },
        };
        assert_eq!(places(&account(11, -1)).kind, RemarkKind::Ok);
        assert_eq!(places(&account(11, 20)).kind, RemarkKind::Ok);
        assert_eq!(places(&account(3, 5)).kind, RemarkKind::Warning);
        assert_eq!(places(&account(20, 20)).kind, RemarkKind::Warning);
    }
}
