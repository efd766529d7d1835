//! Schedule files through the library: what they mean, what is refused and where.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

#[path = "schedules/limits.rs"]
mod limits;
#[path = "schedules/users.rs"]
mod users;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::{DateTime, Utc};
use orchestrator::{
    job::{Backoff, CatchUp, Execute, FirstRun, Job, JobName, Overlap, SignalName, Trigger},
    schedules::{self, LoadError, Loaded, Severity, Source},
};
use rustix::time::{ClockId, clock_gettime};

fn now() -> DateTime<Utc> {
    "2026-11-23T10:00:00Z".parse().unwrap()
}

fn parse(text: &str) -> Result<Loaded, LoadError> {
    schedules::parse(
        &[Source::new("jobs.toml", text, PathBuf::from("/srv/jobs"))],
        now(),
    )
}

fn job(text: &str, name: &str) -> Job {
    let loaded = parse(text).unwrap_or_else(|error| panic!("{:#?}", error.diagnostics));
    Job::clone(loaded.set.get(&name.parse::<JobName>().unwrap()).unwrap())
}

/// The only finding, as `LINE:COLUMN text | message | help`.
fn only_error(text: &str) -> String {
    let found = parse(text).unwrap_err().diagnostics;
    let [one] = found.as_slice() else {
        panic!("{text}\n{found:#?}");
    };
    format!(
        "{}:{} {} | {} | {}",
        one.line().unwrap(),
        one.column().unwrap(),
        one.text().unwrap(),
        one.message(),
        one.help().unwrap_or("-")
    )
}

#[test]
fn every_key_arrives_in_the_job() {
    let job = job(
        r#"
        [job.full]
        description = "all of it"
        tags = ["a", "b"]
        enabled = false
        cron = ["0 5 * * SUN", "@monthly"]
        timezone = "Asia/Shanghai"
        dst_gap = "skip"
        dst_repeat = "twice"
        queue = "critical"
        command = ["python3", "x.py", "--since", "{last_success}", "{arg.url}"]
        args = { url = "http://x", depth = 3, deep = { list = [1, 2.5, true] } }
        env = { PATH = "/bin" }
        working_dir = "sub/dir"
        run_as = "crawler"
        timeout = "1h 30m"
        kill = { signal = "SIGINT", grace = "30s" }
        retry = { attempts = 5, backoff = "exponential", initial = "15s", max = "10m", jitter = 0.2, not_on_exit = [2] }
        expires = "10m"
        first_run = "now"
        catch_up = "all"
        catch_up_window = "4h"
        max_catch_up = 7
        overlap = "allow"
        jitter = "45m"
        start = 2027-01-01T08:00:00
        end = "2027-12-31T23:59:59Z"
        success_exit = [0, 3]
        output_limit = "64 KiB"
        "#,
        "full",
    );
    assert_eq!(job.description.as_deref(), Some("all of it"));
    assert_eq!(job.tags, ["a", "b"]);
    assert!(!job.enabled);
    assert_eq!(
        job.trigger.canonical(job.timezone),
        "cron 0 5 * * SUN | @monthly dst_gap=skip dst_repeat=twice Asia/Shanghai"
    );
    assert_eq!(job.queue.as_str(), "critical");
    let Execute::Command(command) = &job.spec.execute else {
        panic!("{:?}", job.spec.execute);
    };
    assert_eq!(command.len(), 5);
    let args =
        serde_json::json!({ "url": "http://x", "depth": 3, "deep": { "list": [1, 2.5, true] } });
    assert_eq!(serde_json::Value::Object(job.spec.args), args);
    assert_eq!(job.spec.env["PATH"], "/bin");
    assert_eq!(
        job.spec.working_dir.as_deref(),
        Some(Path::new("/srv/jobs/sub/dir"))
    );
    assert_eq!(job.spec.run_as.unwrap().as_str(), "crawler");
    assert_eq!(job.spec.timeout.unwrap().get(), Duration::from_secs(5400));
    assert_eq!(job.spec.kill.signal, SignalName::Int);
    assert_eq!(job.spec.kill.grace.get(), Duration::from_secs(30));
    assert_eq!(job.spec.retry.attempts, 5);
    assert!(
        matches!(job.spec.retry.backoff, Backoff::Exponential(first) if first.get().as_secs() == 15)
    );
    assert_eq!(job.spec.retry.not_on_exit, [2]);
    assert_eq!(job.policy.expires.unwrap().get().as_secs(), 600);
    assert_eq!(job.policy.first_run, FirstRun::Now);
    assert_eq!(job.policy.catch_up, CatchUp::All);
    assert_eq!(job.policy.catch_up_window.get().as_secs(), 4 * 3600);
    assert_eq!(job.policy.max_catch_up, 7);
    assert_eq!(job.policy.overlap, Overlap::Allow);
    assert_eq!(job.policy.jitter.unwrap().get().as_secs(), 45 * 60);
    let active = job.policy.active;
    let shown = [active.start, active.end].map(|at| at.unwrap().to_rfc3339());
    assert_eq!(
        shown,
        ["2027-01-01T00:00:00+00:00", "2027-12-31T23:59:59+00:00"]
    );
    assert_eq!(job.spec.success_exit.codes(), [0, 3]);
    assert_eq!(job.spec.output_limit, 65_536);
}

#[test]
fn defaults_give_way_to_the_job() {
    let text = r#"
        [defaults]
        queue = "low"
        cron = "@daily"
        command = ["default"]
        env = { A = "1", B = "1" }
        timeout = "1m"

        [job.plain]
        [job.own]
        every = "10m"
        offset = "2m"
        shell = "true"
        env = { B = "2" }
        timeout = "2m"
    "#;
    let plain = job(text, "plain");
    assert_eq!(plain.trigger.summary(), "cron @daily");
    assert_eq!(plain.queue.as_str(), "low");
    assert_eq!(plain.timezone, chrono_tz::UTC);
    let own = job(text, "own");
    assert_eq!(own.trigger.summary(), "every 10m offset 2m");
    assert_eq!(own.spec.execute, Execute::Shell("true".to_owned()));
    assert_eq!(
        own.spec
            .env
            .iter()
            .map(|(k, v)| format!("{k}{v}"))
            .collect::<Vec<_>>(),
        ["A1", "B2"]
    );
    assert_eq!(own.spec.timeout.unwrap().get().as_secs(), 120);
    assert_eq!(own.spec.working_dir, None);
}

#[test]
fn defaults_count_for_their_own_file_only() {
    let source = |name: &str, text: &str| Source::new(name, text, PathBuf::from("/"));
    let loaded = schedules::parse(
        &[
            source(
                "a.toml",
                "[defaults]\nqueue = \"low\"\n[job.a]\nshell = \"true\"",
            ),
            source("b.toml", "[job.b]\nshell = \"true\""),
        ],
        now(),
    )
    .unwrap();
    let queues: Vec<_> = loaded
        .set
        .iter()
        .map(|job| job.queue.as_str().to_owned())
        .collect();
    assert_eq!(queues, ["low", "default"]);
}

#[test]
fn moments_are_read_in_the_zone_of_the_job() {
    let at = |value: &str| {
        let text = format!("[job.x]\nshell = \"true\"\ntimezone = \"Asia/Shanghai\"\nat = {value}");
        match job(&text, "x").trigger {
            Trigger::At(all) => all.iter().map(DateTime::to_rfc3339).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(at("2027-01-01T08:00:00"), ["2027-01-01T00:00:00+00:00"]);
    assert_eq!(
        at("2027-01-01 08:00:00+01:00"),
        ["2027-01-01T07:00:00+00:00"]
    );
    assert_eq!(
        at("[\"2027-02-01T08:00:00\", \"2027-01-01 08:00\", \"2027-01-01T00:00:00Z\"]"),
        ["2027-01-01T00:00:00+00:00", "2027-02-01T00:00:00+00:00"]
    );
}

#[test]
fn a_moment_in_the_past_is_only_a_warning() {
    let loaded = parse("[job.x]\nshell = \"true\"\nat = 2020-01-01T00:00:00Z").unwrap();
    let [warning] = loaded.warnings.as_slice() else {
        panic!("{:?}", loaded.warnings);
    };
    assert_eq!(warning.severity(), Severity::Warning);
    assert_eq!(warning.line(), Some(3));
    assert_eq!(loaded.set.len(), 1);
}

/// A job of these lines; the first stands on line 3 of the file.
fn with(lines: &str) -> String {
    format!("[job.x]\nshell = \"true\"\n{lines}\n")
}

#[test]
fn refused_with_place_and_mend() {
    for (lines, expected) in [
        (
            "timout = \"1m\"",
            "3:1 timout | unknown key `timout` in [job.x] | did you mean `timeout`?",
        ),
        (
            "timeout = \"0s\"",
            "3:11 \"0s\" | `timeout` must be longer than nothing | -",
        ),
        (
            "timeout = \"99years\"",
            "3:11 \"99years\" | `timeout` is longer than ten years | -",
        ),
        (
            "queue = \"High Prio\"",
            "3:9 \"High Prio\" | `queue`: `High Prio` contains 'H': a name starts with a-z or 0-9, then a-z, 0-9, `_` and `-` | write `high-prio`",
        ),
        (
            "timezone = \"Asia/Shangai\"",
            "3:12 \"Asia/Shangai\" | `timezone`: there is no time zone `Asia/Shangai` | did you mean `Asia/Shanghai`?",
        ),
        (
            "overlap = \"skipp\"",
            "3:11 \"skipp\" | `overlap` cannot be \"skipp\" | did you mean `skip`? it is one of \"skip\", \"queue\", \"allow\", \"replace\"",
        ),
        (
            "every = \"10m\"\ncron = \"@daily\"",
            "3:1 every | `cron` and `every` exclude each other | a job has one trigger: `cron`, `every` or `at`",
        ),
        (
            "command = [\"x\"]",
            "2:1 shell | `command` and `shell` exclude each other | keep the one that the job is to execute",
        ),
        (
            "cron = \"@daily\"\noffset = \"1m\"",
            "4:1 offset | `offset` goes with `every` only | remove it, or give the interval with `every`",
        ),
        (
            "cron = \"@daily\"\nanchor = \"last_success\"",
            "4:1 anchor | `anchor` goes with `every` only | remove it, or give the interval with `every`",
        ),
        (
            "every = \"1h\"\noffset = \"1m\"\nanchor = \"last_start\"",
            "5:10 \"last_start\" | `anchor` and `offset` exclude each other | an interval that starts at a run has no other offset: remove one of the two",
        ),
        (
            "blackout = \"fair\"",
            "3:12 \"fair\" | there is no blackout `fair` | define it: [blackout.fair]",
        ),
        (
            "every = \"1500ms\"",
            "3:9 \"1500ms\" | `every` takes whole seconds | -",
        ),
        (
            "every = \"400days\"",
            "3:9 \"400days\" | an interval lies between 1s and 366days | -",
        ),
        ("cron = []", "3:8 [] | `cron` is an empty list | -"),
        (
            "at = \"soon\"",
            "3:6 \"soon\" | `soon` is not a date with a time | write for example 2026-12-24T18:00:00, in UTC, or with an offset: 2026-12-24T18:00:00+08:00",
        ),
        (
            "retry = { attempts = 0 }",
            "3:22 0 | `retry.attempts` lies between 1 and 1000 | -",
        ),
        (
            "retry = { attempts = 2, jitter = 1.5 }",
            "3:34 1.5 | `retry.jitter` lies between 0 and 1 | -",
        ),
        (
            "retry = { attempts = 2, backof = \"fixed\" }",
            "3:25 backof | unknown key `backof` in `retry` | did you mean `backoff`?",
        ),
        (
            "kill = { signal = \"TERM\" }",
            "3:19 \"TERM\" | `kill.signal` cannot be \"TERM\" | it is one of \"SIGTERM\", \"SIGINT\", \"SIGHUP\", \"SIGQUIT\", \"SIGUSR1\", \"SIGUSR2\", \"SIGKILL\"",
        ),
        (
            "success_exit = []",
            "3:16 [] | `success_exit` is empty, so no run could succeed | -",
        ),
        (
            "output_limit = \"2 TB\"",
            "3:16 \"2 TB\" | `output_limit`: `2 TB` is not a size up to 1 GiB | write for example \"64 KiB\", \"1 MiB\" or a number of bytes",
        ),
        (
            "env = { A = 1 }",
            "3:13 1 | `env.A` takes text, not a whole number | write it in quotes: \"1\"",
        ),
        (
            "env = { ORCHESTRATOR_JOB = \"x\" }",
            "3:9 ORCHESTRATOR_JOB | `ORCHESTRATOR_JOB`: variables ORCHESTRATOR_… are set by the worker | -",
        ),
        (
            "working_dir = \"~/x\"",
            "3:15 \"~/x\" | `working_dir`: `~` is not expanded | write the whole path, or one relative to this file",
        ),
        (
            "run_as = \"1000\"",
            "3:10 \"1000\" | `run_as`: `1000` is a number, not the name of a user | write the name in /etc/passwd of the worker's machine, not the number",
        ),
        (
            "run_as = 1000",
            "3:10 1000 | `run_as` takes the name of a user, not a whole number | write the name in /etc/passwd of the worker's machine, not the number",
        ),
        (
            "run_as = \"{arg.user}\"",
            "3:10 \"{arg.user}\" | `run_as`: `{arg.user}` contains '{': the name of a user begins with a letter, a digit or `_`, then letters, digits, `_`, `-`, `.`, `@` and `$` | no placeholders: a user stands in the schedule, it is not an argument",
        ),
        (
            "args = { x = nan }",
            "3:14 nan | `args`: JSON cannot carry this number | -",
        ),
        (
            "cron = '0 0 * * 1-5,9'",
            "3:21 9 | cron `0 0 * * 1-5,9`: day of week: 9 is out of range 0-7 | -",
        ),
        (
            "every = \"1h\"\njitter = \"2days\"",
            "4:10 \"2days\" | `jitter` is at most 1day | -",
        ),
        (
            "every = \"1h\"\nstart = 2027-01-02T00:00:00\nend = 2027-01-01T00:00:00",
            "5:7 2027-01-01T00:00:00 | `end` lies before `start` | a job has ticks from `start` to `end`",
        ),
        (
            "every = \"1h\"\nend = \"new year\"",
            "4:7 \"new year\" | `new year` is not a date with a time | write for example 2026-12-24T18:00:00, in UTC, or with an offset: 2026-12-24T18:00:00+08:00",
        ),
        (
            "timezone = \"Europe/Berlin\"\nat = 2027-03-28T02:30:00",
            "4:6 2027-03-28T02:30:00 | 2027-03-28T02:30:00 does not exist in Europe/Berlin: the clock is set forward then | give another time, or one with an offset",
        ),
    ] {
        assert_eq!(only_error(&with(lines)), expected);
    }
}

#[test]
fn commands_are_checked() {
    for (value, expected) in [
        (
            "\"python3 x.py\"",
            "2:11 \"python3 x.py\" | `command` takes a list of texts, not text | write command = [\"python3\", \"x.py\"], or use the key `shell`",
        ),
        (
            "[]",
            "2:11 [] | `command` is empty; it needs at least a program | -",
        ),
        (
            "[\"x\", \"{arg.}\"]",
            "2:18 {arg.} | unknown placeholder `{arg.}` | ",
        ),
        (
            "[\"x\", \"-u{jobb}\"]",
            "2:20 {jobb} | unknown placeholder `{jobb}` | did you mean `job`?",
        ),
        (
            "[\"x\", \"{\"]",
            "2:17 \"{\" | `{` has a `{` without its `}`",
        ),
    ] {
        let found = only_error(&format!("[job.x]\ncommand = {value}"));
        assert!(found.starts_with(expected), "{found}");
    }
    let loaded = parse("[job.x]\nshell = \"awk '{job}'\"").unwrap();
    assert_eq!(loaded.warnings[0].text(), Some("{job}"));
    let found = only_error("[job.x]\nshell = 'get {arg.url}'");
    assert!(
        found.starts_with("2:14 {arg.url} | `shell` has no placeholders"),
        "{found}"
    );
}

#[test]
fn names_and_tables_are_checked() {
    for (text, expected) in [
        (
            "[job.\"crawl.page\"]\nshell = \"x\"",
            "1:6 \"crawl.page\" | the job name `crawl.page` contains a dot",
        ),
        (
            "[job.crawl.page]\nshell = \"x\"",
            "1:12 page | the job name `crawl.page` contains a dot",
        ),
        (
            "[job.Crawl]\nshell = \"x\"",
            "1:6 Crawl | job name: `Crawl` contains 'C'",
        ),
        (
            "[jobs.x]\nshell = \"x\"",
            "1:2 jobs | unknown key `jobs` at the top of the file | did you mean `job`?",
        ),
        (
            "[[job]]\nshell = \"x\"",
            "1:3 job | `job` takes tables with a name each | write [job.NAME]",
        ),
        (
            "[job]\nshell = \"x\"",
            "2:1 shell | `job.shell` must be a table | `shell` belongs below [job.NAME]",
        ),
        (
            "timezone = \"UTC\"",
            "1:1 timezone | unknown key `timezone` at the top of the file | `timezone` belongs below",
        ),
        (
            "[job.x]",
            "1:6 x | this job has neither `command` nor `shell`",
        ),
        (
            "[defaults]\nqeue = \"x\"",
            "2:1 qeue | unknown key `qeue` in [defaults] | did you mean `queue`?",
        ),
    ] {
        let found = only_error(text);
        assert!(found.starts_with(expected), "{found}");
    }
}

#[test]
fn a_job_too_large_for_a_message_is_refused() {
    let large = "x".repeat(1 << 20);
    let found = only_error(&format!("[job.big]\nshell = \"{large}\""));
    assert!(
        found.starts_with("1:6 big | no run of this job can be published"),
        "{found}"
    );
    // JSON doubles each backslash.
    let escaped = |count: usize| {
        let text = "\\".repeat(count);
        format!("[job.big]\ncommand = [\"x\"]\nargs = {{ a = '{text}' }}")
    };
    assert!(parse(&escaped(400_000)).is_ok());
    assert!(only_error(&escaped(600_000)).starts_with("1:6 big | no run of this job"));
}

#[test]
fn syntax_errors_do_not_hide_other_mistakes() {
    let error =
        parse("[job.a]\nshell = \"x\"\ntimeout = 1 2\nqueue = \"Q\"\n[job.b\nshell = \"y\"\n")
            .unwrap_err();
    let lines: Vec<_> = error
        .diagnostics
        .iter()
        .filter_map(|one| one.line())
        .collect();
    assert_eq!(lines, [3, 4, 5], "{:#?}", error.diagnostics);
}

#[test]
fn an_unclosed_list_is_one_mistake() {
    let error = parse("[job.a]\ncommand = [\"x\"\nqueue = \"q\"\ntimeout = \"1m\"\n").unwrap_err();
    assert_eq!(error.diagnostics.len(), 1, "{:#?}", error.diagnostics);
}

#[test]
fn findings_are_bounded() {
    let jobs: String = (0..3000)
        .map(|n| format!("[job.j{n}]\nshell = 1\n"))
        .collect();
    let error = parse(&jobs).unwrap_err();
    assert_eq!(error.diagnostics.len(), 1001);
    let last = error.diagnostics.last().unwrap();
    assert_eq!(last.message(), "2000 more findings are not shown");
}

#[test]
fn a_hundred_thousand_jobs_load_in_linear_time() {
    let text = |count: usize| {
        (0..count).fold(
            "[defaults]\ntimezone = \"Asia/Shanghai\"\n".to_owned(),
            |text, n| {
                text + &format!(
                    "[job.j{n}]\ncron = \"{} {} * * *\"\ncommand = [\"/bin/true\", \"{n}\"]\n",
                    n % 60,
                    n % 24
                )
            },
        )
    };
    // Of this thread alone: whatever else the machine does.
    let used = || {
        let used = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(used).unwrap()
    };
    let time = |count: usize| {
        let text = text(count);
        let start = used();
        assert_eq!(parse(&text).unwrap().set.len(), count);
        used() - start
    };
    let (small, large) = (time(10_000), time(100_000));
    eprintln!("10,000 jobs: {small:?}, 100,000 jobs: {large:?}");
    assert!(
        large < 40 * small.max(Duration::from_millis(50)),
        "{small:?} {large:?}"
    );
}

#[test]
fn files_are_found_sorted_and_without_backups() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("b.toml", "[job.b]\nshell = \"x\"");
    write("a.toml", "[job.a]\nshell = \"x\"\nworking_dir = \"w\"");
    for ignored in [
        ".hidden.toml",
        "a.toml~",
        "#a.toml#",
        "a.toml.swp",
        "readme.md",
    ] {
        write(ignored, "not toml");
    }
    fs::create_dir(dir.path().join("sub.toml")).unwrap();
    let loaded = schedules::load(&[dir.path().to_owned()], now()).unwrap();
    assert_eq!((loaded.set.len(), loaded.files), (2, 2));
    let first = loaded.set.iter().next().unwrap();
    assert_eq!(
        first.spec.working_dir.as_deref(),
        Some(&*dir.path().join("w"))
    );
}

#[test]
fn what_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let message = |path: PathBuf| {
        let error = schedules::load(&[path], now()).unwrap_err();
        assert_eq!(error.diagnostics.len(), 1);
        error.diagnostics[0].to_string()
    };
    let empty = message(dir.path().to_owned());
    assert!(empty.contains("no schedule file"), "{empty}");
    let missing = message(dir.path().join("none"));
    assert!(missing.contains("none: there is no such file"), "{missing}");
    fs::write(dir.path().join("latin.toml"), b"# ok\n# caf\xe9\n").unwrap();
    let latin = message(dir.path().to_owned());
    assert!(
        latin.contains("not UTF-8: line 2, column 6 has byte 0xe9"),
        "{latin}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_noticed_and_sameness_is_not_one() {
    let root = tempfile::tempdir().unwrap();
    let (one, two, link) = (
        root.path().join("one"),
        root.path().join("two"),
        root.path().join("current"),
    );
    for (dir, text) in [(&one, "# 1"), (&two, "# 2")] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("a.toml"), text).unwrap();
    }
    std::os::unix::fs::symlink(&one, &link).unwrap();
    let mut watch = schedules::watch(std::slice::from_ref(&link)).unwrap();
    let within = Duration::from_secs(20);

    fs::write(one.join("a.toml"), "# edited").unwrap();
    tokio::time::timeout(within, watch.changed())
        .await
        .expect("an edit");

    // An editor writes a new file and renames it.
    fs::write(one.join(".a.tmp"), "# renamed").unwrap();
    fs::rename(one.join(".a.tmp"), one.join("a.toml")).unwrap();
    tokio::time::timeout(within, watch.changed())
        .await
        .expect("a rename");

    // A deploy swaps the link.
    std::os::unix::fs::symlink(&two, root.path().join("next")).unwrap();
    fs::rename(root.path().join("next"), &link).unwrap();
    tokio::time::timeout(within, watch.changed())
        .await
        .expect("a swap");

    // The same content again is no change; the one after it is.
    fs::write(two.join("a.toml"), "# 2").unwrap();
    let none = tokio::time::timeout(Duration::from_secs(1), watch.changed()).await;
    assert!(none.is_err());
    fs::write(two.join("b.toml"), "# new").unwrap();
    tokio::time::timeout(within, watch.changed())
        .await
        .expect("a new file");
}
