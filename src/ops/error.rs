//! Why a question could not be answered or a wish not carried out.

use thiserror::Error;

use crate::{
    broker::BrokerError,
    job::JobName,
    run::{RunId, RunState},
};

/// Why a question could not be answered or a wish not carried out.
#[derive(Debug, Error)]
pub enum OpsError {
    /// The broker did not do its part.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// No such job; `nearest` is the most similar name.
    #[error("there is no job `{job}`")]
    UnknownJob {
        /// What was asked for.
        job: JobName,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// No record, and not waiting either.
    #[error("there is no run `{0}`")]
    UnknownRun(RunId),
    /// No worker executed it, because of its signature.
    #[error("the run `{run}` was refused: {reason}")]
    Refused {
        /// The run.
        run: RunId,
        /// Why.
        reason: String,
    },
    /// It would be mixed with another installation's.
    #[error("{broker} has a state already")]
    NotEmpty {
        /// Where it was to go.
        broker: String,
    },
    /// What is put in beside it would be mixed with what it decides.
    #[error("the beat {beat} is at work on {broker}")]
    BeatAtWork {
        /// Its id.
        beat: String,
        /// Where.
        broker: String,
    },
    /// There is nothing to release.
    #[error("nobody holds `{0}`")]
    NotHeld(String),
    /// There is nothing to resume.
    #[error("`{0}` is not paused")]
    NotPaused(String),
    /// The job does not come due then; `next` is its first tick after it.
    #[error("`{job}` has no tick at {}", .at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))]
    NoTick {
        /// The job.
        job: JobName,
        /// What was asked for.
        at: chrono::DateTime<chrono::Utc>,
        /// The first tick after it.
        next: Option<chrono::DateTime<chrono::Utc>>,
    },
    /// The slot of the job is occupied.
    #[error("a run of `{job}` is live already: {live}")]
    Overlap {
        /// The job.
        job: JobName,
        /// The run in the way.
        live: RunId,
    },
    /// Many runs at once were asked for.
    #[error("the runs of `{0}` may not overlap, so only one is accepted at a time")]
    OneAtATime(JobName),
    /// The run cannot be changed any more.
    #[error("the run `{run}` has ended as {state}")]
    Ended {
        /// The run.
        run: RunId,
        /// Its state.
        state: RunState,
    },
    /// The run has not ended yet.
    #[error("the run `{run}` is still {state}")]
    StillLive {
        /// The run.
        run: RunId,
        /// Its state.
        state: RunState,
    },
    /// A letter that was refused because of its signature, and nobody signs it now.
    #[error(
        "its message was refused because of its signature, and there is no key to sign it anew: look at it with \
             `orchestrator dead show {0}`, then retry it by that number with --signing-key"
    )]
    NeedsSignature(u64),
    /// A letter without a signature of somebody who may publish.
    #[error(
        "its message bears no signature that is trusted here: look at it with `orchestrator dead show {0}`, then \
             retry it by that number, or name the keys of its publishers with --trusted-keys"
    )]
    NotVouchedFor(u64),
    /// Who signs a run vouches for what the definition of its job says.
    #[error(
        "the definition of `{job}` is not vouched for, and would be signed with the run: {reason}"
    )]
    DefinitionNotVouchedFor {
        /// The job.
        job: JobName,
        /// What is wrong with its signature.
        reason: String,
    },
    /// A letter that names another run than its message.
    #[error(
        "its message is that of another run, {1}: look at it with `orchestrator dead show {0}`, then discard it, or retry it by that number"
    )]
    OfAnotherRun(u64, RunId),
    /// A letter of which nobody knows any more whether its run was executed.
    #[error(
        "its message was signed so long ago that it is not known any more whether it has run: look at it with `orchestrator \
         dead show {0}`, then retry it by that number"
    )]
    SignedLongAgo(u64),
    /// A dead letter whose run was executed.
    #[error(
        "its message is a copy of one that was executed: look at it with `orchestrator dead show {0}`, then discard it, or \
             retry it by that number"
    )]
    Copy(u64),
    /// An argument that the command needs.
    #[error("the job `{job}` needs the argument `{argument}`")]
    MissingArgument {
        /// The job.
        job: JobName,
        /// The name of the argument.
        argument: String,
    },
    /// The message cannot be made.
    #[error("the run cannot be published: {0}")]
    Message(#[from] crate::run::Malformed),
    /// Not there in time.
    #[error("the run `{run}` is still {state} after {waited:?}")]
    TimedOut {
        /// The run.
        run: RunId,
        /// Its state.
        state: RunState,
        /// How long it was waited for.
        waited: std::time::Duration,
    },
    /// Changed by others again and again.
    #[error("the record of `{0}` kept changing; try again")]
    Contended(RunId),
    /// A shared value that this build does not understand.
    #[error("the shared {what} is not understood: {reason}")]
    Foreign {
        /// What it is.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}
