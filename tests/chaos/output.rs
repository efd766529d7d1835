//! A job prints a gigabyte, or `CHAOS_OUTPUT_BYTES`.

use std::{fs, time::Duration};

use crate::support::{Installation, random::number, wait_for, within};

#[test]
fn it_is_bounded_and_the_oldest_is_dropped() {
    let here = Installation::new();
    let bytes = number("CHAOS_OUTPUT_BYTES", 1_000_000_000);
    here.schedule(
        "a.toml",
        &format!(
            "[job.loud]\nshell = \"yes 0123456789012345678901234567890123456789 | head -c {bytes}; echo; echo the-end\"\noutput_limit = \"256 KiB\"\n"
        ),
    );
    let up = here.up(&[]);
    wait_for("the definition", || {
        here.try_json(&["jobs"])?.get(0).cloned()
    });
    let id = here.run(&["run", "loud"]).stdout.trim().to_owned();
    let ended = within(Duration::from_secs(600), "the end", || {
        let record = here.json(&["show", &id]);
        (record["state"] == "succeeded").then_some(record)
    });
    assert_eq!(ended["attempts"][0]["exit"]["code"], 0);
    let logs = here.run(&["logs", &id]);
    assert!(
        logs.stdout.len() <= 512 * 1024,
        "{} bytes kept",
        logs.stdout.len()
    );
    assert!(
        logs.stdout.ends_with("the-end\n"),
        "the newest output was dropped"
    );
    assert!(logs.stderr.contains("were dropped"), "{}", logs.stderr);
    let status = fs::read_to_string(format!("/proc/{}/status", up.pid())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kib < 300 * 1024, "`up` grew to {kib} KiB");
}
