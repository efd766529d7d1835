//! What there is to say about a server: its version, its room, and the settings of our streams.

use serde::Deserialize;
use serde_json::Value;

use super::{NatsBroker, api::code, setup::knows_batches};
use crate::broker::{BrokerError, Remark, RemarkKind};

/// Versions of these series are without known advisories from here on; later series are.
const FLOORS: [(u32, u32, u32); 2] = [(2, 11, 16), (2, 12, 7)];
/// The first series that is whole.
const SOUND: (u32, u32, u32) = (2, 14, 0);
/// Servers before this one are supported as far as they go.
const SUPPORTED: (u32, u32, u32) = (2, 10, 0);

#[derive(Deserialize)]
struct Account {
    #[serde(default)]
    storage: i64,
    limits: Limits,
}

#[derive(Deserialize)]
struct Limits {
    #[serde(default)]
    max_storage: i64,
}

#[derive(Deserialize)]
struct StreamInfo {
    config: StreamConfig,
    #[serde(default)]
    state: StreamState,
}

#[derive(Deserialize, Default)]
struct StreamState {
    #[serde(default)]
    messages: i64,
    #[serde(default)]
    bytes: i64,
}

#[derive(Deserialize)]
struct StreamConfig {
    #[serde(default)]
    retention: String,
    #[serde(default)]
    discard: String,
    #[serde(default)]
    discard_new_per_subject: bool,
    #[serde(default)]
    num_replicas: usize,
    #[serde(default)]
    allow_atomic: bool,
    #[serde(default)]
    max_msgs: i64,
    #[serde(default)]
    max_bytes: i64,
}

pub(super) async fn remarks(broker: &NatsBroker) -> Result<Vec<Remark>, BrokerError> {
    let server = broker.client.server_info().version;
    let mut remarks = vec![version(&server)];
    let operation = "ask for the account";
    let account = broker.api::<Account>(operation, "INFO", &Value::Null).await;
    let account = account.map_err(|error| broker.error(operation, error))?;
    remarks.push(room(&account));
    let stream = broker.names.jobs_stream();
    let subject = format!("STREAM.INFO.{stream}");
    let operation = format!("look at {stream}");
    match broker
        .api::<StreamInfo>(&operation, &subject, &Value::Null)
        .await
    {
        Ok(found) => {
            remarks.push(settings(&stream, &found.config, broker.setup.replicas()));
            remarks.extend(room_in(&stream, &found));
            remarks.push(batches(&server, &found.config));
        }
        // Made when the first run is published.
        Err(error) if error.is(code::NO_STREAM) => {}
        Err(error) => return Err(broker.error(&operation, error)),
    }
    Ok(remarks)
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

fn version(text: &str) -> Remark {
    let mut numbers = text.split(['.', '-']).map_while(|part| part.parse().ok());
    let found = (numbers.next(), numbers.next(), numbers.next());
    let (Some(major), Some(minor), Some(patch)) = found else {
        let message = format!("nats-server calls itself `{text}`: its version is not understood");
        return remark("version", RemarkKind::Warning, message, None);
    };
    let found = (major, minor, patch);
    if found < SUPPORTED {
        let message = format!(
            "nats-server {text}: when it is killed, acknowledged messages may come back or stay; beat sweeps them away"
        );
        return remark(
            "version",
            RemarkKind::Warning,
            message,
            Some("use 2.11.16, 2.12.7, 2.14 or later"),
        );
    }
    let of_a_series =
        |floor: &(u32, u32, u32)| (floor.0, floor.1) == (major, minor) && found >= *floor;
    match found >= SOUND || FLOORS.iter().any(of_a_series) {
        true => remark(
            "version",
            RemarkKind::Ok,
            format!("nats-server {text}"),
            None,
        ),
        false => {
            let message = format!("nats-server {text} has known vulnerabilities");
            remark(
                "version",
                RemarkKind::Warning,
                message,
                Some("use 2.11.16, 2.12.7, 2.14 or later"),
            )
        }
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
    match used * 10 >= limit * 8 {
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
    let (state, config) = (&found.state, &found.config);
    let limits = [
        ("runs", state.messages, config.max_msgs),
        ("KB", state.bytes / KB, config.max_bytes / KB),
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
fn batches(server: &str, config: &StreamConfig) -> Remark {
    let (message, help) = match (config.allow_atomic, knows_batches(server)) {
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

fn settings(stream: &str, config: &StreamConfig, wanted: usize) -> Remark {
    let is_ours = config.retention == "workqueue"
        && config.discard == "new"
        && config.discard_new_per_subject;
    if !is_ours {
        let message = format!("{stream} was changed: runs of a job may overlap, or get lost");
        let help = "it needs retention workqueue, discard new, and discard new per subject: remove it while it is empty, it is made again";
        return remark("streams", RemarkKind::Failed, message, Some(help));
    }
    if config.num_replicas < wanted {
        let message = format!("{stream} has {} of {wanted} copies", config.num_replicas);
        let help = "`nats stream edit --replicas` changes it; --replicas is for streams that are yet to be made";
        return remark("streams", RemarkKind::Warning, message, Some(help));
    }
    let message = format!(
        "{stream} is as it should be, {} copies",
        config.num_replicas.max(1)
    );
    remark("streams", RemarkKind::Ok, message, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_advisories_are_named() {
        for good in [
            "2.11.16",
            "2.12.7",
            "2.14.0",
            "2.15.1",
            "3.0.0",
            "2.12.8-beta.1",
        ] {
            assert_eq!(version(good).kind, RemarkKind::Ok, "{good}");
        }
        for bad in ["2.9.10", "2.10.26", "2.11.15", "2.12.6", "2.13.0", "devel"] {
            assert_eq!(version(bad).kind, RemarkKind::Warning, "{bad}");
        }
        assert!(version("2.9.10").message.contains("may come back"));
    }

    #[test]
    fn a_stream_with_a_limit_tells_how_full_it_is() {
        let found = |messages, max_msgs, bytes, max_bytes| StreamInfo {
            config: serde_json::from_value(
                serde_json::json!({"max_msgs": max_msgs, "max_bytes": max_bytes}),
            )
            .unwrap(),
            state: StreamState { messages, bytes },
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
            limits: Limits {
                max_storage: limit << 20,
            },
        };
        assert_eq!(room(&account(79, 100)).kind, RemarkKind::Ok);
        assert_eq!(room(&account(80, 100)).kind, RemarkKind::Warning);
        assert_eq!(room(&account(80_000, 0)).kind, RemarkKind::Ok);
    }
}
