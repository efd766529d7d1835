//! What is due and what becomes of it: a function of (definitions, state, now). Pure: no I/O, no
//! clock, no async; years of schedule take milliseconds.
//!
//! Beat keeps one watermark W: every tick at or before W has its verdict. A [`Step`] covers
//! `(W, W']`; carrying it out twice is harmless, because run ids are a function of job and tick.

mod alerts;
mod bring_back;
mod catch_up;
mod edited;
mod leader;
mod ledger;
mod load;
mod pause;
mod shared;
mod simulate;
mod state;
mod succession;
mod timeline;
mod undecided;
mod watermark;

pub use alerts::{Alert, Briefing, Standing, TOLD_PREFIX, Told};
pub use catch_up::{Decision, ON_TIME, Span, Unfired, decide, is_too_late};
pub use leader::{Candidacy, FailingWebhook, HeldUp, LEADER_KEY, Leader, Stall, Vigil};
pub use ledger::{Ledger, SkipReason, Verdict, VerdictNote};
pub use load::{Load, LoadRow};
pub use pause::{MakeUp, PAUSE_PREFIX, Pause, QUEUE_PAUSE_PREFIX, Skipper};
pub use shared::{
    COPY_KEY, DEFINITION_PREFIX, Differing, FailingSnapshots, IMPORTED_PREFIX, INSTALLATION_KEY,
    JOB_STATE_PREFIX, KeptCopy, RELOAD_KEY, ReloadStatus, SNAPSHOTS_KEY, WATERMARK_KEY,
};
pub use simulate::{Downtime, Scenario, SimulatedTick, simulate};
pub use state::JobState;
pub use timeline::{JobStep, Scheduled, Step, Timeline};
pub use undecided::{Gap, Undecided};
pub use watermark::{CLOCK_SLACK, CLOCK_STEP_LIMIT, Move, Watermark, next_move, outlives};
