//! A world that a test governs: its own time, its own chance, and machines in it that stand still.
//!
//! What runs [`within`] a world reads the world's clocks in place of the machine's. Each simulated machine
//! has a world of its own, so that their clocks may differ; tasks that are spawned inside inherit it by
//! [`super::same`]. Compiled only with the feature `simulation`.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

/// What a simulated machine reads and draws.
pub trait World: Send + Sync {
    /// See [`super::now`].
    fn now(&self) -> DateTime<Utc>;
    /// See [`super::monotonic`].
    fn monotonic(&self) -> Instant;
    /// See [`super::uptime`].
    fn uptime(&self) -> Duration;
    /// Any number.
    fn random(&self) -> u64;
    /// Whether the machine is frozen. If it is, the task is woken when that is over.
    fn stands_still(&self, context: &Context<'_>) -> bool;
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn World>>> = const { RefCell::new(None) };
}

/// Asks the world in which the caller runs, if it runs in one.
pub(crate) fn ask<T>(question: impl FnOnce(&dyn World) -> T) -> Option<T> {
    CURRENT.with_borrow(|current| current.as_deref().map(question))
}

/// The world in which the caller runs.
pub(super) fn current() -> Option<Arc<dyn World>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Runs `future` in `world`.
pub fn within<F: Future>(world: Arc<dyn World>, future: F) -> Within<F> {
    Within {
        world: Some(world),
        future: Box::pin(future),
    }
}

/// A future that runs in a world; see [`within`].
pub struct Within<F> {
    /// `None`: on the real machine.
    pub(super) world: Option<Arc<dyn World>>,
    pub(super) future: Pin<Box<F>>,
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(world) = &self.world else {
            return self.future.as_mut().poll(context);
        };
        if world.stands_still(context) {
            return Poll::Pending;
        }
        let before = CURRENT.replace(Some(Arc::clone(world)));
        let _back = Back(before);
        self.future.as_mut().poll(context)
    }
}

/// Puts the world back in which the caller was.
struct Back(Option<Arc<dyn World>>);

impl Drop for Back {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}
