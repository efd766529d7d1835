//! A stand-in for programs.

use std::fmt;

use async_trait::async_trait;

use super::{Ended, Execution, Limits, RunContext, Stop};
use crate::run::Exit;

/// Plays attempts that a worker would else execute.
///
/// Whoever plays keeps the bargain of [`Executor::execute`](super::Executor::execute): it returns when all
/// that it played has ended, ends it by `stop`, and ends it too when the future is dropped.
#[async_trait]
pub trait Player: fmt::Debug + Send + Sync {
    /// Plays one attempt to its end.
    async fn play(&self, context: &RunContext<'_>, limits: Limits, stop: &Stop) -> Execution;
}

/// Does nothing: every attempt succeeds at once.
#[derive(Debug)]
pub struct Idle;

#[async_trait]
impl Player for Idle {
    async fn play(&self, _: &RunContext<'_>, _: Limits, _: &Stop) -> Execution {
        Execution {
            ended: Ended::ByItself,
            exit: Exit::Code(0),
            result: None,
        }
    }
}
