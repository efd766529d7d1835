//! What becomes of a tick that is late, or that meets a run of its own job.

use serde::{Deserialize, Serialize};

use super::{Active, Blackout, Seconds};

/// How ticks turn into runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// When a job that was never seen before runs for the first time.
    pub first_run: FirstRun,
    /// Which of several overdue ticks are run.
    pub catch_up: CatchUp,
    /// Ticks older than this are missed, whatever `catch_up` says.
    pub catch_up_window: Seconds,
    /// At most so many overdue ticks are run under [`CatchUp::All`]; the newest win.
    pub max_catch_up: u32,
    /// What happens to a tick while a run of its job is queued, running or waiting for a retry.
    pub overlap: Overlap,
    /// A run that was not started by so long after its tick, jitter included, ends as expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Seconds>,
    /// The job is overdue if it has not succeeded for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_if_no_success_for: Option<Seconds>,
    /// Runs start up to so long after their ticks, each job and tick by its own delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Seconds>,
    /// From when to when the job has ticks.
    #[serde(default, skip_serializing_if = "Active::is_always")]
    pub active: Active,
    /// When the job does not run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blackouts: Vec<Blackout>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            first_run: FirstRun::Next,
            catch_up: CatchUp::Latest,
            catch_up_window: Seconds::from_secs(3600),
            max_catch_up: 100,
            overlap: Overlap::Skip,
            expires: None,
            alert_if_no_success_for: None,
            jitter: None,
            active: Active::default(),
            blackouts: Vec::new(),
        }
    }
}

/// When a job that was never seen before runs for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstRun {
    /// At once, then by its trigger.
    Now,
    /// At the first tick of its trigger.
    Next,
}

/// Which of several overdue ticks of one job are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// None: a tick that could not be run on time is missed.
    Skip,
    /// The newest one; the others are coalesced into it.
    Latest,
    /// All, oldest first, up to `max_catch_up`.
    All,
}

/// What happens to a tick while a run of its job is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The tick is skipped; the broker refuses the second run.
    Skip,
    /// One run waits until the live one has ended; with one waiting, the tick is skipped.
    Queue,
    /// Both run.
    Allow,
    /// The live run is cancelled, and the new one starts when it has ended.
    Replace,
}

impl Overlap {
    /// Whether a worker has to let the job's older runs end first.
    pub fn waits(self) -> bool {
        match self {
            Self::Queue | Self::Replace => true,
            Self::Skip | Self::Allow => false,
        }
    }
}
