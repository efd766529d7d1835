//! What must hold for every input, whoever makes it: the fuzz targets here and the short run in
//! `tests/fuzz.rs`.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{LazyLock, Mutex},
    time::Duration,
};

use chrono::{DateTime, Utc};
use orchestrator::{
    broker::{DeadLetter, LogChunk},
    exec::{
        Cgroup, Ended, Execution, Executor, Limits, Output, PreparedRequest, RunContext, Secrets,
        Stop,
    },
    health::{self, Health},
    job::{Execute, Job, cron::CronTrigger},
    plan::{JobState, Leader, Pause, ReloadStatus, Watermark},
    run::{
        Claimant, DeliveryMark, Exit, LastRun, Pace, Places, RunMessage, RunRecord, WorkerStatus,
        is_shallow,
    },
    schedules::{self, Source},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

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

/// The rules of a worker are refused with reasons and places, or they are read.
pub fn policy(text: &str) {
    let source = Source::new("worker.toml", text, PathBuf::from("/srv"));
    if let Err(error) = schedules::parse_policy(&source) {
        assert!(!error.diagnostics.is_empty(), "refused without a reason");
        for found in &error.diagnostics {
            assert!(!found.message().is_empty());
            let lines = text.lines().count() + 1;
            assert!(found.line().is_none_or(|line| (1..=lines).contains(&line)));
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

/// A message is refused with a reason, or it survives the wire, and so does the record that is made of it,
/// whoever claims it and whatever it leaves behind.
pub fn envelope(text: &str) {
    let bytes = text.as_bytes();
    let message = match RunMessage::decode(bytes) {
        Ok(message) => message,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let _ = RunMessage::run_id_in(bytes);
            return;
        }
    };
    assert_eq!(RunMessage::run_id_in(bytes).as_ref(), Some(&message.run_id));
    let Ok(wire) = message.encode() else { return };
    assert_eq!(
        RunMessage::decode(&wire).expect("what was written"),
        message
    );
    assert!(message.spec.templates().count() <= text.len() + 1);
    claimed(RunRecord::queued(&message), &message);
}

/// What a bucket holds is not understood, or it survives being read and written; a record can be claimed, and is
/// a record afterwards.
pub fn state(text: &str) {
    survives::<LastRun>(text);
    survives::<WorkerStatus>(text);
    survives::<Places>(text);
    survives::<Pace>(text);
    survives::<Watermark>(text);
    survives::<JobState>(text);
    survives::<Pause>(text);
    survives::<Leader>(text);
    survives::<ReloadStatus>(text);
    survives::<DeadLetter>(text);
    survives::<LogChunk>(text);
    if let Some(job) = survives::<Job>(text) {
        ordered(|after| job.next_after(after));
    }
    let Some(record) = survives::<RunRecord>(text) else {
        // Anything may be what a job leaves behind.
        if let Ok(value) = serde_json::from_str::<Value>(text)
            && is_shallow(&value)
        {
            let mut record = RunRecord::queued(&plain());
            record.result = Some(value);
            let wire = serde_json::to_string(&record).expect("a record is JSON");
            assert_eq!(survives::<RunRecord>(&wire), Some(record));
        }
        return;
    };
    claimed(record, &plain());
}

fn survives<T>(text: &str) -> Option<T>
where
    T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug,
{
    let value: T = serde_json::from_str(text).ok()?;
    let wire = serde_json::to_string(&value).expect("it is JSON");
    let read: T = serde_json::from_str(&wire).expect("what was written");
    assert_eq!(read, value);
    Some(value)
}

fn claimed(record: RunRecord, message: &RunMessage) {
    let (fence, was_final) = (record.fence, record.state.is_final());
    let by = Claimant {
        worker: "fuzz".to_owned(),
        delivery: DeliveryMark {
            sequence: 1,
            count: 1,
        },
        at: now(),
    };
    if let Ok(claim) = record.claim(&by, message.expires_at, message.spec.retry.max_crashes) {
        assert!(!was_final, "a final record was claimed");
        assert!(claim.fence > fence, "the fence did not grow");
        let wire = serde_json::to_string(&claim.record).expect("a record is JSON");
        assert_eq!(survives::<RunRecord>(&wire), Some(claim.record));
    }
}

fn plain() -> RunMessage {
    let text = r#"{"version":1,"run_id":"a@20261123T023000Z","queue":"default","scheduled_for":"2026-11-23T02:30:00Z",
        "published_at":"2026-11-23T02:30:00Z","spec":{"execute":{"command":["true"]}}}"#;
    RunMessage::decode(text.as_bytes()).expect("a message")
}

/// Whatever comes in at `--listen`, it is answered in HTTP or the connection ends; the next probe is answered.
pub fn probes(text: &str) {
    static ADDRESS: LazyLock<SocketAddr> = LazyLock::new(|| {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let (any, stop) = (([127, 0, 0, 1], 0).into(), CancellationToken::new());
                let bound = health::listen(any, Health::default(), stop).await;
                tell.send(bound.expect("a port")).expect("somebody waits");
                std::future::pending::<()>().await;
            });
        });
        told.recv().expect("the server starts")
    });
    let ask = |bytes: &[u8], is_all: bool| {
        let mut stream = TcpStream::connect(*ADDRESS).expect("the server is there");
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).expect("a limit");
        // It may end the connection before it has read everything.
        let _ = stream.write_all(bytes);
        if is_all {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
        answer
    };
    let answer = ask(text.as_bytes(), true);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."));
    let answer = ask(
        b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        false,
    );
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "no probe is answered any more"
    );
}

/// Whatever a server answers to the request of a job, it becomes a status or a reason, and what is kept of it fits
/// into a record.
pub fn answer(text: &str) {
    static ASKING: LazyLock<Mutex<Asking>> = LazyLock::new(|| Mutex::new(Asking::new()));
    let asking = ASKING.lock().expect("no case has failed");
    let Execution {
        ended,
        exit,
        result,
    } = asking.ask(text);
    assert_eq!(ended, Ended::ByItself, "no answer within the time-out");
    match (exit, &result) {
        (Exit::Status(status), Some(result)) => assert_eq!(result["status"], status),
        (Exit::Failed(reason), None) => assert!(!reason.is_empty()),
        other => panic!("{other:?}"),
    }
    let Some(result) = result else { return };
    assert!(is_shallow(&result));
    let length = result.to_string().len();
    assert!(length <= 64 << 10, "a result of {length} bytes");
    let mut record = RunRecord::queued(&plain());
    record.result = Some(result);
    let wire = serde_json::to_string(&record).expect("a record is JSON");
    assert_eq!(survives::<RunRecord>(&wire), Some(record));
}

/// A job that asks a server on loopback, which answers as it is told.
struct Asking {
    runtime: tokio::runtime::Runtime,
    executor: Executor,
    message: RunMessage,
    answers: std::sync::Arc<Mutex<Vec<u8>>>,
}

impl Asking {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let answers = std::sync::Arc::<Mutex<Vec<u8>>>::default();
        let told = std::sync::Arc::clone(&answers);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut asked = Vec::new();
                let mut buffer = [0; 1024];
                while !asked.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut buffer) {
                        Ok(length @ 1..) => asked.extend_from_slice(&buffer[..length]),
                        Ok(0) | Err(_) => break,
                    }
                }
                let answer = told.lock().expect("no case has failed").clone();
                // It may have seen enough.
                let _ = stream.write_all(&answer);
            }
        });
        // Nobody else is asked, wherever an answer points to.
        let text = format!(
            r#"{{"version":1,"run_id":"a@20261123T023000Z","queue":"default","scheduled_for":"2026-11-23T02:30:00Z",
            "published_at":"2026-11-23T02:30:00Z","spec":{{"execute":{{"http":{{"url":"http://{address}/","redirects":0}}}}}}}}"#
        );
        let runtime = tokio::runtime::Builder::new_current_thread();
        Self {
            runtime: { runtime }.enable_all().build().expect("a runtime"),
            executor: Executor::start(None, &Cgroup::Off).expect("an executor"),
            message: RunMessage::decode(text.as_bytes()).expect("a message"),
            answers,
        }
    }

    fn ask(&self, answer: &str) -> Execution {
        *self.answers.lock().expect("no case has failed") = answer.as_bytes().to_vec();
        let spec = &self.message.spec;
        let context = RunContext {
            message: &self.message,
            attempt: 1,
            fence: 1,
            lock: None,
            secrets: &Secrets::default(),
            hand_on: &BTreeMap::new(),
        };
        let Execute::Http(http) = &spec.execute else {
            panic!("it asks");
        };
        let prepared = PreparedRequest::prepare(http, &context).expect("a request");
        let limits = Limits {
            timeout: None,
            kill: spec.kill,
            resources: None,
        };
        let (output, stop) = (Output::new(1), Stop::default());
        self.runtime
            .block_on(self.executor.request(prepared, limits, &output, &stop))
    }
}
