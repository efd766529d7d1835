//! The words that keys with a choice take.

use crate::job::{
    Anchor, CatchUp, Event, FirstRun, Holds, LeaseLoss, Overlap,
    cron::{DstGap, DstRepeat},
};

pub(super) const DST_GAP: [(&str, DstGap); 2] =
    [("run_after", DstGap::RunAfter), ("skip", DstGap::Skip)];
pub(super) const DST_REPEAT: [(&str, DstRepeat); 2] =
    [("once", DstRepeat::Once), ("twice", DstRepeat::Twice)];
pub(super) const FIRST_RUN: [(&str, FirstRun); 2] =
    [("next", FirstRun::Next), ("now", FirstRun::Now)];
pub(super) const CATCH_UP: [(&str, CatchUp); 3] = [
    ("skip", CatchUp::Skip),
    ("latest", CatchUp::Latest),
    ("all", CatchUp::All),
];
pub(super) const OVERLAP: [(&str, Overlap); 4] = [
    ("skip", Overlap::Skip),
    ("queue", Overlap::Queue),
    ("allow", Overlap::Allow),
    ("replace", Overlap::Replace),
];
pub(super) const LEASE_LOSS: [(&str, LeaseLoss); 2] =
    [("continue", LeaseLoss::Continue), ("stop", LeaseLoss::Stop)];
pub(super) const HOLDS: [(&str, Holds); 3] = [
    ("queued", Holds::Queued),
    ("running", Holds::Running),
    ("finished", Holds::Finished),
];
pub(super) const EVENT: [(&str, Event); 6] = [
    ("failed", Event::Failed),
    ("dead", Event::Dead),
    ("missed", Event::Missed),
    ("paused", Event::Paused),
    ("overdue", Event::Overdue),
    ("recovered", Event::Recovered),
];
pub(super) const ANCHOR: [(&str, Anchor); 3] = [
    ("epoch", Anchor::Epoch),
    ("last_success", Anchor::LastSuccess),
    ("last_start", Anchor::LastStart),
];
