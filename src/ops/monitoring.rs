//! What `doctor` reads in the monitoring of a nats-server (`/varz`): what clients are not told. Pure.

use std::time::Duration;

use serde::Deserialize;

use super::Finding;

/// How long a power cut may take back what was confirmed, before it is called wrong.
const TOLERATED: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Variables {
    #[serde(default)]
    server_name: String,
    jetstream: Option<JetStream>,
}

#[derive(Deserialize)]
struct JetStream {
    config: Option<JetStreamConfig>,
}

#[derive(Deserialize)]
struct JetStreamConfig {
    /// In nanoseconds; not told before 2.10.
    sync_interval: Option<u64>,
    #[serde(default)]
    sync_always: bool,
}

/// Where the monitoring of servers is if nobody says otherwise: the usual port of each.
pub fn usual_monitors(servers: &str) -> Vec<String> {
    let hosts = servers.split(',').filter_map(|server| {
        let server = server.trim();
        let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        let rest = rest.split('/').next().unwrap_or_default();
        let host = match rest.rsplit_once(':') {
            // An address of version 6 is in brackets, and its colons are no port.
            Some((host, port)) if !port.contains(']') => host,
            Some(_) | None => rest,
        };
        (!host.is_empty()).then(|| format!("http://{host}:8222"))
    });
    hosts.collect()
}

/// When a server brings to the disk what it has confirmed. `answer` is that of `/varz`, or why there is none.
pub fn durability(monitor: &str, answer: Result<&[u8], &str>) -> Finding {
    const CHECK: &str = "sync_interval";
    let variables = answer.map_err(str::to_owned).and_then(|bytes| {
        serde_json::from_slice::<Variables>(bytes)
            .map_err(|error| format!("its answer is not understood: {error}"))
    });
    let variables = match variables {
        Ok(variables) => variables,
        Err(reason) => {
            let message = format!("not known: no monitoring at {monitor} ({reason})");
            let help = "set `http: \"127.0.0.1:8222\"` in the server's configuration, or name it with --monitor";
            return Finding::warning(CHECK, message).with_help(help);
        }
    };
    let name = match variables.server_name.is_empty() {
        true => monitor.to_owned(),
        false => variables.server_name,
    };
    let Some(config) = variables.jetstream.and_then(|found| found.config) else {
        let message = format!("{name} has no JetStream");
        return Finding::failed(CHECK, message)
            .with_help("give its configuration a `jetstream` block");
    };
    if config.sync_always {
        return Finding::ok(CHECK, format!("{name} syncs before it confirms"));
    }
    const HELP: &str = "set `sync_interval: always` in its jetstream block; deploy/nats-server.conf says what that costs";
    let Some(nanoseconds) = config.sync_interval else {
        let message = format!("{name} does not tell: before 2.10 it was two minutes");
        return Finding::warning(CHECK, message).with_help(HELP);
    };
    let interval = Duration::from_nanos(nanoseconds);
    let shown = humantime::format_duration(interval);
    let message =
        format!("{name} syncs every {shown}: a power cut takes back what it confirmed since");
    match interval <= TOLERATED {
        true => Finding::ok(CHECK, message),
        false => Finding::warning(CHECK, message).with_help(HELP),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::RemarkKind;

    #[test]
    fn the_usual_port_belongs_to_each_host() {
        let found = usual_monitors("nats://u:p@a.example:4222, tls://b,[::1]:4222,nats://c/x");
        let hosts = ["a.example", "b", "[::1]", "c"].map(|host| format!("http://{host}:8222"));
        assert_eq!(found, hosts);
        assert!(usual_monitors("").is_empty());
    }

    #[test]
    fn late_syncs_are_told() {
        let state = |config: &str| {
            let answer = format!("{{\"server_name\":\"n1\",\"jetstream\":{config}}}");
            durability("http://x:8222", Ok(answer.as_bytes())).state
        };
        let interval = |seconds: u64| {
            format!(
                "{{\"config\":{{\"sync_interval\":{}}}}}",
                seconds * 1_000_000_000
            )
        };
        assert_eq!(state(&interval(120)), RemarkKind::Warning);
        assert_eq!(state(&interval(2)), RemarkKind::Ok);
        let always = "{\"config\":{\"sync_interval\":120000000000,\"sync_always\":true}}";
        assert_eq!(state(always), RemarkKind::Ok);
        assert_eq!(state("{\"config\":{}}"), RemarkKind::Warning, "2.9");
        assert_eq!(state("{}"), RemarkKind::Failed);
        assert_eq!(
            durability("http://x:8222", Err("refused")).state,
            RemarkKind::Warning
        );
        assert_eq!(
            durability("http://x:8222", Ok(b"<html>")).state,
            RemarkKind::Warning
        );
    }
}
