//! `check`, `schema` and `next` as a user meets them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use std::fs;

use assert_cmd::Command;
use chrono::DateTime;
use tempfile::TempDir;

/// The command in a directory of its own, with these schedule files and nothing of the caller's
/// environment.
struct Cli {
    dir: TempDir,
}

struct Output {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Cli {
    fn with(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("schedules")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join("schedules").join(name), text).unwrap();
        }
        Self { dir }
    }

    fn run(&self, args: &[&str]) -> Output {
        let output = Command::new(env!("CARGO_BIN_EXE_orchestrator"))
            .args(args)
            .args(["--color", "never"])
            .env_clear()
            .current_dir(self.dir.path())
            .timeout(std::time::Duration::from_secs(60))
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            let lines: Vec<_> = text.lines().map(str::trim_end).collect();
            lines.join("\n")
        };
        Output {
            code: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    fn json(&self, args: &[&str]) -> (i32, serde_json::Value) {
        let output = self.run(&[args, &["-o", "json"]].concat());
        let value = serde_json::from_str(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", output.stdout, output.stderr));
        (output.code, value)
    }
}

const GOOD: &str = r#"
[defaults]
timezone = "Asia/Shanghai"

[job.nightly]
cron = "30 2 * * *"
command = ["true"]

[job.often]
every = "12h"
command = ["true"]

[job.page]
command = ["true", "{arg.url}"]

[job.off]
every = "1m"
enabled = false
command = ["true"]
"#;

#[test]
fn five_mistakes_in_two_files_are_shown_at_once() {
    let cli = Cli::with(&[
        (
            "a.toml",
            "[job.crawl]\ncron = \"61 2 * * *\"\ncomand = [\"python3\", \"crawl.py\"]\ntimeout = 30\n",
        ),
        (
            "b.toml",
            "[defaults]\ntimezone = \"Asia/Shanghi\"\n\n[job.crawl]\ncommand = [\"x\", \"{last_succes}\"]\n",
        ),
    ]);
    let output = cli.run(&["check"]);
    assert_eq!((output.code, output.stdout.as_str()), (3, ""));
    insta::assert_snapshot!(output.stderr, @r#"
  × cron `61 2 * * *`: minute: 61 is out of range 0-59
   ╭─[schedules/a.toml:2:9]
 1 │ [job.crawl]
 2 │ cron = "61 2 * * *"
   ·         ──
 3 │ comand = ["python3", "crawl.py"]
   ╰────

  × unknown key `comand` in [job.crawl]
   ╭─[schedules/a.toml:3:1]
 2 │ cron = "61 2 * * *"
 3 │ comand = ["python3", "crawl.py"]
   · ──────
 4 │ timeout = 30
   ╰────
  help: did you mean `command`?

  × `timeout` takes a duration as text, not a whole number
   ╭─[schedules/a.toml:4:11]
 3 │ comand = ["python3", "crawl.py"]
 4 │ timeout = 30
   ·           ──
   ╰────
  help: write it with a unit, for example "30s"

  × `timezone`: there is no time zone `Asia/Shanghi`
   ╭─[schedules/b.toml:2:12]
 1 │ [defaults]
 2 │ timezone = "Asia/Shanghi"
   ·            ──────────────
 3 │
   ╰────
  help: did you mean `Asia/Shanghai`?

  × the job `crawl` is defined twice: at schedules/a.toml:1 and at schedules/b.toml:4
   ╭─[schedules/b.toml:4:6]
 3 │
 4 │ [job.crawl]
   ·      ─────
 5 │ command = ["x", "{last_succes}"]
   ╰────
  help: job names are unique over all files: rename or remove one

  × unknown placeholder `{last_succes}`
   ╭─[schedules/b.toml:5:18]
 4 │ [job.crawl]
 5 │ command = ["x", "{last_succes}"]
   ·                  ─────────────
   ╰────
  help: did you mean `last_success`? There are {arg.NAME}, {last_success}, {scheduled_for}, {run_id}, {job}, {queue}, {attempt}

error: the schedules have 6 errors
"#);
    let (code, report) = cli.json(&["check"]);
    assert_eq!((code, &report["ok"]), (3, &serde_json::json!(false)));
    assert_eq!(report["diagnostics"].as_array().unwrap().len(), 6);
    insta::assert_snapshot!(serde_json::to_string_pretty(&report["diagnostics"][0]).unwrap(), @r#"
{
  "column": 9,
  "file": "schedules/a.toml",
  "help": null,
  "line": 2,
  "message": "cron `61 2 * * *`: minute: 61 is out of range 0-59",
  "severity": "error",
  "text": "61"
}
"#);
}

#[test]
fn a_cron_that_never_fires() {
    let cli = Cli::with(&[(
        "a.toml",
        "[job.x]\ncron = \"0 0 30 2 *\"\nshell = \"true\"\n",
    )]);
    let output = cli.run(&["check"]);
    assert_eq!(output.code, 3);
    insta::assert_snapshot!(output.stderr, @r#"
  × cron `0 0 30 2 *`: day of month: no date fits within 50 years, so it never fires
   ╭─[schedules/a.toml:2:9]
 1 │ [job.x]
 2 │ cron = "0 0 30 2 *"
   ·         ──────────
 3 │ shell = "true"
   ╰────
  help: look at the day of month and the month together

error: the schedules have 1 error
"#);
}

#[test]
fn a_job_name_with_a_dot() {
    let cli = Cli::with(&[("a.toml", "[job.crawl.page]\nshell = \"true\"\n")]);
    let output = cli.run(&["check"]);
    assert_eq!(output.code, 3);
    insta::assert_snapshot!(output.stderr, @r#"
  × the job name `crawl.page` contains a dot: a name starts with a-z or 0-9, then a-z, 0-9, `_` and `-`, at most 63 characters
   ╭─[schedules/a.toml:1:12]
 1 │ [job.crawl.page]
   ·            ────
 2 │ shell = "true"
   ╰────
  help: write [job.crawl-page]

error: the schedules have 1 error
"#);
}

#[test]
fn duplicates_name_both_places() {
    let job = "[job.x]\nshell = \"true\"\n";
    let cli = Cli::with(&[("a.toml", job), ("b.toml", &format!("\n{job}"))]);
    let output = cli.run(&["check"]);
    assert_eq!(output.code, 3);
    insta::assert_snapshot!(output.stderr, @r#"
  × the job `x` is defined twice: at schedules/a.toml:1 and at schedules/b.toml:2
   ╭─[schedules/b.toml:2:6]
 1 │
 2 │ [job.x]
   ·      ─
 3 │ shell = "true"
   ╰────
  help: job names are unique over all files: rename or remove one

error: the schedules have 1 error
"#);
}

#[test]
fn syntax_errors_of_two_files() {
    let cli = Cli::with(&[
        ("a.toml", "[job.x\nshell = \"true\"\n"),
        ("b.toml", "[job.y]\nshell = \"true\n"),
    ]);
    let output = cli.run(&["check"]);
    assert_eq!(output.code, 3);
    insta::assert_snapshot!(output.stderr, @r#"
  × TOML: unclosed table, expected `]`
   ╭─[schedules/a.toml:1:7]
 1 │ [job.x
   ·       ▲
 2 │ shell = "true"
   ╰────

  × TOML: invalid basic string, expected `"`
   ╭─[schedules/b.toml:2:14]
 1 │ [job.y]
 2 │ shell = "true
   ·              ▲
   ╰────

error: the schedules have 2 errors
"#);
}

#[test]
fn good_files_get_one_line() {
    let cli = Cli::with(&[("a.toml", GOOD)]);
    let output = cli.run(&["check"]);
    assert_eq!((output.code, output.stderr.as_str()), (0, ""));
    insta::assert_snapshot!(output.stdout, @"ok: 4 jobs in 1 file");
    assert_eq!(cli.run(&["check", "-q"]).stdout, "");
    assert_eq!(
        cli.run(&["check", "-o", "name"]).stdout,
        "nightly\noff\noften\npage"
    );
    let (code, report) = cli.json(&["check", "schedules/a.toml"]);
    assert_eq!(code, 0);
    assert_eq!(
        report,
        serde_json::json!({ "ok": true, "jobs": 4, "diagnostics": [] })
    );
}

#[test]
fn warnings_pass() {
    let cli = Cli::with(&[(
        "a.toml",
        "[job.x]\nat = 2020-01-01T00:00:00Z\nshell = \"true\"\n",
    )]);
    let output = cli.run(&["check"]);
    assert_eq!(output.code, 0);
    assert_eq!(output.stdout, "ok: 1 job in 1 file, 1 warning");
    insta::assert_snapshot!(output.stderr, @r#"
 ⚠ `at` lies in the past, so this job never comes due
  ╭─[schedules/a.toml:2:1]
1 │ [job.x]
2 │ at = 2020-01-01T00:00:00Z
  · ──
3 │ shell = "true"
  ╰────
 help: it can still be run by hand; remove it when it is no longer needed
"#);
}

#[test]
fn a_missing_directory_is_named() {
    let cli = Cli::with(&[]);
    let output = cli.run(&["next", "--schedules", "nowhere"]);
    assert_eq!(output.code, 3);
    insta::assert_snapshot!(output.stderr, @r#"
  × nowhere: there is no such file or directory
  help: give the directory with --schedules, or make one with a *.toml file in it

error: the schedules have 1 error
"#);
}

#[test]
fn the_schema_is_the_stored_one() {
    let (code, schema) = Cli::with(&[]).json(&["schema"]);
    assert_eq!(code, 0);
    let stored: serde_json::Value =
        serde_json::from_str(include_str!("../docs/schedule.schema.json")).unwrap();
    assert_eq!(schema, stored);
}

#[test]
fn next_of_all_jobs_in_the_order_of_time() {
    let cli = Cli::with(&[("a.toml", GOOD)]);
    let (code, next) = cli.json(&["next", "--after", "2026-11-23T10:00:00Z", "--count", "3"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!(serde_json::to_string_pretty(&next).unwrap(), @r#"
[
  {
    "at": "2026-11-23T20:00:00+08:00",
    "job": "often",
    "starts_at": "2026-11-23T20:00:00+08:00",
    "utc": "2026-11-23T12:00:00Z"
  },
  {
    "at": "2026-11-24T02:30:00+08:00",
    "job": "nightly",
    "starts_at": "2026-11-24T02:30:00+08:00",
    "utc": "2026-11-23T18:30:00Z"
  },
  {
    "at": "2026-11-24T08:00:00+08:00",
    "job": "often",
    "starts_at": "2026-11-24T08:00:00+08:00",
    "utc": "2026-11-24T00:00:00Z"
  }
]
"#);
    let names = cli.run(&[
        "next",
        "--after",
        "2026-11-23T10:00:00Z",
        "-n",
        "2",
        "-o",
        "name",
    ]);
    insta::assert_snapshot!(names.stdout, @r#"
often 2026-11-23T20:00:00+08:00
nightly 2026-11-24T02:30:00+08:00
"#);
    let table = cli.run(&[
        "next",
        "nightly",
        "--after",
        "2020-11-23T10:00:00",
        "-n",
        "2",
    ]);
    let columns: Vec<_> = table
        .stdout
        .lines()
        .map(|line| {
            line.split_whitespace()
                .take(3)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    insta::assert_snapshot!(columns.join("\n"), @r#"
JOB LOCAL UTC
nightly 2020-11-24T02:30:00+08:00 2020-11-23T18:30:00Z
nightly 2020-11-25T02:30:00+08:00 2020-11-24T18:30:00Z
"#);
}

#[test]
fn jobs_without_ticks_say_so() {
    let cli = Cli::with(&[("a.toml", GOOD)]);
    let page = cli.run(&["next", "page", "-o", "json"]);
    assert_eq!((page.code, page.stdout.as_str()), (0, "[]"));
    assert_eq!(page.stderr, "`page` has no trigger: it is run by hand");
    let off = cli.run(&["next", "off", "-n", "1"]);
    assert_eq!(
        off.stderr,
        "`off` is disabled: it would come due at these times"
    );
}

#[test]
fn an_unknown_job_gets_the_nearest_name() {
    let cli = Cli::with(&[("a.toml", GOOD)]);
    let output = cli.run(&["next", "nigthly"]);
    assert_eq!(output.code, 4);
    insta::assert_snapshot!(output.stderr, @r#"
error: there is no job `nigthly`
 help: did you mean `nightly`?
"#);
}

#[test]
fn triggers_that_are_only_thought_of() {
    let cli = Cli::with(&[]);
    let (code, next) = cli.json(&[
        "next",
        "--cron",
        "30 2 * * *",
        "--timezone",
        "Europe/Berlin",
        "--after",
        "2026-03-28T12:00:00",
        "--count",
        "2",
    ]);
    assert_eq!(code, 0);
    insta::assert_snapshot!(serde_json::to_string(&next).unwrap(), @r#"[{"at":"2026-03-29T03:00:00+02:00","utc":"2026-03-29T01:00:00Z"},{"at":"2026-03-30T02:30:00+02:00","utc":"2026-03-30T00:30:00Z"}]"#);
    let (_, next) = cli.json(&[
        "next",
        "--every",
        "20h",
        "--after",
        "2026-11-23T10:00:00Z",
        "--count",
        "1",
    ]);
    insta::assert_snapshot!(serde_json::to_string(&next).unwrap(), @r#"[{"at":"2026-11-23T20:00:00+00:00","utc":"2026-11-23T20:00:00Z"}]"#);
    for (args, code, message) in [
        (["--cron", "* 24 * * *"], 3, "hour: 24 is out of range 0-23"),
        (["--cron", "-5 * * * *"], 3, "minute:"),
        (["--every", "soon"], 3, "`soon` is not a duration"),
        (
            ["--timezone", "Europe/Berln"],
            2,
            "did you mean `Europe/Berlin`?",
        ),
        (
            ["--after", "yesterday"],
            2,
            "--after: `yesterday` is not a date",
        ),
    ] {
        let cron: &[&str] = if code == 2 {
            &["--cron", "@daily"]
        } else {
            &[]
        };
        let output = cli.run(&[&["next"], &args[..], cron].concat());
        assert_eq!(output.code, code, "{}", output.stderr);
        assert!(output.stderr.contains(message), "{}", output.stderr);
    }
}

#[test]
fn the_corpus_through_the_command_line() {
    let cli = Cli::with(&[]);
    let corpus = include_str!("data/cron/corpus_public.jsonl");
    for line in corpus.lines().step_by(23) {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        let expected = entry["next"].as_array().unwrap();
        let (code, found) = cli.json(&[
            "next",
            "--cron",
            &text("expr"),
            "--timezone",
            &text("tz"),
            "--after",
            &text("after"),
            "--count",
            &expected.len().to_string(),
        ]);
        assert_eq!(code, 0, "{line}");
        let at: Vec<_> = found
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["at"])
            .collect();
        assert_eq!(at, expected.iter().collect::<Vec<_>>(), "{line}");
        assert!(DateTime::parse_from_rfc3339(at[0].as_str().unwrap()).is_ok());
    }
    let fields = [
        "second",
        "minute",
        "hour",
        "day of month",
        "month",
        "day of week",
        "field",
        "macro",
        "empty",
        "line",
    ];
    let invalid = include_str!("data/cron/invalid_public.jsonl");
    for line in invalid.lines().step_by(7) {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let output = cli.run(&["next", "--cron", entry["expr"].as_str().unwrap()]);
        assert_eq!(output.code, 3, "{line}");
        assert!(
            fields.iter().any(|field| output.stderr.contains(field)),
            "{line}: {}",
            output.stderr
        );
    }
}

/// What a terminal would obey of an output: everything but lines, tabs and colours.
fn obeyed(output: &[u8]) -> Vec<char> {
    let text = String::from_utf8(output.to_vec()).unwrap();
    let mut found = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c == '\x1b' && rest.peek() == Some(&'[') {
            let end = rest.find(|c| c.is_ascii_alphabetic());
            found.extend(end.filter(|&end| end != 'm'));
        } else if (c.is_control() && !matches!(c, '\n' | '\t')) || c == '\u{202e}' {
            found.push(c);
        }
    }
    found
}

#[test]
fn what_is_read_does_nothing_to_a_terminal() {
    const HOSTILE: &str = "\x1b]0;title\x07\x1b[2J\x1b[8mhidden\u{202e}\u{9b}2Jend";
    let broken = format!(
        "[job.a]\r\nevery = \"1x\" # {HOSTILE}\r\nshell = \"{HOSTILE}\"\r\n[job.\"{HOSTILE}\"]\r\n"
    );
    let escaped = "[job.b]\nevery = \"1m\"\nshell = \"true\"\ntimezone = \"\\u001b[2J\u{202e}\"\n\"\\u001b[8m\" = 1\n";
    let crontab = format!("MAILTO={HOSTILE}\n* * * * * echo {HOSTILE}\n61 * * * * {HOSTILE}\n");
    let cli = Cli::with(&[("a.toml", &broken), ("b.toml", escaped)]);
    for colors in ["always", "never"] {
        for args in [&["check"][..], &["import", "crontab", "-"]] {
            let ended = Command::new(env!("CARGO_BIN_EXE_orchestrator"))
                .args(args)
                .args(["--color", colors])
                .env_clear()
                .current_dir(cli.dir.path())
                .write_stdin(crontab.as_str())
                .output()
                .unwrap();
            let all = [ended.stdout, ended.stderr].concat();
            assert_eq!(obeyed(&all), [], "{args:?} {}", all.escape_ascii());
            let all = String::from_utf8(all).unwrap();
            assert!(all.contains("title") && all.contains('␛'), "{args:?} {all}");
            assert!(!all.contains("\x1b[8m"), "{args:?} {all:?}");
            assert_eq!(all.contains("\x1b["), colors == "always", "{args:?}");
            // The end of a line of Windows is nothing to be shown.
            assert!(!all.contains('␍'), "{args:?} {all:?}");
        }
    }
}

/// They are how a service gets into NATS, and what it signs with.
#[test]
fn no_job_and_no_webhook_names_the_credentials_of_a_service() {
    let cli = Cli::with(&[(
        "a.toml",
        "[job.a]\ncredential = \"nats-password\"\ncommand = [\"true\"]\n\
         [job.b]\ncredential = [\"fine\", \"orchestrator-signing-key\"]\ncommand = [\"true\"]\n\
         [job.c]\ncredential = \"natsuki\"\ncommand = [\"true\"]\n\
         [notify.n]\nurl = \"https://x/{credential.nats-token}\"\n\
         [notify.m]\nurl = \"https://x\"\nsecret = \"nats-nkey\"\n",
    )]);
    let checked = cli.run(&["check"]);
    assert_eq!(checked.code, 3, "{}", checked.stdout);
    let said = format!("{}{}", checked.stdout, checked.stderr);
    for name in [
        "nats-password",
        "orchestrator-signing-key",
        "nats-token",
        "nats-nkey",
    ] {
        let told = format!("`{name}` is a credential of the services themselves");
        assert!(said.contains(&told), "{name}: {said}");
    }
    assert_eq!(
        said.matches("of the services themselves").count(),
        4,
        "{said}"
    );
}
