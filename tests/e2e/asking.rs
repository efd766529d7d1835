//! Whoever only asks leaves a server as it is.

use serde_json::{Value, json};

use crate::support::{Installation, nats::NatsServer};

/// Every command that only reads, and the code that it ends with where there is nothing.
const QUESTIONS: [(&[&str], i32); 17] = [
    (&["jobs"], 0),
    (&["runs"], 0),
    (&["runs", "--state", "failed"], 0),
    (&["queues"], 0),
    (&["workers"], 0),
    (&["locks"], 0),
    (&["dead"], 0),
    (&["dead", "list", "--group"], 0),
    (&["state", "export", "-"], 0),
    (&["diff", "schedules"], 0),
    (&["doctor"], 1),
    (&["explain", "a"], 4),
    (&["show", "a@20261123T023000Z"], 4),
    (&["logs", "a@20261123T023000Z"], 4),
    (&["dead", "show", "a@20261123T023000Z"], 4),
    // They would write, if there were something to write to.
    (&["pause", "a"], 4),
    (&["cancel", "a@20261123T023000Z"], 4),
];

fn streams(server: &NatsServer) -> Value {
    server.api("STREAM.NAMES", "")["streams"].clone()
}

#[test]
fn a_question_makes_no_stream() {
    let server = NatsServer::start();
    let here = Installation::on_nats(&server.url());
    here.schedule("a.toml", "");
    for (args, code) in QUESTIONS {
        let ended = here.run(args);
        let said = format!("{args:?}: {}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.code, code, "{said}");
        assert!(!ended.stderr.contains("stream"), "{said}");
        assert_eq!(streams(&server), Value::Null, "{args:?} made streams");
    }
    for list in ["jobs", "runs", "queues", "workers", "locks", "dead"] {
        let empty = here.json(&[list]);
        assert_eq!(empty, json!([]), "{list}");
    }
    let told = here.run(&["doctor"]).stdout;
    for part in [
        "no beat has set this server up yet",
        "start `orchestrator beat`",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // Beat makes all of them, and then there is no word of it any more.
    let _beat = here.start("beat", &["beat"]);
    crate::support::wait_for("beat", || {
        let told = here.run(&["doctor"]).stdout;
        let works = told.contains("is at work") && !told.contains("no beat");
        works.then_some(())
    });
    assert_eq!(streams(&server).as_array().map(Vec::len), Some(11));
    let told = here.run(&["doctor"]).stdout;
    assert!(!told.contains("set this server up"), "{told}");
}
