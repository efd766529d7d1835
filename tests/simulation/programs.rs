//! What workers execute: processes that take virtual time, end as they like, are told to end, and are killed
//! by their worker's guardian even while the worker itself stands still.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use orchestrator::{
    exec::{Ended, Execution, Limits, Player, RunContext, Stop},
    run::Exit,
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::world::Node;

/// The processes of one worker.
#[derive(Debug)]
pub struct Programs {
    pub node: Arc<Node>,
}

/// One process.
struct Process {
    node: Arc<Node>,
    id: usize,
    until: Instant,
    code: i32,
    timeout: Option<Instant>,
    /// How long it takes to end when it is asked to; `None`: it does not.
    reaction: Option<Duration>,
    grace: Duration,
    stop: Stop,
    dropped: CancellationToken,
}

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

#[async_trait]
impl Player for Programs {
    async fn play(&self, context: &RunContext<'_>, limits: Limits, stop: &Stop) -> Execution {
        let (sim, now) = (&self.node.sim, Instant::now());
        let deadline = stop.deadlines().borrow().map(|at| sim.moment(at));
        if deadline.is_some_and(|deadline| deadline <= now) {
            return ended(
                Ended::ByItself,
                Exit::NotStarted("its lease is over".to_owned()),
            );
        }
        let (run_id, fence) = (context.message.run_id.clone(), context.fence);
        let (length, code, reaction, id) = {
            let elapsed = sim.elapsed();
            let mut guard = sim.lock();
            let state = &mut *guard;
            let random = &mut state.random;
            let length = match random.below(10) {
                0..6 => 100 + random.below(1_500),
                6..9 => random.below(5_000),
                _ => random.below(12_000),
            };
            let code = match random.below(8) {
                0 => 1,
                1 => 2,
                _ => 0,
            };
            let reaction = match random.below(3) {
                0 => None,
                _ => Some(Duration::from_millis(random.below(300))),
            };
            let worker = &self.node.name;
            state.trace.note(
                elapsed,
                format_args!("{worker} begins {run_id} under {fence} for {length} ms"),
            );
            let message = context.message;
            let id = state.checker.begins((message, fence), worker, elapsed);
            (Duration::from_millis(length), code, reaction, id)
        };
        let dropped = CancellationToken::new();
        let _killed = dropped.clone().drop_guard();
        let process = Process {
            node: Arc::clone(&self.node),
            id,
            until: now + length,
            code,
            timeout: limits.timeout.map(|timeout| now + timeout.get()),
            reaction,
            grace: limits.kill.grace.get(),
            stop: stop.clone(),
            dropped,
        };
        let (tell, told) = oneshot::channel();
        // Not a task of the worker: it goes on while that one stands still.
        tokio::spawn(process.run(tell));
        match told.await {
            Ok(execution) => execution,
            // The worker is dead.
            Err(_) => std::future::pending().await,
        }
    }
}

fn ended(ended: Ended, exit: Exit) -> Execution {
    Execution {
        ended,
        exit,
        result: None,
    }
}

impl Process {
    async fn run(self, tell: oneshot::Sender<Execution>) {
        let Some(execution) = self.execute().await else {
            self.note("killed with its worker");
            return;
        };
        self.note(&format!(
            "{:?}, {}",
            execution.ended,
            execution.exit.summary()
        ));
        let _ = tell.send(execution);
    }

    fn note(&self, how: &str) {
        let sim = &self.node.sim;
        let now = sim.elapsed();
        let mut state = sim.lock();
        state.checker.ends(self.id, now);
        let what = state.checker.name(self.id);
        state.trace.note(now, format_args!("{what} ends: {how}"));
    }

    /// To its end; `None`: its worker died.
    async fn execute(&self) -> Option<Execution> {
        let far = Instant::now() + Duration::from_secs(1_000_000);
        let mut deadlines = self.stop.deadlines();
        let mut asked = None;
        let mut timed_out = false;
        loop {
            let guardian = deadlines
                .borrow_and_update()
                .map(|at| self.node.sim.moment(at));
            let told_at = asked.unwrap_or(far);
            let reacts = match self.reaction {
                Some(reaction) => told_at + reaction,
                None => far,
            };
            let why = match timed_out {
                true => Ended::TimedOut,
                false => Ended::Stopped,
            };
            tokio::select! {
                biased;
                () = self.node.died.cancelled() => return None,
                () = self.dropped.cancelled() => return None,
                () = sleep_until(guardian.unwrap_or(far)) => {
                    let how = if asked.is_some() { why } else { Ended::ByItself };
                    return Some(ended(how, Exit::Signal(SIGKILL)));
                }
                () = self.stop.forced() => return Some(ended(why, Exit::Signal(SIGKILL))),
                () = self.stop.asked(), if asked.is_none() => asked = Some(Instant::now()),
                () = sleep_until(reacts) => return Some(ended(why, Exit::Signal(SIGTERM))),
                () = sleep_until(told_at + self.grace) => {
                    return Some(ended(why, Exit::Signal(SIGKILL)));
                }
                () = sleep_until(self.timeout.unwrap_or(far)), if asked.is_none() => {
                    (asked, timed_out) = (Some(Instant::now()), true);
                }
                () = sleep_until(self.until) => {
                    return Some(match asked {
                        None => ended(Ended::ByItself, Exit::Code(self.code)),
                        Some(_) => ended(why, Exit::Code(self.code)),
                    });
                }
                _ = deadlines.changed() => {}
            }
        }
    }
}
