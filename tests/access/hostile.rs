//! Somebody who may publish sends what is no run: thousands of messages that are malformed, too large or
//! deeply nested. Nothing changes but a counter.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
};

use serde_json::{Value, json};

use super::support::{Installation, nats::NatsServer, random::Random, wait_for};

/// How many messages; every five-hundredth is larger than a message may be.
const MESSAGES: u64 = 10_000;

/// So many become dead letters at most.
const LETTERS: usize = 1000;

const SCHEDULES: &str = r#"
[job.real]
command = ["true"]
"#;

/// What is no run, in many ways.
fn hostile(n: u64, random: &mut Random) -> Vec<u8> {
    if n.is_multiple_of(500) {
        return vec![b' '; 1_500_000];
    }
    // What calls itself a run of a later version, and is nearly as large as one may be.
    if n % 500 == 1 {
        let padding = "x".repeat(1_000_000);
        let newer =
            json!({ "version": 9, "run_id": format!("evil{n}@20261123T023000Z"), "x": padding });
        return newer.to_string().into_bytes();
    }
    let envelope = json!({
        "version": 1, "run_id": format!("evil{n}@20261123T023000Z"), "queue": "default",
        "scheduled_for": "2026-11-23T02:30:00Z", "published_at": "2026-11-23T02:30:00Z",
        "spec": { "execute": { "command": ["touch", "harm"] } },
    });
    let mut changed = envelope.clone();
    match n % 12 {
        0 => (0..64)
            .map(|_| u8::try_from(random.below(256)).unwrap())
            .collect(),
        1 => Vec::new(),
        2 => b"{}".to_vec(),
        3 => {
            let whole = envelope.to_string().into_bytes();
            whole[..whole.len() - 2].to_vec()
        }
        4 => vec![b'['; 20_000],
        5 => {
            let deep = format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000));
            let text = envelope.to_string();
            text.replace(
                "\"spec\":{",
                &format!("\"spec\":{{\"args\":{{\"x\":{deep}}},"),
            )
            .into_bytes()
        }
        // In a field that nobody knows, deeper than any limit of a parser.
        6 => {
            let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
            let text = envelope.to_string();
            text.replace("\"version\":1", &format!("\"version\":9,\"x\":{deep}"))
                .into_bytes()
        }
        7 => json!({ "version": 9, "run_id": format!("evil{n}@20261123T023000Z") })
            .to_string()
            .into_bytes(),
        // An unknown field with a name that an error would quote.
        8 => {
            changed["spec"]["x".repeat(20_000)] = json!(1);
            changed["spec"]["timeout"] = json!("1e999999");
            changed.to_string().into_bytes()
        }
        9 => envelope
            .to_string()
            .replace("touch", "to\u{1}uch")
            .replace("harm", "\\ud800")
            .into_bytes(),
        10 => {
            let mut bytes = envelope.to_string().into_bytes();
            let at = bytes.windows(4).position(|word| word == b"harm").unwrap();
            bytes[at] = 0xff;
            bytes
        }
        _ => {
            changed["run_id"] = Value::String("../../etc/passwd@x".to_owned());
            changed.to_string().into_bytes()
        }
    }
}

/// Publishes as any client could, without waiting for anything but the server's last word.
fn flood(port: u16, seed: u64) {
    let mut random = Random(seed);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .write_all(b"CONNECT {\"verbose\":false}\r\n")
        .unwrap();
    for n in 0..MESSAGES {
        let payload = hostile(n, &mut random);
        write!(
            stream,
            "PUB orch.jobs.default.evil{n}.slot {}\r\n",
            payload.len()
        )
        .unwrap();
        stream.write_all(&payload).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    stream.write_all(b"PING\r\n").unwrap();
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while !seen.windows(4).any(|window| window == b"PONG") {
        let read = stream.read(&mut buffer).unwrap();
        assert!(
            read > 0,
            "the server closed: {}",
            String::from_utf8_lossy(&seen)
        );
        seen.extend_from_slice(&buffer[..read]);
    }
}

fn resident_mb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

#[test]
fn ten_thousand_messages_that_are_no_runs_change_nothing_but_a_counter() {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let server = NatsServer::start_with("max_payload: 2MB");
    let installation = Installation::on_nats(&server.url());
    installation.schedule("jobs.toml", SCHEDULES);
    let beat = installation.start("beat", &["beat"]);
    let worker = installation.start(
        "worker",
        &["worker", "--queue", "default", "--concurrency", "64"],
    );
    let run = || {
        let ended = installation.run(&["run", "--wait", "real", "-o", "json"]);
        assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    };
    wait_for("the job", || {
        let jobs = installation.try_json(&["jobs"])?;
        (!jobs.as_array()?.is_empty()).then_some(())
    });
    run();
    let before = resident_mb(worker.pid());
    let port = server.port();
    let flooding = std::thread::spawn(move || flood(port, seed));
    // Real runs go on meanwhile: behind what came before them, but not stuck.
    run();
    flooding.join().unwrap();
    run();
    let counted = wait_for("all to be counted", || {
        let workers = installation.try_json(&["workers"])?;
        let refused = workers[0]["refused"].as_u64()?;
        (refused >= MESSAGES).then_some(refused)
    });
    assert_eq!(counted, MESSAGES);
    run();
    let queues = installation.json(&["queues"]);
    assert_eq!(
        (&queues[0]["waiting"], &queues[0]["running"]),
        (&json!(0), &json!(0))
    );
    let after = resident_mb(worker.pid());
    println!("the worker had {before} MB at most before, {after} MB after");
    assert!(after < before + 100, "{before} MB before, {after} MB after");
    let dead = installation.json(&["dead", "list", "--limit", "100000"]);
    let letters = dead.as_array().unwrap().len();
    println!("{letters} dead letters");
    assert!((1..=LETTERS).contains(&letters), "{letters}");
    let longest = dead.to_string().len();
    assert!(longest < 32 << 20, "{longest} bytes of letters");
    assert!(!installation.path("harm").exists());
    for service in [beat, worker] {
        let lines = service.log().lines().count();
        assert!(lines < 200, "{lines} lines: {}", service.log());
        assert!(service.stop().success());
    }
}
