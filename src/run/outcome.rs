//! How an attempt ended, and what follows from it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::RunState;
use crate::job::{Failure, RetryPolicy, RunSpec, Seconds, SignalName};

/// How the program of an attempt ended, as the operating system tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// The kernel ended it for lack of memory; with the limit in bytes if the job has one.
    OutOfMemory(Option<u64>),
    /// It could not be started; the reason names program and mend.
    NotStarted(String),
    /// A request was answered with this status.
    Status(u16),
    /// A request was not answered, or not as expected; the reason says why.
    Failed(String),
}

/// Why an attempt ended, seen by the worker that held it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// By itself.
    Exited(Exit),
    /// It took longer than `timeout` and was ended.
    TimedOut(Exit),
    /// Somebody cancelled the run.
    Cancelled(Exit),
    /// The worker is stopping and hands the run back: no attempt is used up.
    HandedBack,
}

/// What becomes of a run after an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// The run is over in this state.
    Final(RunState),
    /// The next attempt follows after this delay.
    Retry(Duration),
    /// Another worker may take it at once; the attempt does not count.
    Release,
}

/// What the delay before the next attempt depends on, beside the policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// In `0.0..1.0`; places the delay within the policy's jitter.
    pub seed: f64,
    /// What the attempt itself asked for, in place of the policy's delay.
    pub retry_after: Option<Duration>,
}

/// The longest delay that an attempt may ask for.
pub(super) const LONGEST_WISH: Duration = Duration::from_secs(24 * 3600);

/// The delay that a job asks for in its result: `{"retry_after": 90}` in seconds, or
/// `{"retry_after": "1m 30s"}`. At most a day; anything else is no wish.
pub fn retry_after(result: &serde_json::Value) -> Option<Duration> {
    let wish = match result.get("retry_after")? {
        serde_json::Value::Number(seconds) => {
            Duration::try_from_secs_f64(seconds.as_f64()?).ok()?
        }
        serde_json::Value::String(text) => text.parse::<Seconds>().ok()?.get(),
        _ => return None,
    };
    Some(wish.min(LONGEST_WISH))
}

/// Decides what follows from an attempt. `attempt` counts from 1.
///
/// A run whose policy allows further attempts, and which used them all up, is dead: somebody has
/// to decide. A failure that the policy does not retry at all is just failed.
pub fn dispose(spec: &RunSpec, attempt: u32, ending: &Ending, timing: Timing) -> Disposition {
    let failure = match ending {
        Ending::HandedBack => return Disposition::Release,
        Ending::Cancelled(_) => return Disposition::Final(RunState::Cancelled),
        Ending::Exited(Exit::Code(code)) if spec.success_exit.codes().contains(code) => {
            return Disposition::Final(RunState::Succeeded);
        }
        Ending::Exited(Exit::Status(status)) if spec.expects(*status) => {
            return Disposition::Final(RunState::Succeeded);
        }
        Ending::Exited(Exit::Code(code)) => Failure::Exit(*code),
        Ending::Exited(Exit::Status(status)) => Failure::Status(*status),
        Ending::Exited(
            Exit::Signal(_) | Exit::OutOfMemory(_) | Exit::NotStarted(_) | Exit::Failed(_),
        )
        | Ending::TimedOut(_) => Failure::Other,
    };
    after_failure(&spec.retry, attempt, failure, timing)
}

fn after_failure(
    retry: &RetryPolicy,
    attempt: u32,
    failure: Failure,
    timing: Timing,
) -> Disposition {
    if retry.attempts <= 1 || !retry.covers(failure) {
        Disposition::Final(RunState::Failed)
    } else if attempt >= retry.attempts {
        Disposition::Final(RunState::Dead)
    } else {
        let delay = || retry.delay(attempt, timing.seed);
        Disposition::Retry(timing.retry_after.unwrap_or_else(delay))
    }
}

impl Exit {
    /// The exit code, if there is one.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(*code),
            Self::Signal(_)
            | Self::OutOfMemory(_)
            | Self::NotStarted(_)
            | Self::Status(_)
            | Self::Failed(_) => None,
        }
    }

    /// The exit in a few words: `exit 2`, `signal 9 (SIGKILL)`, `not started: …`.
    pub fn summary(&self) -> String {
        match self {
            Self::Code(code) => format!("exit {code}"),
            Self::Signal(number) => match signal_name(*number) {
                Some(name) => format!("signal {number} ({name})"),
                None => format!("signal {number}"),
            },
            Self::OutOfMemory(Some(limit)) => {
                format!("out of memory: it needed more than {}", bytes(*limit))
            }
            Self::OutOfMemory(None) => {
                "out of memory: the machine had no more; give the job `limits`".to_owned()
            }
            Self::NotStarted(reason) => format!("not started: {reason}"),
            Self::Status(status) => format!("status {status}"),
            Self::Failed(reason) => reason.clone(),
        }
    }
}

/// A size in the largest unit in which it is a whole number.
fn bytes(size: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units
        .iter()
        .find(|(bits, _)| size > 0 && size.trailing_zeros() >= *bits);
    match whole {
        Some((bits, unit)) => format!("{} {unit}", size >> bits),
        None => format!("{size} bytes"),
    }
}

/// The name of a signal number on Linux, for the signals that end jobs in practice.
fn signal_name(number: i32) -> Option<String> {
    let asked_for = [
        (15, SignalName::Term),
        (2, SignalName::Int),
        (1, SignalName::Hup),
        (3, SignalName::Quit),
        (10, SignalName::Usr1),
        (12, SignalName::Usr2),
        (9, SignalName::Kill),
    ];
    let others = [
        (6, "SIGABRT"),
        (11, "SIGSEGV"),
        (13, "SIGPIPE"),
        (7, "SIGBUS"),
    ];
    asked_for
        .iter()
        .find(|(n, _)| *n == number)
        .map(|(_, name)| name.to_string())
        .or_else(|| {
            let found = others.iter().find(|(n, _)| *n == number);
            found.map(|(_, name)| (*name).to_owned())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Execute;

    fn spec(attempts: u32) -> RunSpec {
        let mut spec = RunSpec::new(Execute::Shell("true".to_owned()));
        spec.retry = RetryPolicy {
            attempts,
            not_on_exit: vec![2],
            backoff: crate::job::Backoff::Fixed(Seconds::from_secs(5)),
            ..RetryPolicy::default()
        };
        spec
    }

    const TIMING: Timing = Timing {
        seed: 0.5,
        retry_after: None,
    };

    #[test]
    fn a_job_may_ask_for_its_own_delay() {
        let wish = |text: &str| retry_after(&serde_json::from_str(text).unwrap());
        let seconds = |n| Some(Duration::from_secs(n));
        for (text, expected) in [
            (r#"{"retry_after": 90}"#, seconds(90)),
            (r#"{"retry_after": 0.5}"#, Some(Duration::from_millis(500))),
            (r#"{"retry_after": "1m 30s"}"#, seconds(90)),
            (r#"{"retry_after": 1e9}"#, seconds(86_400)),
            (r#"{"retry_after": -1}"#, None),
            (r#"{"retry_after": "soon"}"#, None),
            (r#"{"retry_after": null}"#, None),
            ("[1]", None),
            ("3", None),
        ] {
            assert_eq!(wish(text), expected, "{text}");
        }
        let timing = Timing {
            retry_after: seconds(42),
            ..TIMING
        };
        let decided = |attempt| dispose(&spec(3), attempt, &exited(1), timing);
        assert_eq!(decided(1), Disposition::Retry(Duration::from_secs(42)));
        assert_eq!(decided(3), Disposition::Final(RunState::Dead));
    }

    fn exited(code: i32) -> Ending {
        Ending::Exited(Exit::Code(code))
    }

    #[test]
    fn every_ending_has_one_consequence() {
        use Disposition::{Final, Release, Retry};
        let five = Duration::from_secs(5);
        let table = [
            (1, 1, exited(0), Final(RunState::Succeeded)),
            (1, 1, exited(1), Final(RunState::Failed)),
            (3, 1, exited(1), Retry(five)),
            (3, 3, exited(1), Final(RunState::Dead)),
            (3, 1, exited(2), Final(RunState::Failed)),
            (3, 2, Ending::TimedOut(Exit::Signal(15)), Retry(five)),
            (3, 2, Ending::TimedOut(Exit::Code(0)), Retry(five)),
            (
                3,
                1,
                Ending::Cancelled(Exit::Signal(15)),
                Final(RunState::Cancelled),
            ),
            (3, 3, Ending::HandedBack, Release),
            (
                1,
                1,
                Ending::Exited(Exit::Signal(9)),
                Final(RunState::Failed),
            ),
        ];
        for (attempts, attempt, ending, expected) in table {
            let decided = dispose(&spec(attempts), attempt, &ending, TIMING);
            assert_eq!(decided, expected, "{ending:?} at {attempt}/{attempts}");
        }
    }
}
