//! Tells when a beat begins with other schedules than the beat before had in force: somebody forgot a machine, or is
//! about to change it.

use std::collections::BTreeSet;

use tracing::{info, warn};

use super::{
    BeatError, BeatOptions,
    shared::{names, read},
};
use crate::{
    broker::{Bucket, SharedBroker},
    job::JobName,
    plan::{Differing, RELOAD_KEY, ReloadStatus},
    schedules::JobSet,
};

/// Compares `set` with what is in force. What another beat had that differs is returned, and told as a warning: one that
/// was started again may have been given other files.
pub(super) async fn compare(
    broker: &SharedBroker,
    options: &BeatOptions,
    (in_force, set): (&JobSet, &JobSet),
) -> Result<Option<Differing>, BeatError> {
    let entry = broker.get(Bucket::State, RELOAD_KEY).await?;
    let Some(before) = entry.as_ref().and_then(read::<ReloadStatus>) else {
        return Ok(None);
    };
    let differ = differ(in_force, set);
    if differ.is_empty() {
        return Ok(None);
    }
    let count = differ.len();
    let jobs = names(differ.iter());
    let home = match &options.own {
        Some(own) => own.home().await?,
        None => None,
    };
    if home.is_none() || before.home.is_none() || before.home == home {
        info!(target: "orchestrator::beat", count, jobs,
            "the schedules were changed while this beat did not lead");
        return Ok(None);
    }
    warn!(target: "orchestrator::beat", before = before.beat, count, jobs,
        "this beat takes over with other schedules than the one before: give all beats the same files; until then each \
         takeover changes these jobs");
    let named = differ.into_iter().take(Differing::MOST_JOBS);
    Ok(Some(Differing {
        before: before.beat,
        jobs: named.collect(),
        count,
    }))
}

/// The jobs that only one of the two has, or that they define otherwise.
fn differ(in_force: &JobSet, set: &JobSet) -> BTreeSet<JobName> {
    let is_other = |name: &JobName| in_force.get(name) != set.get(name);
    let all = in_force.jobs.keys().chain(set.jobs.keys());
    all.filter(|name| is_other(name)).cloned().collect()
}
