//! What ends a command: an exit code, a message that names the thing and the place, and the mend.

use std::{fmt, process::ExitCode};

use crate::{broker::BrokerError, ops::OpsError};

/// The exit codes that scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The operation failed.
    Failed,
    /// The command line is wrong.
    Usage,
    /// Schedule files have errors.
    InvalidSchedules,
    /// No such job, run or file.
    NotFound,
    /// No broker answers.
    Unreachable,
    /// Not allowed.
    NotPermitted,
    /// Somebody else holds or changed it.
    Conflict,
    /// Waited for too long.
    TimedOut,
    /// The job's own code, under `--propagate-exit`.
    Propagated(u8),
}

impl Exit {
    /// The number that the process ends with.
    pub fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::InvalidSchedules => 3,
            Self::NotFound => 4,
            Self::Unreachable => 5,
            Self::NotPermitted => 6,
            Self::Conflict => 7,
            Self::TimedOut => 8,
            Self::Propagated(code) => code,
        }
    }
}

/// Why a command ends without success.
#[derive(Debug)]
pub struct CliError {
    exit: Exit,
    message: String,
    help: Option<String>,
}

impl CliError {
    /// An error with its exit code.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
            help: None,
        }
    }

    /// An exit code for which everything has been said already.
    pub fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// Adds how to mend it.
    #[must_use]
    pub fn with_help(mut self, help: impl fmt::Display) -> Self {
        self.help = Some(help.to_string());
        self
    }

    /// Prints the error and gives the exit code of the process.
    pub fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            let (red, reset) = super::output::paint_error();
            let message = super::terminal::harmless(&self.message);
            super::output::to_stderr_as_it_is(&format!("{red}error:{reset} {message}"));
            if let Some(help) = &self.help {
                super::output::to_stderr(&format!(" help: {help}"));
            }
        }
        ExitCode::from(self.exit.code())
    }
}

/// On one line, for a log.
impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<BrokerError> for CliError {
    fn from(error: BrokerError) -> Self {
        let help = match (&error, error.help()) {
            (BrokerError::Full { .. }, Some(help)) => {
                Some(format!("nothing was stored: try again later, or {help}"))
            }
            (_, help) => help.map(|help| help.to_string()),
        };
        Self {
            help,
            ..Self::new(exit_of_a_broker(&error), &error)
        }
    }
}

fn exit_of_a_broker(error: &BrokerError) -> Exit {
    match error {
        BrokerError::Unreachable { .. } => Exit::Unreachable,
        BrokerError::NotPermitted { .. } => Exit::NotPermitted,
        BrokerError::Full { .. } | BrokerError::Failed { .. } => Exit::Failed,
    }
}

impl From<OpsError> for CliError {
    fn from(error: OpsError) -> Self {
        let error = match error {
            OpsError::Broker(error) => return error.into(),
            error => error,
        };
        Self {
            help: help(&error),
            ..Self::new(exit(&error), &error)
        }
    }
}

fn exit(error: &OpsError) -> Exit {
    match error {
        OpsError::Broker(error) => exit_of_a_broker(error),
        OpsError::UnknownJob { .. }
        | OpsError::UnknownRun(_)
        | OpsError::NoTick { .. }
        | OpsError::NotHeld(_) => Exit::NotFound,
        OpsError::Refused { .. }
        | OpsError::NeedsSignature(_)
        | OpsError::OfAnotherRun(..)
        | OpsError::SignedLongAgo(_)
        | OpsError::NotVouchedFor(_)
        | OpsError::DefinitionNotVouchedFor { .. }
        | OpsError::Copy(_) => Exit::NotPermitted,
        OpsError::Overlap { .. }
        | OpsError::OneAtATime(_)
        | OpsError::NotEmpty { .. }
        | OpsError::BeatAtWork { .. }
        | OpsError::NotPaused(_)
        | OpsError::Ended { .. }
        | OpsError::Contended(_)
        | OpsError::StillLive { .. } => Exit::Conflict,
        OpsError::MissingArgument { .. } => Exit::Usage,
        OpsError::Message(_) | OpsError::Foreign { .. } => Exit::Failed,
        OpsError::TimedOut { .. } => Exit::TimedOut,
    }
}

/// What is to be done, where the error does not say so itself.
fn help(error: &OpsError) -> Option<String> {
    let fixed = match error {
        OpsError::UnknownJob {
            nearest: Some(nearest),
            ..
        } => return Some(format!("is `{nearest}` meant?")),
        OpsError::NoTick { next, .. } => {
            let next = next.as_ref()?;
            let next = next.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
            return Some(format!("the next one after it is {next}"));
        }
        OpsError::MissingArgument { argument, .. } => {
            return Some(format!(
                "give it with --arg {argument}=VALUE, or in the job's `args`"
            ));
        }
        OpsError::UnknownJob { nearest: None, .. } => {
            "`orchestrator jobs` lists what a beat has shared"
        }
        OpsError::UnknownRun(_) => {
            "`orchestrator runs` lists them; records are kept for seven days"
        }
        OpsError::Refused { .. } => "it is a dead letter: `orchestrator dead list` has it",
        OpsError::Overlap { .. } => {
            "its runs may not overlap; wait for it, cancel it, or set overlap = \"allow\""
        }
        OpsError::OneAtATime(_) => "set overlap = \"allow\" in the job",
        OpsError::DefinitionNotVouchedFor { .. } => {
            "let beat sign (`beat --signing-key`) and name its public key with --trusted-keys; if both is so, somebody \
             else wrote the definition: `orchestrator diff DIR`, with the directory of the schedules, shows what, and \
             beat writes it anew when it starts or reloads"
        }
        OpsError::NotEmpty { .. } => "use another --namespace, or --replace to replace its values",
        OpsError::BeatAtWork { .. } => {
            "stop all beats, or `up`, first; a beat that was killed counts as gone when its --leader-lease is over"
        }
        OpsError::NotHeld(_) => "`orchestrator locks` shows what is held",
        OpsError::NotPaused(_) => "`orchestrator jobs` and `queues` show what is",
        OpsError::StillLive { .. } => "cancel it first, or wait for its end",
        OpsError::TimedOut { .. } => "it goes on; `orchestrator show` tells how it ends",
        OpsError::Broker(_)
        | OpsError::Ended { .. }
        | OpsError::Contended(_)
        | OpsError::NeedsSignature(_)
        | OpsError::OfAnotherRun(..)
        | OpsError::SignedLongAgo(_)
        | OpsError::NotVouchedFor(_)
        | OpsError::Copy(_)
        | OpsError::Message(_)
        | OpsError::Foreign { .. } => return None,
    };
    Some(fixed.to_owned())
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            // Whoever read our output has seen enough.
            std::io::ErrorKind::BrokenPipe => Self::silent(Exit::Propagated(0)),
            _ => Self::new(Exit::Failed, format!("input or output failed: {error}")),
        }
    }
}

/// Prints what clap has to say; help and version are no errors.
pub(super) fn report_usage(error: &clap::Error) -> ExitCode {
    if error.exit_code() == 0 {
        // Nothing can be done about a closed standard output.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    // It quotes arguments as they are. The options that say whether it is coloured may be what is wrong.
    super::output::set_color(super::globals::Color::Auto);
    let colored = super::output::stderr_is_colored();
    let text = match colored {
        true => error.render().ansi().to_string(),
        false => error.render().to_string(),
    };
    let mut shown = super::terminal::Shown::new(colored);
    let mut bytes = shown.piece(text.as_bytes());
    bytes.extend(shown.end());
    super::output::to_stderr_as_it_is(String::from_utf8_lossy(&bytes).trim_end());
    ExitCode::from(Exit::Usage.code())
}
