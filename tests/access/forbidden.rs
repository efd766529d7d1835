//! Everything that each role must not do is refused.

use super::{
    installation::{ROLES, Shipped},
    support::PATIENCE,
};

/// What nobody may do but those who are named.
fn forbidden() -> Vec<(&'static str, Vec<&'static str>, &'static [&'static str])> {
    const NOBODY: &[&str] = &[];
    const READERS: &[&str] = &["operator", "viewer"];
    vec![
        (
            "publish a run",
            vec!["orch.jobs.default.evil.slot", "orch.jobs.high.evil.slot"],
            &["beat", "operator"],
        ),
        (
            "publish a run into another namespace",
            vec!["other.jobs.default.evil.slot"],
            NOBODY,
        ),
        (
            "take another queue's runs",
            vec!["$JS.API.CONSUMER.MSG.NEXT.ORCH_JOBS.high"],
            &["worker_high"],
        ),
        (
            "take the default queue's runs",
            vec!["$JS.API.CONSUMER.MSG.NEXT.ORCH_JOBS.default"],
            &["worker_default"],
        ),
        (
            "acknowledge another queue's runs",
            vec![
                "$JS.ACK.ORCH_JOBS.high.1.1.1.1.0",
                "$JS.ACK._.x.ORCH_JOBS.high.1.1.1.1.0.y",
            ],
            &["worker_high"],
        ),
        (
            "read another queue",
            vec!["$JS.API.DIRECT.GET.ORCH_JOBS.orch.jobs.high.tick.slot"],
            &["worker_high", "beat", "operator", "viewer"],
        ),
        (
            "read all queues",
            vec!["$JS.API.STREAM.MSG.GET.ORCH_JOBS"],
            &["beat", "operator", "viewer"],
        ),
        (
            "read all queues by sequence",
            vec!["$JS.API.DIRECT.GET.ORCH_JOBS"],
            READERS,
        ),
        (
            "make a consumer of another queue",
            vec!["$JS.API.CONSUMER.CREATE.ORCH_JOBS.high.orch.jobs.high.>"],
            &["worker_high", "beat", "operator"],
        ),
        (
            "make a consumer of every queue",
            vec!["$JS.API.CONSUMER.CREATE.ORCH_JOBS.x.orch.jobs.>"],
            &["beat", "operator"],
        ),
        (
            "make a consumer in the old way",
            vec![
                "$JS.API.CONSUMER.CREATE.ORCH_JOBS",
                "$JS.API.CONSUMER.DURABLE.CREATE.ORCH_JOBS.high",
                "$JS.API.CONSUMER.DURABLE.CREATE.ORCH_JOBS.default",
            ],
            NOBODY,
        ),
        (
            "remove a consumer",
            vec![
                "$JS.API.CONSUMER.DELETE.ORCH_JOBS.high",
                "$JS.API.CONSUMER.DELETE.ORCH_JOBS.default",
            ],
            NOBODY,
        ),
        (
            "purge",
            vec![
                "$JS.API.STREAM.PURGE.ORCH_JOBS",
                "$JS.API.STREAM.PURGE.ORCH_DEAD",
                "$JS.API.STREAM.PURGE.KV_ORCH_STATE",
                "$JS.API.STREAM.PURGE.KV_ORCH_RUNS",
            ],
            NOBODY,
        ),
        (
            "purge the output",
            vec!["$JS.API.STREAM.PURGE.ORCH_LOGS"],
            &["worker_default", "worker_high"],
        ),
        (
            "remove a run that waits",
            vec!["$JS.API.STREAM.MSG.DELETE.ORCH_JOBS"],
            &["beat", "operator"],
        ),
        (
            "remove a dead letter",
            vec!["$JS.API.STREAM.MSG.DELETE.ORCH_DEAD"],
            &["operator"],
        ),
        (
            "remove a value",
            vec![
                "$JS.API.STREAM.MSG.DELETE.KV_ORCH_STATE",
                "$JS.API.STREAM.MSG.DELETE.KV_ORCH_RUNS",
            ],
            NOBODY,
        ),
        (
            "remove a stream",
            vec![
                "$JS.API.STREAM.DELETE.ORCH_JOBS",
                "$JS.API.STREAM.DELETE.ORCH_DEAD",
                "$JS.API.STREAM.DELETE.KV_ORCH_STATE",
                "$JS.API.STREAM.DELETE.ORCH_LOGS",
            ],
            NOBODY,
        ),
        (
            "change a stream",
            vec![
                "$JS.API.STREAM.UPDATE.KV_ORCH_STATE",
                "$JS.API.STREAM.UPDATE.ORCH_DEAD",
            ],
            NOBODY,
        ),
        (
            "make a stream",
            vec![
                "$JS.API.STREAM.CREATE.ORCH_JOBS",
                "$JS.API.STREAM.CREATE.MINE",
            ],
            &["beat"],
        ),
        (
            "restore or copy a stream",
            vec![
                "$JS.API.STREAM.RESTORE.ORCH_JOBS",
                "$JS.API.STREAM.SNAPSHOT.ORCH_JOBS",
            ],
            NOBODY,
        ),
        (
            "take the leader key",
            vec!["$KV.ORCH_STATE.leader"],
            &["beat"],
        ),
        (
            "move the watermark",
            vec!["$KV.ORCH_STATE.watermark"],
            &["beat"],
        ),
        (
            "write a definition",
            vec![
                "$KV.ORCH_STATE.def.tick",
                "$KV.ORCH_STATE.job.tick",
                "$KV.ORCH_STATE.installation",
            ],
            &["beat"],
        ),
        (
            "pause",
            vec![
                "$KV.ORCH_STATE.pause.tick",
                "$KV.ORCH_STATE.paused_queue.high",
            ],
            &["beat", "operator"],
        ),
        (
            "write a job's last run",
            vec!["$KV.ORCH_STATE.last.tick"],
            &["beat", "worker_default", "worker_high"],
        ),
        (
            "ask for a cancellation",
            vec!["$KV.ORCH_WORKERS.cancel.tick.1"],
            &["beat", "operator"],
        ),
        (
            "read the definitions",
            vec![
                "$JS.API.STREAM.MSG.GET.KV_ORCH_STATE",
                "$JS.API.DIRECT.GET.KV_ORCH_STATE.$KV.ORCH_STATE.def.tick",
            ],
            &["beat", "operator", "viewer"],
        ),
        (
            "watch the definitions",
            vec!["$JS.API.CONSUMER.CREATE.KV_ORCH_STATE.x.$KV.ORCH_STATE.def.>"],
            &["beat", "operator", "viewer"],
        ),
        (
            "watch every record",
            vec!["$JS.API.CONSUMER.CREATE.KV_ORCH_RUNS.x.$KV.ORCH_RUNS.>"],
            READERS,
        ),
        (
            "write a record",
            vec!["$KV.ORCH_RUNS.tick.1"],
            &["beat", "operator", "worker_default", "worker_high"],
        ),
        (
            "read the dead letters",
            vec!["$JS.API.STREAM.MSG.GET.ORCH_DEAD"],
            &["beat", "operator", "viewer"],
        ),
        (
            "bury as another queue",
            vec!["orch.dead.high"],
            // Whoever signs keeps what is forged, of every queue.
            &["worker_high", "beat", "operator"],
        ),
        (
            "write output",
            vec!["orch.logs.tick.1"],
            &["worker_default", "worker_high"],
        ),
        (
            "answer others",
            vec!["_INBOX_beat.x", "_INBOX_operator.x", "_INBOX.x"],
            NOBODY,
        ),
        (
            "act as the system",
            vec![
                "$SYS.REQ.SERVER.PING",
                "$JS.API.SERVER.REMOVE",
                "$JS.API.ACCOUNT.PURGE.X",
            ],
            NOBODY,
        ),
    ]
}

/// Nobody may publish or subscribe to it.
const LAST: &str = "the.last";

/// What the server says of a subject that this user publishes to, or subscribes to.
async fn is_refused(shipped: &Shipped, role: &str, subjects: &[&str], act: Act) -> Vec<bool> {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let seed = std::fs::read_to_string(&shipped.seeds[role]).unwrap();
    let options = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned());
    let options = options.event_callback(move |event| {
        let _ = tell.send(event.to_string());
        std::future::ready(())
    });
    let client = options.connect(shipped.server.url()).await.unwrap();
    let mut kept = Vec::new();
    // What the server says of them is heard in their order: nothing comes any more after the last.
    for subject in subjects.iter().chain([&LAST]) {
        match act {
            // A reply to a place where nobody listens: the request itself must do no harm in the test.
            Act::Publish => client
                .publish((*subject).to_owned(), "{".into())
                .await
                .unwrap(),
            Act::Subscribe => kept.push(client.subscribe((*subject).to_owned()).await.unwrap()),
        }
    }
    client.flush().await.unwrap();
    let mut said = String::new();
    let stands = |said: &str, subject: &str| {
        let quoted = format!("\"{}\"", subject.to_lowercase());
        said.contains(&quoted)
    };
    let hearing = async {
        while !stands(&said, LAST) {
            let event: String = told.recv().await.unwrap();
            said.push_str(&event.to_lowercase());
            said.push('\n');
        }
    };
    let heard = tokio::time::timeout(PATIENCE, hearing).await;
    heard.unwrap_or_else(|_| panic!("{role}: nothing of {LAST}"));
    let refused = subjects.iter().map(|subject| stands(&said, subject));
    refused.collect()
}

#[derive(Clone, Copy)]
enum Act {
    Publish,
    Subscribe,
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_may_do_more_than_his_role() {
    let shipped = Shipped::start();
    let forbidden = forbidden();
    for role in ROLES {
        let subjects: Vec<_> = forbidden
            .iter()
            .flat_map(|(_, subjects, _)| subjects.clone())
            .collect();
        let refused = is_refused(&shipped, role, &subjects, Act::Publish).await;
        let mut refused = refused.into_iter();
        for (what, subjects, allowed) in &forbidden {
            for subject in subjects {
                let may = allowed.contains(&role);
                assert_eq!(refused.next(), Some(!may), "{role}: {what}: {subject}");
            }
        }
        let others = ROLES.map(|other| format!("_INBOX_{other}.>"));
        let all = [
            "_INBOX.>",
            ">",
            "orch.>",
            "$KV.>",
            "$JS.>",
            "$SYS.>",
            "$JS.EVENT.>",
        ];
        let subjects: Vec<_> = others.iter().map(String::as_str).chain(all).collect();
        let refused = is_refused(&shipped, role, &subjects, Act::Subscribe).await;
        for (subject, refused) in subjects.into_iter().zip(refused) {
            let is_own = subject == format!("_INBOX_{role}.>");
            assert_eq!(refused, !is_own, "{role} subscribes to {subject}");
        }
    }
}
