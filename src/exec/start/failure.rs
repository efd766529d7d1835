//! Why a child could not be started, and at which step: told through memory that it shares, or through a pipe.

use std::{io, os::fd::OwnedFd};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::retry_on_intr,
};

/// What a child tells that leads its group, before anything else.
pub(super) const LEADS: u64 = 0;

/// A step of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::exec) enum Step {
    /// Everything that comes before the others.
    Preparation,
    /// To become its user.
    User,
    /// To enter its directory.
    Directory,
    /// To execute its program.
    Program,
}

/// A start that failed.
#[derive(Debug)]
pub(in crate::exec) struct Failure {
    /// Where.
    pub(in crate::exec) step: Step,
    /// Why.
    pub(in crate::exec) error: io::Error,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self {
            step: Step::Preparation,
            error,
        }
    }
}

impl Step {
    /// The step with the number of an error, as a number that is not 0.
    pub(super) fn failed(self, error: i32) -> u64 {
        let step = match self {
            Self::Preparation => 1_u64,
            Self::User => 2,
            Self::Directory => 3,
            Self::Program => 4,
        };
        step << 32 | u64::from(error.unsigned_abs())
    }
}

impl Failure {
    /// What was told, if it is a failure.
    pub(super) fn told(number: u64) -> Option<Self> {
        let step = match number >> 32 {
            0 => return None,
            2 => Step::User,
            3 => Step::Directory,
            4 => Step::Program,
            _ => Step::Preparation,
        };
        let error = i32::try_from(number & u64::from(u32::MAX)).unwrap_or(0);
        Some(Self {
            step,
            error: io::Error::from_raw_os_error(error),
        })
    }
}

/// Waits for the first word of a child: that it leads its group, or why not. Nothing comes from one that was killed before.
pub(super) fn first(told: &OwnedFd) -> u64 {
    let mut word = LEADS.to_ne_bytes();
    match retry_on_intr(|| rustix::io::read(told, &mut word)) {
        Ok(_) => u64::from_ne_bytes(word),
        Err(error) => Step::Preparation.failed(error.raw_os_error()),
    }
}

/// Waits until a child that leads its group executes its program, or has told why it does not.
pub(in crate::exec) async fn heard(told: OwnedFd) -> Result<(), Failure> {
    let flags = fcntl_getfl(&told).map_err(io::Error::from)?;
    fcntl_setfl(&told, flags | OFlags::NONBLOCK).map_err(io::Error::from)?;
    let told = super::watch(told)?;
    let mut word = [0; size_of::<u64>()];
    loop {
        let mut ready = told.readable().await?;
        let read = ready.try_io(|told| Ok(rustix::io::read(told, &mut word)?));
        // Written at once, or not at all: then it was closed by the execution.
        match read {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(_)) => return Failure::told(u64::from_ne_bytes(word)).map_or(Ok(()), Err),
            Ok(Err(error)) => return Err(error.into()),
            Err(_would_block) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_told_is_understood() {
        for step in [
            Step::Preparation,
            Step::User,
            Step::Directory,
            Step::Program,
        ] {
            let failure = Failure::told(step.failed(libc::EACCES)).unwrap();
            assert_eq!(failure.step, step);
            assert_eq!(failure.error.raw_os_error(), Some(libc::EACCES));
        }
        assert!(Failure::told(0).is_none());
    }

    #[test]
    fn the_first_word_is_waited_for_and_no_more() {
        let (told, mut tell) = io::pipe().unwrap();
        let told = OwnedFd::from(told);
        let failed = Step::Preparation.failed(libc::EPERM);
        for word in [LEADS, failed] {
            tell.write_all(&word.to_ne_bytes()).unwrap();
        }
        assert_eq!(first(&told), LEADS);
        assert_eq!(first(&told), failed);
        drop(tell);
        let killed = first(&told);
        assert!(Failure::told(killed).is_none(), "its end tells of that");
    }

    #[tokio::test]
    async fn a_child_is_heard() {
        let (told, mut tell) = io::pipe().unwrap();
        let word = Step::User.failed(libc::EPERM).to_ne_bytes();
        tell.write_all(&word).unwrap();
        assert_eq!(heard(told.into()).await.unwrap_err().step, Step::User);
        let (told, tell) = io::pipe().unwrap();
        drop(tell);
        assert!(heard(told.into()).await.is_ok(), "it is executed");
    }
}
