//! One delivery, from its bytes to its settlement.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Hands, Shared,
    claim::{Claimed, Step},
    lease::Lease,
    log::{self, Before},
    permits::Permits,
    registry::{Cause, Held},
};
use crate::{
    broker::{self, BrokerError, Delivery},
    clock,
    exec::{
        Ended, Execution, Executor, Limits, Output, PingEvent, Player, PreparedRequest, Program,
        RunContext, Secrets,
    },
    job::{Anchor, Execute, LeaseLoss},
    run::{Ending as RunEnding, Exit, RunMessage},
};

/// The number of the signal that nothing survives.
const SIGKILL: i32 = 9;
/// How long a run that waits for an older one is put off after its first delivery.
const SHORTEST_WAIT: Duration = Duration::from_millis(200);
/// How long it is put off in the end.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Takes one delivery to its end. Holds `slot` as long as its program runs.
pub(super) async fn handle(
    shared: Arc<Shared>,
    delivery: Delivery,
    since: Instant,
    slot: OwnedSemaphorePermit,
) {
    let gate = Arc::clone(&shared.options.gate.borrow());
    let message = match gate.read(&delivery) {
        Ok(message) => message,
        Err(why) => return shared.bury(&delivery, &why).await,
    };
    let done = match shared.too_old(&gate, &message).await {
        Ok(None) => work(&shared, (&delivery, since), &message, slot).await,
        Ok(Some(why)) => return shared.bury(&delivery, &why).await,
        Err(error) => Err(error),
    };
    if let Err(error) = done {
        warn!(target: "orchestrator::worker", run_id = %message.run_id, %error,
            "a run is left to its lease");
    }
}

async fn work(
    shared: &Shared,
    (delivery, since): (&Delivery, Instant),
    message: &RunMessage,
    slot: OwnedSemaphorePermit,
) -> Result<(), BrokerError> {
    if let Some(wait) = message.too_early(delivery.deliveries, clock::now()) {
        return shared.broker.release(&delivery.receipt, wait).await;
    }
    if let Some(held) = shared.registry.find(&message.run_id)
        && shared.adopt(delivery, message, &held).await?
    {
        return Ok(());
    }
    if let Some(wait) = must_wait(shared, delivery, message).await? {
        return shared.broker.release(&delivery.receipt, wait).await;
    }
    let lease = Lease::new(delivery.lease, delivery.receipt.clone(), since);
    if !lease.is_safe() {
        // This process stood still with the delivery unread: it may be somebody else's by now.
        debug!(target: "orchestrator::worker", run_id = %message.run_id, "read too late");
        return Ok(());
    }
    let entered = shared.registry.enter(&message.run_id, Arc::new(lease));
    let held = &entered.held;
    let mut claimed = match shared.claim(delivery, message).await? {
        Step::Execute(claimed) => *claimed,
        Step::Done => return Ok(()),
    };
    let mut permits = std::mem::take(&mut claimed.permits);
    let done = match permits.is_empty() || held.lease.is_safe() {
        true => perform(shared, delivery, message, (claimed, &permits), held, slot).await,
        // Somebody else may have been given what it holds while the claim was on its way.
        false => Ok(()),
    };
    shared.give_back(&mut permits).await;
    done
}

/// Executes a run that is ours, and records its outcome.
async fn perform(
    shared: &Shared,
    delivery: &Delivery,
    message: &RunMessage,
    (claimed, permits): (Claimed, &Permits),
    held: &Held,
    slot: OwnedSemaphorePermit,
) -> Result<(), BrokerError> {
    held.lease.claimed(claimed.fence);
    held.claim.note(&claimed.record, message.spec.lease_loss());
    if message.spec.lease_loss() == LeaseLoss::Stop && !held.lease.is_good() {
        // Claimed too late to be sure: whoever takes it next uses up no attempt.
        let outcome = (RunEnding::HandedBack, None);
        return shared
            .settle(delivery, message, claimed, held, outcome)
            .await;
    }
    tell_start(message, &claimed);
    if let Some(url) = &message.spec.ping {
        let run_id = message.run_id.to_string();
        shared.pings.send(url, PingEvent::Start, Some(&run_id), "");
    }
    if message.anchor == Some(Anchor::LastStart)
        && let Err(error) = shared.remember(message, &claimed.record).await
    {
        debug!(target: "orchestrator::worker", run_id = %message.run_id, %error,
            "its start is told with its end");
    }
    let execution = execute(shared, message, (&claimed, permits), held).await;
    // The next job starts while this one's outcome is on its way; how many may be is bounded.
    let waiting = Arc::clone(&shared.recording).acquire_owned();
    let recording = shared.kept(message, claimed.fence, held, waiting).await;
    drop(slot);
    let outcome = match (execution.ended, held.ending.cause()) {
        (Ended::Stopped, Some(Cause::Lost)) => {
            warn!(target: "orchestrator::worker", run_id = %message.run_id,
                attempt = claimed.attempt, "lost: somebody else has the run");
            return Ok(());
        }
        (Ended::Stopped, Some(Cause::HandedBack | Cause::Unrenewed)) => RunEnding::HandedBack,
        (Ended::ByItself, _) if was_killed_for_its_lease(message, held, &execution.exit) => {
            RunEnding::HandedBack
        }
        (Ended::Stopped, Some(Cause::Cancelled) | None) => RunEnding::Cancelled(execution.exit),
        (Ended::TimedOut, _) => RunEnding::TimedOut(execution.exit),
        (Ended::ByItself, _) => RunEnding::Exited(execution.exit),
    };
    let settled = shared
        .settle(
            delivery,
            message,
            claimed,
            held,
            (outcome, execution.result),
        )
        .await;
    drop(recording);
    settled
}

/// Whether the guardian ended the job while this worker was frozen, or it was not started because its lease
/// was over. It may have been renewed since.
fn was_killed_for_its_lease(message: &RunMessage, held: &Held, exit: &Exit) -> bool {
    message.spec.lease_loss() == LeaseLoss::Stop
        && matches!(exit, Exit::Signal(SIGKILL) | Exit::NotStarted(_))
        && held.lease.has_lapsed()
}

/// How long a run has to wait for an older one of its job. The longer it has waited, the less often
/// it is looked at.
async fn must_wait(
    shared: &Shared,
    delivery: &Delivery,
    message: &RunMessage,
) -> Result<Option<Duration>, BrokerError> {
    if message.expires_at.is_some_and(|at| at <= clock::now()) {
        // It is to end now, whatever else there is.
        return Ok(None);
    }
    let broker = shared.broker.as_ref();
    let older = broker::older_run(broker, &delivery.queue, message, delivery.sequence).await?;
    let Some(older) = older else {
        return Ok(None);
    };
    debug!(target: "orchestrator::worker", run_id = %message.run_id, %older, "waits for an older run");
    let looks = u32::try_from(delivery.deliveries.clamp(1, 8) - 1).unwrap_or(0);
    Ok(Some((SHORTEST_WAIT * (1 << looks)).min(LONGEST_WAIT)))
}

/// Executes the program, with its lease renewed and its output carried to the log.
async fn execute(
    shared: &Shared,
    message: &RunMessage,
    (claimed, permits): (&Claimed, &Permits),
    held: &Held,
) -> Execution {
    let not_started = |reason| Execution {
        ended: Ended::ByItself,
        exit: Exit::NotStarted(reason),
        result: None,
    };
    let directory = shared.options.credentials.as_deref();
    let secrets = match Secrets::read(&message.spec, directory).await {
        Ok(secrets) => secrets,
        Err(reason) => return not_started(reason),
    };
    let context = RunContext {
        message,
        attempt: claimed.attempt,
        fence: claimed.fence,
        secrets: &secrets,
        lock: permits.lock.as_ref().map(|(name, token)| (&**name, *token)),
        hand_on: &shared.options.hand_on,
    };
    let work = match permitted_work(shared, &context).await {
        Ok(work) => work,
        Err(reason) => {
            let mut execution = not_started(reason);
            secrets.hide(&mut execution);
            return execution;
        }
    };
    let limits = Limits {
        timeout: message.spec.timeout,
        kill: message.spec.kill,
        resources: message.spec.limits,
    };
    let output = Output::new(claimed.attempt).hiding(secrets.redactor());
    let ended = CancellationToken::new();
    let running = async {
        let stop = &held.ending.stop;
        let mut execution = match work {
            Work::Played(player) => player.play(&context, limits, stop).await,
            Work::Program(executor, program) => {
                executor.execute(*program, limits, &output, stop).await
            }
            Work::Request(executor, request) => {
                executor.request(*request, limits, &output, stop).await
            }
        };
        secrets.hide(&mut execution);
        ended.cancel();
        execution
    };
    let before = match claimed.fence {
        ..=1 => Before::Nothing,
        2.. => Before::Output,
    };
    let carrying = log::carry(
        shared.broker.as_ref(),
        &message.run_id,
        &output,
        (message.spec.output_limit, before),
        &ended,
    );
    let both = async { tokio::join!(running, carrying).0 };
    shared.kept(message, claimed.fence, held, both).await
}

/// What an attempt does.
enum Work<'a> {
    Played(&'a dyn Player),
    Program(&'a Executor, Box<Program>),
    Request(&'a Executor, Box<PreparedRequest>),
}

/// What is to be done, confined, if the policy allows it; fails with a reason for the record.
async fn permitted_work<'a>(
    shared: &'a Shared,
    context: &RunContext<'_>,
) -> Result<Work<'a>, String> {
    let executor = match &shared.hands {
        Hands::Player(player) => return Ok(Work::Played(player.as_ref())),
        Hands::Executor(executor) => executor,
    };
    let message = context.message;
    match prepare(context, executor)? {
        Work::Program(executor, program) => {
            let program = Program {
                confinement: shared.confinement(),
                ..*program
            };
            let permitted = shared.permitted(&message.queue, message, program).await?;
            Ok(Work::Program(executor, Box::new(permitted)))
        }
        work => Ok(work),
    }
}

/// Fills in the placeholders; fails with a reason for the record.
fn prepare<'a>(context: &RunContext<'_>, executor: &'a Executor) -> Result<Work<'a>, String> {
    match &context.message.spec.execute {
        Execute::Http(http) => PreparedRequest::prepare(http, context)
            .map(|request| Work::Request(executor, Box::new(request))),
        Execute::Command(_) | Execute::Shell(_) => {
            let program = Program::prepare(context).map_err(|error| error.to_string())?;
            let program = program.ok_or("there is nothing to execute")?;
            Ok(Work::Program(executor, Box::new(program)))
        }
    }
}

fn tell_start(message: &RunMessage, claimed: &Claimed) {
    info!(target: "orchestrator::worker", run_id = %message.run_id, job = %message.run_id.job(),
        queue = %message.queue, attempt = claimed.attempt, "run started");
}
