//! The example that the repository ships: the crawler in `schedules/`, on a site of its own port.

use std::{fs, path::Path, time::Duration};

use crate::support::{Installation, is_alive, probes, within};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The shipped schedules, on a port that is free.
fn shipped() -> Installation {
    let here = Installation::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    copy(
        &root.join("examples/crawler"),
        &here.path("examples/crawler"),
    );
    let free = format!("127.0.0.1:{}", probes::port());
    let text = fs::read_to_string(root.join("schedules/crawler.toml")).unwrap();
    assert!(
        text.contains("127.0.0.1:8321"),
        "the example has another port"
    );
    here.schedule("crawler.toml", &text.replace("127.0.0.1:8321", &free));
    here
}

/// How long a fresh start may take to the first stored pages.
const PROMISED: Duration = Duration::from_secs(15);

#[test]
fn within_15_seconds_the_cookie_is_fresh_and_pages_are_stored() {
    let here = shipped();
    let up = here.start("up", &["up"]);
    let succeeded = |job: &str| {
        let runs = here.runs(job);
        runs.into_iter().find(|run| run["state"] == "succeeded")
    };
    within(
        PROMISED,
        "a refreshed cookie, a crawl and stored pages",
        || {
            succeeded("cookie-refresh")?;
            let crawl = succeeded("crawl-incremental")?;
            (crawl["result"]["stored"].as_u64()? > 0).then_some(())
        },
    );
    let page = within(PROMISED, "a page that a crawl fanned out to", || {
        succeeded("crawl-page")
    });
    assert!(
        page["parent"].as_str().unwrap().starts_with("crawl-"),
        "{page}"
    );
    let site = here.runs("site")[0]["attempts"][0]["worker"].clone();
    assert!(site.is_string());
    assert!(up.stop().success());
    let left: Vec<_> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            cwd.starts_with(here.path("examples")) && is_alive(*pid)
        })
        .collect();
    assert!(left.is_empty(), "left over: {left:?}");
}

#[test]
fn every_shipped_example_passes_check() {
    let here = Installation::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for example in ["schedules", "examples/weibospider.toml"] {
        let path = root.join(example);
        let ended = here.run(&["check", path.to_str().unwrap()]);
        assert_eq!(ended.code, 0, "{example}: {}", ended.stderr);
    }
    let path = root.join("examples/weibospider.toml");
    let next = here.json(&[
        "next",
        "--schedules",
        path.to_str().unwrap(),
        "--count",
        "200",
    ]);
    let jobs: std::collections::BTreeSet<_> = next
        .as_array()
        .unwrap()
        .iter()
        .map(|tick| tick["job"].as_str().unwrap())
        .collect();
    assert!(jobs.contains("user"), "{jobs:?}");
}
