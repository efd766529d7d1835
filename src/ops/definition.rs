//! The shared definitions of jobs: to be looked at, to be run, and whether they are as beat wrote them.

use super::{Finding, OpsError, jobs::values};
use crate::{
    broker::{self, Broker, BrokerError, Bucket, Entry},
    job::{Job, JobName},
    plan::DEFINITION_PREFIX,
    run::{Refusal, Standing},
};

/// The shared definition of a job, whoever wrote it: to be looked at.
pub async fn find_job(broker: &dyn Broker, name: &JobName) -> Result<Job, OpsError> {
    let entry = find(broker, name).await?;
    understood(name, &entry.value)
}

/// Whether the shared definition of a job bears a signature: then its runs are signed, too, as a rule.
pub async fn is_signed(broker: &dyn Broker, name: &JobName) -> Result<bool, OpsError> {
    find(broker, name)
        .await
        .map(|entry| bears_signature(&entry))
}

fn bears_signature(entry: &Entry) -> bool {
    let value = serde_json::from_slice::<serde_json::Value>(&entry.value);
    value.is_ok_and(|value| value.get("signature").is_some())
}

/// The shared definition of a job, to make a run of it. Who signs the run vouches for what the definition says: so
/// it has to be signed itself, by somebody who may publish.
pub(super) async fn find_job_to_run(broker: &dyn Broker, name: &JobName) -> Result<Job, OpsError> {
    let entry = find(broker, name).await?;
    match broker::opened(broker, Bucket::State, &entry) {
        Ok(value) => understood(name, &value),
        Err(standing) => Err(OpsError::DefinitionNotVouchedFor {
            job: name.clone(),
            reason: why_not(standing),
        }),
    }
}

/// Definitions that beat did not write as they are.
pub(super) async fn definitions(broker: &dyn Broker) -> Result<Vec<Finding>, BrokerError> {
    const HELP: &str = "somebody wrote over what beat shared: `systemctl reload orchestrator-beat` (SIGHUP) has it written anew";
    let entries = broker::list(broker, Bucket::State, DEFINITION_PREFIX).await?;
    let any_is_signed = entries.iter().any(bears_signature);
    let what_is_wrong = |entry: &Entry| match serde_json::from_slice::<Job>(&entry.value) {
        Err(error) => Some(format!("is not understood: {error}")),
        Ok(job) if entry.key != format!("{DEFINITION_PREFIX}{}", job.name) => {
            Some(format!("is that of `{}`", job.name))
        }
        Ok(_) if any_is_signed && !bears_signature(entry) => {
            Some("is not signed, and others are".to_owned())
        }
        Ok(_) => None,
    };
    let findings = entries.iter().filter_map(|entry| {
        let name = entry.key.strip_prefix(DEFINITION_PREFIX)?;
        let message = format!(
            "the shared definition of `{name}` {}",
            what_is_wrong(entry)?
        );
        Some(Finding::failed("definitions", message).with_help(HELP))
    });
    Ok(findings.collect())
}

fn why_not(standing: Standing) -> String {
    match standing {
        Standing::Forged(Refusal::Unsigned) => "it bears no signature".to_owned(),
        Standing::Unknown(key) | Standing::Forged(Refusal::Untrusted(key)) => {
            format!("it is signed by the key {key}, which is not trusted here")
        }
        Standing::Forged(Refusal::Altered(key, address)) => format!(
            "its signature by the key {key} does not fit: it was altered, or signed for another place than {address}"
        ),
        Standing::Forged(_) | Standing::Genuine => "its signature is not understood".to_owned(),
    }
}

fn understood(name: &JobName, value: &[u8]) -> Result<Job, OpsError> {
    serde_json::from_slice(value).map_err(|error| OpsError::Foreign {
        what: format!("definition of `{name}`"),
        reason: error.to_string(),
    })
}

async fn find(broker: &dyn Broker, name: &JobName) -> Result<Entry, OpsError> {
    let key = format!("{DEFINITION_PREFIX}{name}");
    if let Some(entry) = broker.get(Bucket::State, &key).await? {
        return Ok(entry);
    }
    let known: Vec<(JobName, serde_json::Value)> = values(broker, DEFINITION_PREFIX).await?;
    let nearest = known
        .iter()
        .map(|(known, _)| (strsim::jaro_winkler(known.as_str(), name.as_str()), known))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    Err(OpsError::UnknownJob {
        job: name.clone(),
        nearest: nearest.map(|(_, known)| known.to_string()),
    })
}
