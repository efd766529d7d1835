//! The side of the commands.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::{StreamExt, stream};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::{
    address,
    wire::{Request, Wire},
};
use crate::{
    broker::{Broker, BrokerError, Changes, types::*},
    job::QueueName,
    run::RunId,
};

/// How long one call may take beyond what it waits for by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// The broker of a running `up`.
#[derive(Debug)]
pub struct SocketBroker {
    data_dir: std::path::PathBuf,
    description: String,
    lease: Duration,
}

impl SocketBroker {
    /// Connects to the `up` that runs on `data_dir`; `None` if there is none.
    pub async fn connect(data_dir: &Path) -> Result<Option<Self>, BrokerError> {
        let mut broker = Self {
            data_dir: data_dir.to_path_buf(),
            description: format!("the broker of `up` in {}", data_dir.display()),
            lease: Duration::ZERO,
        };
        let Ok((path, _dir)) = address(data_dir) else {
            return Ok(None);
        };
        match UnixStream::connect(&path).await {
            Ok(_) => {}
            Err(error) if nobody_listens(&error) => return Ok(None),
            Err(error) => return Err(broker.failure("connect", &error)),
        }
        let (description, lease_ms) = broker.call(&Request::Describe).await?;
        broker.description = description;
        broker.lease = Duration::from_millis(lease_ms);
        Ok(Some(broker))
    }

    async fn open(&self, request: &Request) -> Result<Wire, BrokerError> {
        let work = async {
            let (path, _dir) = address(&self.data_dir)?;
            let mut wire = Wire::new(UnixStream::connect(&path).await?);
            wire.send(request).await?;
            Ok(wire)
        };
        work.await
            .map_err(|error: std::io::Error| self.failure(request.name(), &error))
    }

    async fn call<T: DeserializeOwned>(&self, request: &Request) -> Result<T, BrokerError> {
        let work = async {
            let mut wire = self.open(request).await?;
            self.answer(request, &mut wire).await
        };
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable(request.name(), "no answer in time")),
        }
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        request: &Request,
        wire: &mut Wire,
    ) -> Result<T, BrokerError> {
        match wire.receive::<Result<T, BrokerError>>().await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(self.unreachable(request.name(), "it closed the connection")),
            Err(error) => Err(self.failure(request.name(), &error)),
        }
    }

    fn failure(&self, operation: &str, error: &std::io::Error) -> BrokerError {
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => BrokerError::NotPermitted {
                broker: self.description.clone(),
                operation: operation.to_owned(),
                reason: error.to_string(),
            },
            _ => self.unreachable(operation, &error.to_string()),
        }
    }

    fn unreachable(&self, operation: &str, reason: &str) -> BrokerError {
        BrokerError::Unreachable {
            broker: self.description.clone(),
            operation: operation.to_owned(),
            reason: reason.to_owned(),
        }
    }
}

fn nobody_listens(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
    )
}

impl Request {
    fn name(&self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Publish { .. } => "publish",
            Self::Pull { .. } => "pull",
            Self::Renew { .. } => "renew",
            Self::Ack { .. } => "ack",
            Self::Release { .. } => "release",
            Self::Pending { .. } => "pending",
            Self::Occupant { .. } => "occupant",
            Self::Remove { .. } => "remove",
            Self::Queues => "queues",
            Self::Get { .. } => "get",
            Self::Latest { .. } => "latest",
            Self::Put { .. } => "put",
            Self::CompareAndSet { .. } => "compare and set",
            Self::Delete { .. } => "delete",
            Self::Watch { .. } => "watch",
            Self::AppendLog { .. } => "append to a log",
            Self::TrimLog { .. } => "trim a log",
            Self::ReadLog { .. } => "read a log",
            Self::DeadLetter { .. } => "keep a dead letter",
            Self::DeadLetters { .. } => "list dead letters",
            Self::Discard { .. } => "discard a dead letter",
        }
    }
}

#[async_trait]
impl Broker for SocketBroker {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    async fn publish(&self, run: Outgoing) -> Result<Published, BrokerError> {
        self.call(&Request::Publish { run }).await
    }

    async fn pull(
        &self,
        request: PullRequest,
        stop: &CancellationToken,
    ) -> Result<Vec<Delivery>, BrokerError> {
        let wait = request.wait + PATIENCE;
        let request = Request::Pull { request };
        let mut wire = self.open(&request).await?;
        // Once asked to stop, the answer is awaited all the same: dropping it would strand runs.
        tokio::select! {
            answer = self.answer(&request, &mut wire) => return answer,
            () = stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {
                return Err(self.unreachable("pull", "no answer in time"));
            }
        }
        // Not heard by a server that has answered and closed already: its answer is still there.
        let _ = wire.send(&"stop").await;
        match tokio::time::timeout(PATIENCE, self.answer(&request, &mut wire)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable("pull", "no answer in time")),
        }
    }

    async fn renew(&self, receipt: &Receipt) -> Result<(), BrokerError> {
        let receipt = receipt.clone();
        self.call(&Request::Renew { receipt }).await
    }

    async fn ack(&self, receipt: &Receipt) -> Result<(), BrokerError> {
        let receipt = receipt.clone();
        self.call(&Request::Ack { receipt }).await
    }

    async fn release(&self, receipt: &Receipt, delay: Duration) -> Result<(), BrokerError> {
        let request = Request::Release {
            receipt: receipt.clone(),
            delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        };
        self.call(&request).await
    }

    async fn pending(&self, from: u64, limit: usize) -> Result<Vec<Pending>, BrokerError> {
        self.call(&Request::Pending { from, limit }).await
    }

    async fn occupant(
        &self,
        queue: &QueueName,
        run_id: &RunId,
        slot: Slot,
    ) -> Result<Option<Pending>, BrokerError> {
        let (queue, run_id) = (queue.clone(), run_id.clone());
        self.call(&Request::Occupant {
            queue,
            run_id,
            slot,
        })
        .await
    }

    async fn remove(&self, pending: &Pending) -> Result<bool, BrokerError> {
        let pending = pending.clone();
        self.call(&Request::Remove { pending }).await
    }

    async fn queues(&self) -> Result<Vec<QueueDepth>, BrokerError> {
        self.call(&Request::Queues).await
    }

    async fn get(&self, bucket: Bucket, key: &str) -> Result<Option<Entry>, BrokerError> {
        let key = key.to_owned();
        self.call(&Request::Get { bucket, key }).await
    }

    async fn latest(&self, bucket: Bucket, prefix: &str) -> Result<Option<Entry>, BrokerError> {
        let prefix = prefix.to_owned();
        self.call(&Request::Latest { bucket, prefix }).await
    }

    async fn put(
        &self,
        bucket: Bucket,
        key: &str,
        value: Vec<u8>,
    ) -> Result<Revision, BrokerError> {
        let request = Request::Put {
            bucket,
            key: key.to_owned(),
            value: STANDARD.encode(value),
        };
        self.call(&request).await
    }

    async fn compare_and_set(
        &self,
        bucket: Bucket,
        key: &str,
        expected: Option<Revision>,
        value: Vec<u8>,
        durability: Durability,
    ) -> Result<Cas, BrokerError> {
        let request = Request::CompareAndSet {
            bucket,
            key: key.to_owned(),
            expected,
            value: STANDARD.encode(value),
            durability,
        };
        self.call(&request).await
    }

    async fn delete(&self, bucket: Bucket, key: &str) -> Result<(), BrokerError> {
        let key = key.to_owned();
        self.call(&Request::Delete { bucket, key }).await
    }

    async fn watch(&self, bucket: Bucket, prefix: &str) -> Result<Changes, BrokerError> {
        let request = Request::Watch {
            bucket,
            prefix: prefix.to_owned(),
        };
        let wire = self.open(&request).await?;
        let description = self.description.clone();
        let changes = stream::unfold(Some(wire), move |wire| {
            let description = description.clone();
            async move {
                let mut wire = wire?;
                match wire.receive::<Result<Change, BrokerError>>().await {
                    Ok(Some(change)) => Some((change, Some(wire))),
                    Ok(None) => None,
                    Err(error) => {
                        let error = BrokerError::Unreachable {
                            broker: description,
                            operation: "watch".to_owned(),
                            reason: error.to_string(),
                        };
                        Some((Err(error), None))
                    }
                }
            }
        });
        Ok(changes.boxed())
    }

    async fn append_log(&self, run_id: &RunId, chunk: LogChunk) -> Result<u64, BrokerError> {
        let run_id = run_id.clone();
        self.call(&Request::AppendLog { run_id, chunk }).await
    }

    async fn trim_log(&self, run_id: &RunId, sequence: u64) -> Result<(), BrokerError> {
        let run_id = run_id.clone();
        self.call(&Request::TrimLog { run_id, sequence }).await
    }

    async fn read_log(
        &self,
        run_id: &RunId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, LogChunk)>, BrokerError> {
        let run_id = run_id.clone();
        self.call(&Request::ReadLog {
            run_id,
            after,
            limit,
        })
        .await
    }

    async fn dead_letter(&self, letter: DeadLetter) -> Result<(), BrokerError> {
        self.call(&Request::DeadLetter { letter }).await
    }

    async fn dead_letters(
        &self,
        below: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, DeadLetter)>, BrokerError> {
        self.call(&Request::DeadLetters { below, limit }).await
    }

    async fn discard(&self, sequence: u64) -> Result<bool, BrokerError> {
        self.call(&Request::Discard { sequence }).await
    }
}
