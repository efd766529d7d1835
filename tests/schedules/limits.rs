//! What runs share with others: locks, places, rates.

use std::time::Duration;

use orchestrator::job::LeaseLoss;

use super::{job, only_error, with};

#[test]
fn limits_arrive_in_the_job() {
    let job = job(
        r#"
        [defaults]
        lock = "everything"
        [job.a]
        command = ["true"]
        lock = { name = "account:{arg.account}", inherit = true, wait = "10m" }
        concurrency = { key = "site:{arg.host}", limit = 4, wait = "1h" }
        rate = { key = "site:{arg.host}", limit = "100/m", burst = 5 }
        [job.b]
        command = ["true"]
        "#,
        "a",
    );
    let lock = job.spec.lock.as_deref().unwrap();
    assert_eq!(lock.name.source(), "account:{arg.account}");
    assert!(lock.inherit);
    assert_eq!(lock.wait.unwrap().get(), Duration::from_secs(600));
    let places = job.spec.concurrency.as_deref().unwrap();
    assert_eq!((places.key.source(), places.limit), ("site:{arg.host}", 4));
    let rate = job.spec.rate.as_deref().unwrap();
    assert_eq!(rate.interval(), Duration::from_millis(600));
    assert_eq!(rate.burst, 5);
    assert_eq!(job.spec.lease_loss(), LeaseLoss::Stop, "it has a lock");
}

#[test]
fn mistakes_in_limits_name_the_mend() {
    let table = [
        ("lock = \"\"", "`lock` is empty"),
        ("lock = 3", "`lock`"),
        ("lock = {}", "`lock` has no `name`"),
        ("lock = { name = \"a\", inherits = true }", "inherit"),
        ("lock = \"{arg.x\"", "without its `}`"),
        (
            "lock = \"a\"\nlease_loss = \"continue\"",
            "cannot go on without its lease",
        ),
        ("concurrency = { key = \"a\" }", "needs `key` and `limit`"),
        (
            "concurrency = { key = \"a\", limit = 0 }",
            "concurrency.limit",
        ),
        ("lock = \"{credential.x}\"", "a credential would be seen"),
        ("rate = { limit = \"2/s\" }", "needs `key` and `limit`"),
        ("rate = { key = \"a\", limit = \"2\" }", "\"2/s\""),
        (
            "rate = { key = \"a\", limit = \"2/s\", burst = 0 }",
            "rate.burst",
        ),
    ];
    for (lines, part) in table {
        let error = only_error(&with(lines));
        assert!(error.contains(part), "{lines}: {error}");
    }
}

#[test]
fn what_a_run_may_use_up_arrives_in_the_job() {
    let job = job(
        r#"
        [defaults]
        limits = { pids = 50 }
        [job.a]
        command = ["true"]
        limits = { memory = "512M", cpu = 1.5, pids = 200 }
        [job.b]
        command = ["true"]
        [job.c]
        command = ["true"]
        limits = {}
        "#,
        "a",
    );
    let limits = job.spec.limits.unwrap();
    assert_eq!((limits.memory, limits.pids), (Some(512 << 20), Some(200)));
    assert_eq!(limits.cpu.unwrap().to_string(), "1.5");
    let all = ["memory", "cpu", "pids"];
    assert!(limits.controllers().eq(all));
    for (lines, part) in [
        ("limits = { memory = \"1k\" }", "from 1 MiB to 1 PiB"),
        ("limits = { memory = 100 }", "limits.memory"),
        ("limits = { memory = true }", "limits.memory"),
        ("limits = { cpu = 0 }", "number of processors"),
        ("limits = { cpu = \"2\" }", "such as 1.5"),
        ("limits = { pids = 0 }", "limits.pids"),
        ("limits = { memroy = \"1g\" }", "did you mean `memory`?"),
        ("limits = 3", "`limits`"),
    ] {
        let error = only_error(&with(lines));
        assert!(error.contains(part), "{lines}: {error}");
    }
    let request = "[job.x]\nhttp = { url = \"http://x\" }\nlimits = { pids = 2 }\n";
    let error = only_error(request);
    assert!(error.contains("`http` starts none"), "{error}");
}

#[test]
fn a_request_names_its_credentials() {
    let request = |more: &str| {
        format!(
            "[job.x]\n{more}\nhttp = {{ url = \"https://x\", headers = {{ A = \"{{credential.token}}\" }} }}\n"
        )
    };
    let error = only_error(&request(""));
    assert!(error.contains("credential = \"token\""), "{error}");
    let job = job(&request("credential = \"token\""), "x");
    assert_eq!(job.spec.credentials[0].as_str(), "token");
    let error = only_error("[job.x]\ncommand = [\"a\", \"{credential.token}\"]\n");
    assert!(error.contains("CREDENTIAL_"), "{error}");
}
