//! What `doctor` finds of whether things are written down: by the broker, and in the snapshots of `up`.

use super::Finding;
use crate::{
    broker::{Broker, BrokerError, Bucket},
    plan::{FailingSnapshots, SNAPSHOTS_KEY},
    run::CANCEL_PREFIX,
};

/// More than what is left of a block of a disk: that may still be filled while there is no room for another one.
const PROBE: usize = 8 << 10;

/// Tries to store something, where it is forgotten after a minute; a server without room goes on answering questions.
/// `None`: it is stored, or this user may not.
pub(super) async fn probe(broker: &dyn Broker) -> Option<Finding> {
    broker.servers()?;
    // Under a name of no run, where operators may write.
    let key = format!("{CANCEL_PREFIX}doctor");
    match broker.put(Bucket::Workers, &key, vec![b' '; PROBE]).await {
        Ok(_) | Err(BrokerError::NotPermitted { .. }) => None,
        Err(error) => {
            let message = format!("questions are answered, and nothing can be stored: {error}");
            let help = "most often the disk of the server is full, its log says so: make room there, and start it again; \
                beat and workers go on by themselves, no tick is lost";
            Some(Finding::failed("room", message).with_help(help))
        }
    }
}

/// That `up` cannot write its snapshots.
pub(super) async fn snapshots(broker: &dyn Broker) -> Result<Option<Finding>, BrokerError> {
    if broker.servers().is_some() {
        return Ok(None);
    }
    let entry = broker.get(Bucket::State, SNAPSHOTS_KEY).await?;
    let failing =
        entry.and_then(|entry| serde_json::from_slice::<FailingSnapshots>(&entry.value).ok());
    Ok(failing.map(|failing| {
        let since = failing
            .since
            .to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let directory = failing.directory.display();
        let message = format!(
            "none could be written in {directory} since {since}: {}",
            failing.reason
        );
        let help = "should the store be damaged, `up` could only go on from an older one: give its user the room and \
            the right to write there";
        Finding::failed("snapshots", message).with_help(help)
    }))
}
