//! What would change if a set of schedules were read now.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use super::{OpsError, jobs::values};
use crate::{
    broker::Broker,
    job::{Job, JobName},
    plan::{DEFINITION_PREFIX, JOB_STATE_PREFIX, JobState, Scheduled},
    run::{LAST_RUN_PREFIX, LastRun, Past},
};

/// A job that differs.
#[derive(Debug, Clone, Serialize)]
pub struct JobDiff {
    /// The job.
    pub job: JobName,
    /// How it differs.
    pub change: JobChange,
    /// Its next tick as things are.
    pub next_before: Option<DateTime<Utc>>,
    /// Its next tick after a reload.
    pub next_after: Option<DateTime<Utc>>,
}

/// How a job differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JobChange {
    /// Only in the new set.
    Added,
    /// Only in the set in force.
    Removed,
    /// In both.
    Changed {
        /// What differs, by its path in the definition.
        values: Vec<ValueChange>,
        /// Whether its schedule starts anew: the trigger was edited, or the job enabled or disabled.
        counts_from_now: bool,
    },
}

/// A value that differs; `None`: not given.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValueChange {
    /// Where it is in the definition, with dots.
    pub path: String,
    /// The value in force.
    pub before: Option<Value>,
    /// The new value.
    pub after: Option<Value>,
}

/// Compares `wanted` with the set in force, by name.
pub async fn diff<'a>(
    broker: &dyn Broker,
    wanted: impl Iterator<Item = &'a Arc<Job>>,
    now: DateTime<Utc>,
) -> Result<Vec<JobDiff>, OpsError> {
    let in_force: Vec<(JobName, Job)> = values(broker, DEFINITION_PREFIX).await?;
    let mut before: BTreeMap<JobName, Arc<Job>> = in_force
        .into_iter()
        .map(|(name, job)| (name, Arc::new(job)))
        .collect();
    let states: Vec<(JobName, JobState)> = values(broker, JOB_STATE_PREFIX).await?;
    let states: BTreeMap<_, _> = states.into_iter().collect();
    let lasts: Vec<(JobName, LastRun)> = values(broker, LAST_RUN_PREFIX).await?;
    let pasts: BTreeMap<_, _> = lasts
        .into_iter()
        .map(|(name, last)| (name, Past::from(&last)))
        .collect();
    let mut found = Vec::new();
    for job in wanted {
        let old = before.remove(&job.name);
        let state = states.get(&job.name);
        let change = match &old {
            None => JobChange::Added,
            Some(old) if old == job => continue,
            Some(old) => JobChange::Changed {
                values: changes(old, job),
                counts_from_now: old.fingerprint() != job.fingerprint(),
            },
        };
        found.push(JobDiff {
            job: job.name.clone(),
            change,
            next_before: old.and_then(|old| next(&old, state, now)),
            next_after: next(
                job,
                Some(&after_reload(job, state, pasts.get(&job.name), now)),
                now,
            ),
        });
    }
    for (name, old) in before {
        found.push(JobDiff {
            change: JobChange::Removed,
            next_before: next(&old, states.get(&name), now),
            next_after: None,
            job: name,
        });
    }
    found.sort_by(|a, b| a.job.cmp(&b.job));
    Ok(found)
}

fn after_reload(
    job: &Job,
    state: Option<&JobState>,
    past: Option<&Past>,
    now: DateTime<Utc>,
) -> JobState {
    let state = match state {
        None => JobState::first_seen(job, now, now),
        Some(state) => state
            .redefined((None, job), now, now)
            .unwrap_or(state.clone()),
    };
    let news = (state.paused.as_ref(), past);
    state.heard(job, news, now, now).unwrap_or(state)
}

fn next(job: &Arc<Job>, state: Option<&JobState>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    Scheduled::new(Arc::clone(job), state?).next_after(now)
}

fn changes(old: &Job, new: &Job) -> Vec<ValueChange> {
    let value = |job: &Job| serde_json::to_value(job).unwrap_or_default();
    let mut found = Vec::new();
    compare("", Some(&value(old)), Some(&value(new)), &mut found);
    found
}

fn compare(path: &str, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<ValueChange>) {
    if old == new {
        return;
    }
    if let (Some(Value::Object(before)), Some(Value::Object(after))) = (old, new) {
        let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
        for key in keys {
            let deeper = match path {
                "" => key.clone(),
                path => format!("{path}.{key}"),
            };
            compare(&deeper, before.get(key), after.get(key), found);
        }
        return;
    }
    found.push(ValueChange {
        path: path.to_owned(),
        before: old.cloned(),
        after: new.cloned(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_compared_down_to_the_leaf() {
        let (old, new) = (
            json!({ "a": { "b": 1, "c": 2 }, "d": 3 }),
            json!({ "a": { "b": 1, "c": 4, "e": [5] } }),
        );
        let mut found = Vec::new();
        compare("", Some(&old), Some(&new), &mut found);
        let told: Vec<_> = found
            .iter()
            .map(|change| {
                (
                    change.path.as_str(),
                    change.before.clone(),
                    change.after.clone(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("a.c", Some(json!(2)), Some(json!(4))),
                ("a.e", None, Some(json!([5]))),
                ("d", Some(json!(3)), None),
            ]
        );
    }
}
