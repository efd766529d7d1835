//! One request to execute a job: its id, its message, its record and what may become of it.
//! Pure: no I/O, no clock, no async.

mod claim;
mod dates;
mod depth;
mod id;
mod last;
mod message;
mod outcome;
mod permit;
mod policy;
mod record;
mod signature;
mod state;
mod status;

pub use claim::{Claim, ClaimRefused, Claimant};
pub use depth::{DEEPEST, is_shallow};
pub use id::{RunId, RunIdError};
pub use last::{LAST_RUN_PREFIX, LastRun, LastSuccess, Past, latest};
pub use message::{Malformed, RunMessage, RunRequest, VERSION, time};
pub use outcome::{Disposition, Ending, Exit, Timing, dispose, retry_after};
pub use permit::{By, Holder, Pace, Places, Wish, grace, is_gone};
pub use policy::{Found, Hidden, Violation, WorkerPolicy};
pub use record::{Attempt, AttemptEnd, DeliveryMark, RunRecord, Waiting, WaitingFor};
pub use signature::{
    Authority, KeyError, KeyId, Keyring, KeyringError, PublicKey, Refusal, SIGNATURE_HEADER,
    SIGNED_FOR, Signer, Standing, good_until,
};
pub use state::RunState;
pub use status::{BeatSeen, CANCEL_PREFIX, WorkerStatus};
