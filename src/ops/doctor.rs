//! What is wrong with an installation, and how to mend it.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    JobView, JobsView, OpsError, QueueView, definition::definitions, jobs, queues, storing, workers,
};
use crate::{
    broker::{Broker, BrokerError, Bucket, Remark, RemarkKind},
    job::QueueName,
    plan::{Leader, WATERMARK_KEY, Watermark},
    run::WorkerStatus,
};

/// How far the watermark may be behind while beat is well: it is moved once a minute at least.
const WATERMARK: chrono::Duration = chrono::Duration::minutes(3);
/// The same while beat says that it is held up.
const HELD_UP: chrono::Duration = chrono::Duration::seconds(5);
/// How far ahead of this machine's clock beat's may be.
const CLOCKS: chrono::Duration = chrono::Duration::seconds(2);
/// A sign of life that is dated further ahead says nothing of how long beat has been silent.
const DATED_AHEAD: chrono::Duration = chrono::Duration::seconds(15);
/// A webhook that takes no messages for less is tried again, and nobody need look.
const WEBHOOKS: chrono::Duration = chrono::Duration::minutes(1);
/// Dead letters are counted up to here.
const LETTERS: usize = 1000;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it is.
    pub state: RemarkKind,
    /// What was found.
    pub message: String,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Finding {
    fn new(check: &'static str, state: RemarkKind, message: impl Into<String>) -> Self {
        Self {
            check,
            state,
            message: message.into(),
            help: None,
        }
    }

    pub(super) fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, RemarkKind::Ok, message)
    }

    pub(super) fn warning(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, RemarkKind::Warning, message)
    }

    pub(super) fn failed(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, RemarkKind::Failed, message)
    }

    pub(super) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl From<Remark> for Finding {
    fn from(remark: Remark) -> Self {
        Self {
            check: remark.check,
            state: remark.kind,
            message: remark.message,
            help: remark.help,
        }
    }
}

/// Looks at the broker, at beat, the schedules, the workers and the jobs. What may not be looked at is a finding, too.
///
/// # Errors
/// The broker cannot be reached.
pub async fn doctor(broker: &dyn Broker, now: DateTime<Utc>) -> Result<Vec<Finding>, OpsError> {
    let mut findings = vec![Finding::ok("broker", broker.describe())];
    let remarks = permitted(broker.remarks().await, &mut findings)?;
    findings.extend(remarks.into_iter().flatten().map(Finding::from));
    let jobs = permitted(jobs(broker, now).await, &mut findings)?;
    let workers = permitted(workers(broker).await, &mut findings)?;
    let queues = permitted(queues(broker, now).await, &mut findings)?;
    if let Some(jobs) = &jobs {
        let beat = beat(jobs, now);
        // One that gets on has just stored something itself.
        let is_late = |leader: &Leader| now - leader.renewed_at > HELD_UP;
        if jobs.beat.as_ref().is_some_and(is_late) {
            findings.extend(storing::probe(broker).await);
        }
        findings.push(beat);
        findings.extend(clocks(jobs, now));
        findings.extend(jobs.beat.iter().flat_map(|leader| webhooks(leader, now)));
    }
    let held_up = jobs
        .as_ref()
        .and_then(|jobs| jobs.beat.as_ref()?.held_up.as_ref());
    let patience = held_up.map_or(WATERMARK, |_| HELD_UP);
    let watermark = permitted(watermark(broker, patience, now).await, &mut findings)?;
    findings.extend(watermark);
    if let Some(jobs) = &jobs {
        findings.push(schedules(jobs));
        if let (Some(queues), Some(workers)) = (&queues, &workers) {
            findings.extend(serving(jobs, queues, workers));
        }
        let definitions = permitted(definitions(broker).await, &mut findings)?;
        findings.extend(definitions.into_iter().flatten());
        findings.extend(fates(&jobs.jobs));
    }
    let snapshots = permitted(storing::snapshots(broker).await, &mut findings)?;
    findings.extend(snapshots.flatten());
    let dead = permitted(dead(broker).await, &mut findings)?;
    findings.extend(dead.flatten());
    Ok(findings)
}

/// The value; `None` if this user may not ask for it, or if there is no room for the stream that would have it: both are
/// noted, and take nothing away from the rest.
fn permitted<T>(
    asked: Result<T, impl Into<OpsError>>,
    findings: &mut Vec<Finding>,
) -> Result<Option<T>, OpsError> {
    match asked.map_err(Into::into) {
        Ok(value) => Ok(Some(value)),
        Err(OpsError::Broker(refused @ BrokerError::NotPermitted { .. })) => {
            let help = "give this user the role of an operator or a viewer: deploy/nats-server.conf says what \
                belongs to it";
            findings.push(Finding::warning("permissions", refused.to_string()).with_help(help));
            Ok(None)
        }
        Err(OpsError::Broker(full @ BrokerError::Full { .. })) => {
            let help = "give the server's disk, its account or `max_file_store` more room: 2 GB beyond what runs and \
                records need, for dead letters and logs are kept in as much";
            findings.push(Finding::failed("room", full.to_string()).with_help(help));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn beat(jobs: &JobsView, now: DateTime<Utc>) -> Finding {
    const START: &str = "start `orchestrator beat`, or read the log of the one that runs";
    let Some(leader) = &jobs.beat else {
        let never = "the shared state names no beat that is at work: no tick becomes a run";
        return Finding::failed("beat", never).with_help(START);
    };
    // By the clocks of two machines, perhaps.
    let silent = (now - leader.renewed_at).to_std().unwrap_or_default();
    match (leader.stall(silent), &leader.beat, &leader.held_up) {
        (Some(stall), _, _) => Finding::failed("beat", stall.to_string()).with_help(START),
        (None, Some(_), Some(held_up)) => {
            Finding::failed("beat", held_up.to_string()).with_help(held_up.promise())
        }
        (None, Some(beat), None) if leader.renewed_at - now > DATED_AHEAD => {
            let message = format!(
                "{beat} was at work when its clock was ahead: whether it is now cannot be told"
            );
            Finding::warning("beat", message)
                .with_help("`orchestrator workers` warns if it is not; keep all machines on NTP")
        }
        (None, Some(beat), None) => Finding::ok("beat", format!("{beat} is at work")),
        (None, None, _) => Finding::warning("beat", "it has just been stopped").with_help(START),
    }
}

fn clocks(jobs: &JobsView, now: DateTime<Utc>) -> Option<Finding> {
    let ahead = jobs.beat.as_ref()?.renewed_at - now;
    if ahead < CLOCKS {
        return None;
    }
    let ahead = humantime::format_duration(ahead.to_std().ok()?);
    let message = format!("beat's clock is {ahead} ahead of this machine's");
    let help = "keep all machines on NTP: ticks and expiries go by their clocks";
    Some(Finding::warning("clock", message).with_help(help))
}

/// The webhooks that have taken no message for a while.
fn webhooks(leader: &Leader, now: DateTime<Utc>) -> Vec<Finding> {
    let failing = leader.failing_webhooks.iter();
    let failing = failing.filter(|failing| now - failing.since >= WEBHOOKS);
    let found = failing.map(|failing| {
        let (name, since) = (&failing.webhook, failing.since);
        let since = since.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let message = format!("`[notify.{name}]` has taken no message since {since}");
        Finding::warning("webhooks", message).with_help(
            "the log of beat says why: mend the receiver, or `url` and `secret` in the schedules; it is \
             told then how things stand, but for messages that it refused for good",
        )
    });
    found.collect()
}

async fn watermark(
    broker: &dyn Broker,
    patience: chrono::Duration,
    now: DateTime<Utc>,
) -> Result<Finding, BrokerError> {
    let entry = broker.get(Bucket::State, WATERMARK_KEY).await?;
    let known = entry.and_then(|entry| serde_json::from_slice::<Watermark>(&entry.value).ok());
    Ok(match known {
        None => Finding::warning("ticks", "nothing is known yet of any tick")
            .with_help("beat writes it down when it begins to lead: start `orchestrator beat`"),
        Some(watermark) if now - watermark.at > patience => {
            let at = watermark
                .at
                .to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
            Finding::failed("ticks", format!("those after {at} have no verdict yet"))
                .with_help("beat is down, or cannot publish: its log says why")
        }
        Some(_) => Finding::ok("ticks", "all have their verdicts"),
    })
}

fn schedules(jobs: &JobsView) -> Finding {
    let errors = jobs
        .reload
        .as_ref()
        .map_or(&[][..], |reload| &reload.errors);
    match errors.first() {
        None => Finding::ok("schedules", format!("{} jobs", jobs.jobs.len())),
        Some(first) => {
            let message = format!("they have errors; the set read before is in force: {first}");
            Finding::warning("schedules", message)
                .with_help("`orchestrator check` shows all errors with their places")
        }
    }
}

/// Whether somebody serves the queues that jobs are sent to.
fn serving(jobs: &JobsView, queues: &[QueueView], workers: &[WorkerStatus]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let live = workers.iter().filter(|worker| !worker.draining);
    let served: BTreeSet<QueueName> = live.flat_map(WorkerStatus::served).collect();
    let enabled = jobs.jobs.iter().filter(|job| job.enabled);
    let named: BTreeSet<&QueueName> = enabled.map(|job| &job.queue).collect();
    let waiting = |queue: &QueueName| {
        let view = queues.iter().find(|view| view.queue == *queue);
        view.map_or(0, |view| view.waiting)
    };
    for queue in named.into_iter().filter(|queue| !served.contains(queue)) {
        let help = format!("start `orchestrator worker --queue {queue}`");
        findings.push(match waiting(queue) {
            0 => {
                let message = format!("no worker serves `{queue}`, to which jobs are sent");
                Finding::warning("workers", message).with_help(help)
            }
            waiting => {
                let message = format!("no worker serves `{queue}`, where {waiting} runs wait");
                Finding::failed("workers", message).with_help(help)
            }
        });
    }
    if findings.is_empty() {
        let message = format!("{} serve every queue that jobs name", workers.len());
        findings.push(Finding::ok("workers", message));
    }
    // A beat that says itself that it is held up was found already.
    let is_held_up = jobs
        .beat
        .as_ref()
        .is_some_and(|beat| beat.held_up.is_some());
    let is_blind = |worker: &&WorkerStatus| worker.beat.stalled_for.is_some() && !is_held_up;
    for worker in workers.iter().filter(is_blind) {
        let message = format!("{} has not seen beat get on for a while", worker.id);
        let help = "the worker and beat may use different servers or namespaces";
        findings.push(Finding::warning("workers", message).with_help(help));
    }
    let paused = queues.iter().filter(|view| view.pause.is_some());
    findings.extend(paused.map(|view| {
        Finding::warning("queues", format!("`{}` is paused", view.queue)).with_help(format!(
            "`orchestrator resume --queue {}` ends it",
            view.queue
        ))
    }));
    findings
}

/// How the jobs fare.
fn fates(jobs: &[JobView]) -> Vec<Finding> {
    let late = jobs
        .iter()
        .filter_map(|job| Some((job, job.overdue_since?)));
    let overdue: Vec<_> = late
        .map(|(job, since)| {
            let since = since.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
            Finding::failed(
                "jobs",
                format!("`{}` should have succeeded by {since}", job.name),
            )
            .with_help(format!(
                "`orchestrator runs --job {}` shows its runs",
                job.name
            ))
        })
        .collect();
    if !overdue.is_empty() {
        return overdue;
    }
    let paused = jobs.iter().filter(|job| job.paused.is_some()).count();
    vec![Finding::ok(
        "jobs",
        format!("none is overdue, {paused} are paused"),
    )]
}

async fn dead(broker: &dyn Broker) -> Result<Option<Finding>, BrokerError> {
    let letters = broker.dead_letters(None, LETTERS).await?.len();
    if letters == 0 {
        return Ok(None);
    }
    let many = if letters == LETTERS { " or more" } else { "" };
    let message = format!("{letters}{many} wait for a decision");
    let help =
        "`orchestrator dead list --group` shows them; `dead retry` and `dead discard` decide";
    Ok(Some(
        Finding::warning("dead letters", message).with_help(help),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::FailingWebhook;

    fn leader(at: DateTime<Utc>, failing_webhooks: Vec<FailingWebhook>) -> Leader {
        Leader {
            beat: Some("b".to_owned()),
            home: None,
            since: at,
            renewed_at: at,
            turned_at: at,
            lease: crate::job::Seconds::from_secs(3),
            held_up: None,
            failing_webhooks,
        }
    }

    #[test]
    fn a_sign_of_life_of_a_time_to_come_proves_nothing() {
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        let leader = leader(at(3600), Vec::new());
        let jobs = JobsView {
            jobs: Vec::new(),
            reload: None,
            beat: Some(leader),
        };
        for (now, expected) in [
            (3000, RemarkKind::Warning),
            (3590, RemarkKind::Ok),
            (3600, RemarkKind::Ok),
            (3700, RemarkKind::Failed),
        ] {
            assert_eq!(beat(&jobs, at(now)).state, expected, "{now}");
        }
    }

    #[test]
    fn a_webhook_that_fails_for_a_while_is_named() {
        let at = |minute: u32| DateTime::from_timestamp(i64::from(minute) * 60, 0).unwrap();
        let failing = |name: &str, minute| FailingWebhook {
            webhook: name.parse().unwrap(),
            since: at(minute),
        };
        let leader = leader(at(10), vec![failing("ops", 9), failing("new", 10)]);
        let found = webhooks(&leader, at(10));
        let [finding] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(finding.state, RemarkKind::Warning);
        let said = "`[notify.ops]` has taken no message since 1970-01-01T00:09:00Z";
        assert_eq!(finding.message, said);
        assert!(finding.help.as_deref().unwrap().contains("log of beat"));
    }
}
