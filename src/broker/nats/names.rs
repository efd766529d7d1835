//! The names in NATS, from the namespace. Pure.

use crate::{
    broker::{Bucket, Lifetime, Slot},
    job::QueueName,
    run::RunId,
};

/// The last token of the subject of a job whose runs may not overlap.
const JOB_SLOT: &str = "slot";
const NEXT_SLOT: &str = "next";

/// Names everything of one installation.
#[derive(Debug, Clone)]
pub(super) struct Names {
    lower: String,
    upper: String,
}

impl Names {
    pub(super) fn new(namespace: &str) -> Self {
        Self {
            lower: namespace.to_owned(),
            upper: namespace.to_uppercase(),
        }
    }

    pub(super) fn jobs_stream(&self) -> String {
        format!("{}_JOBS", self.upper)
    }

    pub(super) fn logs_stream(&self) -> String {
        format!("{}_LOGS", self.upper)
    }

    pub(super) fn dead_stream(&self) -> String {
        format!("{}_DEAD", self.upper)
    }

    pub(super) fn bucket_stream(&self, bucket: Bucket) -> String {
        format!("KV_{}", self.bucket(bucket))
    }

    fn bucket(&self, bucket: Bucket) -> String {
        let name = match bucket {
            Bucket::State => "STATE",
            Bucket::Runs => "RUNS",
            Bucket::Locks => "LOCKS",
            Bucket::Unique(Lifetime::Hour) => "UNIQUE_HOUR",
            Bucket::Unique(Lifetime::Day) => "UNIQUE_DAY",
            Bucket::Unique(Lifetime::Week) => "UNIQUE_WEEK",
            Bucket::Unique(Lifetime::Month) => "UNIQUE_MONTH",
            Bucket::Workers => "WORKERS",
        };
        format!("{}_{name}", self.upper)
    }

    /// The subject of a key; with a key of `>`, of all.
    pub(super) fn key(&self, bucket: Bucket, key: &str) -> String {
        format!("{}{key}", self.key_prefix(bucket))
    }

    pub(super) fn key_prefix(&self, bucket: Bucket) -> String {
        format!("$KV.{}.", self.bucket(bucket))
    }

    pub(super) fn all_jobs(&self) -> String {
        format!("{}.jobs.>", self.lower)
    }

    pub(super) fn queue(&self, queue: &QueueName) -> String {
        format!("{}.jobs.{queue}.>", self.lower)
    }

    pub(super) fn run(&self, queue: &QueueName, run_id: &RunId, slot: Slot) -> String {
        let prefix = format!("{}.jobs.{queue}.{}", self.lower, run_id.job());
        match slot {
            Slot::Job => format!("{prefix}.{JOB_SLOT}"),
            Slot::Next => format!("{prefix}.{NEXT_SLOT}"),
            // Not the whole id: servers before 2.11 cut a subject at an `@` on its way through a cluster.
            Slot::Run => format!("{}.jobs.{queue}.{}", self.lower, run_id.key()),
        }
    }

    /// The queue that a job's subject names.
    pub(super) fn queue_of(&self, subject: &str) -> Option<QueueName> {
        let rest = subject.strip_prefix(&self.lower)?.strip_prefix(".jobs.")?;
        rest.split('.').next()?.parse().ok()
    }

    pub(super) fn all_logs(&self) -> String {
        format!("{}.logs.>", self.lower)
    }

    pub(super) fn log(&self, run_id: &RunId) -> String {
        format!("{}.logs.{}", self.lower, run_id.key())
    }

    pub(super) fn all_dead(&self) -> String {
        format!("{}.dead.>", self.lower)
    }

    pub(super) fn dead(&self, queue: &QueueName) -> String {
        format!("{}.dead.{queue}", self.lower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_namespace() {
        let names = Names::new("orch");
        let (queue, run): (QueueName, RunId) = (
            "high".parse().unwrap(),
            "crawl@20261123T023000Z".parse().unwrap(),
        );
        assert_eq!(names.jobs_stream(), "ORCH_JOBS");
        assert_eq!(
            names.run(&queue, &run, Slot::Job),
            "orch.jobs.high.crawl.slot"
        );
        assert_eq!(
            names.run(&queue, &run, Slot::Next),
            "orch.jobs.high.crawl.next"
        );
        let subject = names.run(&queue, &run, Slot::Run);
        assert_eq!(subject, "orch.jobs.high.crawl.20261123T023000Z");
        assert_eq!(names.queue_of(&subject), Some(queue));
        assert_eq!(names.queue_of("other.jobs.high.x.slot"), None);
        assert_eq!(names.key(Bucket::Runs, "a.b"), "$KV.ORCH_RUNS.a.b");
    }
}
