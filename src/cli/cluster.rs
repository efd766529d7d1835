//! `orchestrator queues` and `workers`

use super::{CliError, Globals, connect, output};
use crate::{clock, ops};

pub(super) async fn queues(globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let queues = ops::queues(broker.as_ref(), clock::now()).await?;
    let header = ["queue", "waiting", "running", "workers", "paused"];
    output::list(
        globals.output,
        &queues,
        &header,
        |queue| queue.queue.to_string(),
        |queue| {
            vec![
                queue.queue.to_string(),
                queue.waiting.to_string(),
                queue.running.to_string(),
                queue.workers.len().to_string(),
                match &queue.pause {
                    Some(pause) => pause.reason.clone().unwrap_or_else(|| "yes".to_owned()),
                    None => "-".to_owned(),
                },
            ]
        },
    )
}

pub(super) async fn workers(globals: &Globals) -> Result<(), CliError> {
    let broker = connect::any_broker(globals).await?;
    let workers = ops::workers(broker.as_ref()).await?;
    let now = clock::now();
    let mut stalls = workers.iter().filter_map(|one| one.beat.why.as_ref());
    if let Some(why) = stalls.next() {
        let see_it = 1 + stalls.count();
        let all = workers.len();
        output::to_stderr(&format!("warning: {see_it} of {all} workers say: {why}"));
    }
    let header = [
        "worker", "host", "queues", "running", "slots", "up since", "seen", "state",
    ];
    output::list(
        globals.output,
        &workers,
        &header,
        |worker| worker.id.clone(),
        |worker| {
            let queues: Vec<_> = worker.queues.iter().map(ToString::to_string).collect();
            vec![
                worker.id.clone(),
                worker.host.clone(),
                queues.join(" "),
                worker.running.len().to_string(),
                worker.concurrency.to_string(),
                output::relative(worker.started_at, now),
                output::relative(worker.seen_at, now),
                if worker.draining {
                    "draining"
                } else {
                    "taking"
                }
                .to_owned(),
            ]
        },
    )
}
