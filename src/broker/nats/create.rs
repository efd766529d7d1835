//! Makes a single stream or bucket, with as much room as there is for it.

use serde_json::Value;
use tracing::warn;

use super::{
    NatsBroker,
    api::{CallError, code},
    room::{rooms, settled},
    setup::Stream,
};
use crate::broker::BrokerError;

impl NatsBroker {
    /// Makes a stream. What is answered is `null` if somebody was quicker, with other settings.
    pub(super) async fn create(&self, stream: Stream, name: &str) -> Result<Value, BrokerError> {
        let operation = format!("create the stream {name}");
        let subject = format!("STREAM.CREATE.{name}");
        let mut last = None;
        for room in rooms(stream) {
            // Servers that have just met do not know yet how much room the others have.
            if room.is_unbounded() && last.as_ref().is_some_and(is_about_peers) {
                break;
            }
            let mut config = self.stream_config(stream, name);
            room.ask(&mut config);
            match self.api::<Value>(&operation, &subject, &config).await {
                Ok(made) => return Ok(made),
                Err(error) if error.is(code::STREAM_EXISTS) => return Ok(Value::Null),
                Err(error) if error.is_about_room() => last = Some(error),
                Err(error) => {
                    last = Some(error);
                    break;
                }
            }
        }
        let Some(error) = last else {
            return Err(self.failed(&operation, "it was not tried".to_owned()));
        };
        Err(match self.error(&operation, error) {
            BrokerError::NotPermitted { reason, .. } => self.not_permitted(
                &format!("use the stream {name}"),
                format!("it is missing, and {reason}: start `orchestrator beat`, which makes all streams"),
            ),
            error => error,
        })
    }

    /// A stream that has just been made holds more than it is to hold.
    pub(super) async fn give_its_share(
        &self,
        stream: Stream,
        name: &str,
        found: Value,
    ) -> Result<Value, BrokerError> {
        let Some(config) = settled(stream, &found["config"]) else {
            return Ok(found);
        };
        let operation = format!("give {name} its share of the room");
        let subject = format!("STREAM.UPDATE.{name}");
        let changed = match self.api::<Value>(&operation, &subject, &config).await {
            Ok(changed) => changed,
            Err(error) => match self.error(&operation, error) {
                // Left to somebody who may, and to a time when a cluster knows better what room its servers have: whoever
                // looks at the stream next tries it again.
                BrokerError::NotPermitted { .. } | BrokerError::Full { .. } => return Ok(found),
                error => return Err(error),
            },
        };
        if stream == Stream::Jobs
            && let Some(bytes) = config["max_bytes"].as_i64()
            && bytes < super::room::WANTED
        {
            warn!(target: "orchestrator::broker", stream = name, bytes,
                "there is little room: so much may wait, then submitters are refused and beat waits");
        }
        Ok(changed)
    }
}

fn is_about_peers(error: &CallError) -> bool {
    error.is(code::NO_PEERS)
}
