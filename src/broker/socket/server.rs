//! The side of `up`.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::StreamExt;
use serde::Serialize;
use tokio::{
    net::{UnixListener, UnixStream},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    FILE_NAME, address,
    wire::{Request, Wire},
};
use crate::broker::{Broker, BrokerError, SharedBroker};

/// At most so many calls are served at once; further ones wait to be accepted.
const CALLS_AT_ONCE: usize = 512;

/// The running server; removes its socket when it is stopped.
#[derive(Debug)]
pub struct SocketServer {
    task: JoinHandle<()>,
    stop: CancellationToken,
    path: PathBuf,
}

impl SocketServer {
    /// Ends every call and removes the socket.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            warn!(target: "orchestrator::broker", %error, "the socket server ended badly");
        }
        // Nobody connects to it any more, whether it can be removed or not.
        let _ = fs::remove_file(&self.path);
    }
}

/// Serves `broker` on a socket in `data_dir`, which the caller holds exclusively: a socket that is
/// there already was left behind.
pub fn serve(data_dir: &Path, broker: SharedBroker) -> io::Result<SocketServer> {
    let path = data_dir.join(FILE_NAME);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let (short, _dir) = address(data_dir)?;
    let listener = UnixListener::bind(short)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    let stop = CancellationToken::new();
    let task = tokio::spawn(accept(listener, broker, stop.clone()));
    Ok(SocketServer { task, stop, path })
}

async fn accept(listener: UnixListener, broker: SharedBroker, stop: CancellationToken) {
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = calls.join_next() => {}
            accepted = listener.accept(), if calls.len() < CALLS_AT_ONCE => match accepted {
                Ok((stream, _)) => {
                    let (broker, stop) = (broker.clone(), stop.child_token());
                    calls.spawn(async move {
                        if let Err(error) = answer(stream, broker, stop).await {
                            debug!(target: "orchestrator::broker", %error, "a call broke off");
                        }
                    });
                }
                Err(error) => {
                    warn!(target: "orchestrator::broker", %error, "no call can be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    calls.shutdown().await;
}

async fn answer(
    stream: UnixStream,
    broker: SharedBroker,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut wire = Wire::new(stream);
    let Some(request) = wire.receive::<Request>().await? else {
        return Ok(());
    };
    let broker = broker.as_ref();
    match request {
        Request::Describe => {
            let lease = u64::try_from(broker.lease().as_millis()).unwrap_or(u64::MAX);
            reply(&mut wire, Ok((broker.describe(), lease))).await
        }
        Request::Pull { request } => pull(&mut wire, broker, request, stop).await,
        Request::Watch { bucket, prefix } => {
            let changes = broker.watch(bucket, &prefix).await;
            watch(&mut wire, changes).await
        }
        Request::Publish { run } => reply(&mut wire, broker.publish(run).await).await,
        Request::Renew { receipt } => reply(&mut wire, broker.renew(&receipt).await).await,
        Request::Ack { receipt } => reply(&mut wire, broker.ack(&receipt).await).await,
        Request::Release { receipt, delay_ms } => {
            let delay = Duration::from_millis(delay_ms);
            reply(&mut wire, broker.release(&receipt, delay).await).await
        }
        Request::Pending { from, limit } => {
            reply(&mut wire, broker.pending(from, limit).await).await
        }
        Request::Occupant {
            queue,
            run_id,
            slot,
        } => reply(&mut wire, broker.occupant(&queue, &run_id, slot).await).await,
        Request::Remove { pending } => reply(&mut wire, broker.remove(&pending).await).await,
        Request::Queues => reply(&mut wire, broker.queues().await).await,
        other => answer_values(&mut wire, broker, other).await,
    }
}

/// The calls on values, logs and dead letters.
async fn answer_values(wire: &mut Wire, broker: &dyn Broker, request: Request) -> io::Result<()> {
    match request {
        Request::Get { bucket, key } => reply(wire, broker.get(bucket, &key).await).await,
        Request::Latest { bucket, prefix } => {
            reply(wire, broker.latest(bucket, &prefix).await).await
        }
        Request::Put { bucket, key, value } => {
            let value = bytes(&value)?;
            reply(wire, broker.put(bucket, &key, value).await).await
        }
        Request::CompareAndSet {
            bucket,
            key,
            expected,
            value,
            durability,
        } => {
            let value = bytes(&value)?;
            let done = broker
                .compare_and_set(bucket, &key, expected, value, durability)
                .await;
            reply(wire, done).await
        }
        Request::Delete { bucket, key } => reply(wire, broker.delete(bucket, &key).await).await,
        Request::AppendLog { run_id, chunk } => {
            reply(wire, broker.append_log(&run_id, chunk).await).await
        }
        Request::TrimLog { run_id, sequence } => {
            reply(wire, broker.trim_log(&run_id, sequence).await).await
        }
        Request::ReadLog {
            run_id,
            after,
            limit,
        } => reply(wire, broker.read_log(&run_id, after, limit).await).await,
        Request::DeadLetter { letter } => reply(wire, broker.dead_letter(letter).await).await,
        Request::DeadLetters { below, limit } => {
            reply(wire, broker.dead_letters(below, limit).await).await
        }
        Request::Discard { sequence } => reply(wire, broker.discard(sequence).await).await,
        _ => Err(io::Error::other("a call that is answered elsewhere")),
    }
}

async fn reply<T: Serialize>(wire: &mut Wire, answer: Result<T, BrokerError>) -> io::Result<()> {
    wire.send(&answer).await
}

/// A pull ends early when its caller says so or goes away; what it took then goes back at once.
async fn pull(
    wire: &mut Wire,
    broker: &dyn Broker,
    request: crate::broker::PullRequest,
    stop: CancellationToken,
) -> io::Result<()> {
    let taken = {
        let mut taking = std::pin::pin!(broker.pull(request, &stop));
        tokio::select! {
            taken = &mut taking => taken,
            _ = wire.receive::<String>() => {
                stop.cancel();
                taking.await
            }
        }
    };
    let deliveries = taken.as_ref().map_or_else(|_| Vec::new(), Clone::clone);
    let sent = reply(wire, taken).await;
    if sent.is_err() {
        for delivery in deliveries {
            // Otherwise its lease brings it back.
            let _ = broker.release(&delivery.receipt, Duration::ZERO).await;
        }
    }
    sent
}

async fn watch(
    wire: &mut Wire,
    changes: Result<crate::broker::Changes, BrokerError>,
) -> io::Result<()> {
    let mut changes = match changes {
        Ok(changes) => changes,
        Err(error) => return reply::<crate::broker::Change>(wire, Err(error)).await,
    };
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            // The caller says nothing more: this ends when it closes the connection.
            _ = wire.receive::<String>() => return Ok(()),
        };
        match change {
            Some(change) => reply(wire, change).await?,
            None => return Ok(()),
        }
    }
}

fn bytes(text: &str) -> io::Result<Vec<u8>> {
    STANDARD.decode(text).map_err(io::Error::other)
}
