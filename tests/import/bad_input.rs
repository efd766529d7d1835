//! Wrong files, wrong entries, wrong arguments.

use std::fs;

use super::support::Cli;

const KINDS: [&str; 3] = ["crontab", "celery", "kubernetes"];

#[test]
fn what_is_no_text_is_refused_with_its_place() {
    let large = "# x\n".repeat(2_700_000);
    let cases: [(&[u8], &str, &str); 5] = [
        (b"", "it is empty", "right file"),
        (b"\xef\xbb\xbf \n\n", "it is empty", "right file"),
        (b"a\nb\x00c\n", "line 2: a NUL character", "right file"),
        (
            b"# a\n# \xe9t\xe9\n",
            "line 2: byte 0xe9 is not UTF-8",
            "iconv",
        ),
        (large.as_bytes(), "larger than 4 MiB", "split it"),
    ];
    for (content, message, help) in cases {
        let cli = Cli::with("input", content);
        for kind in KINDS {
            let output = cli.import(&[kind, "input"]);
            assert_eq!((output.code, output.stdout.as_str()), (3, ""), "{kind}");
            assert!(output.stderr.contains("input: "), "{}", output.stderr);
            assert!(output.stderr.contains(message), "{}", output.stderr);
            assert!(output.stderr.contains(help), "{}", output.stderr);
        }
    }
}

#[test]
fn what_is_of_another_kind_is_refused_with_its_line() {
    for (kind, content, message, line) in [
        ("crontab", "# nothing\n\nA=1\n", "there is no entry", ":1:"),
        (
            "crontab",
            "# a\nNov 23 09:48:01 host sshd: failed\n",
            "cron `Nov 23",
            ":2:",
        ),
        ("crontab", "{\n}\n", "this is no entry", ":1:"),
        ("celery", "{\n \"a\": {,\n}", "this is not JSON", ":2:"),
        ("celery", "{}", "there is no entry", ":1:"),
        ("celery", "[]", "there is no entry", ":1:"),
        ("celery", "3", "holds no entries", ":1:"),
        (
            "celery",
            "[{\"model\": \"x\"}]",
            "rows of a Django database",
            ":1:",
        ),
        ("kubernetes", "a: 1\nb: [\n", "this is not YAML", ":"),
        (
            "kubernetes",
            "---\nkind: Service\n",
            "there is no CronJob in it; it has: Service",
            ":2:",
        ),
        ("kubernetes", "just text\n", "there is no CronJob", ":1:"),
        (
            "kubernetes",
            "kind: List\nitems: []\n",
            "there is no CronJob",
            ":1:",
        ),
    ] {
        let cli = Cli::with("input", content);
        let output = cli.import(&[kind, "input"]);
        assert_eq!((output.code, output.stdout.as_str()), (3, ""), "{content}");
        assert!(output.stderr.contains(message), "{}", output.stderr);
        assert!(
            output.stderr.contains(&format!("input{line}")),
            "{}",
            output.stderr
        );
        assert!(output.stderr.contains("help:"), "{}", output.stderr);
    }
}

#[test]
fn a_wrong_line_stays_where_it_is() {
    let cli = Cli::with("tab", "* * * * * good\n61 * * * * bad\n@daily fine\n");
    let output = cli.import(&["crontab", "tab", "--timezone", "UTC"]);
    assert_eq!(output.code, 1);
    insta::assert_snapshot!(output.stderr, @r"
      × cron `61 * * * *`: minute: 61 is out of range 0-59
       ╭─[tab:2:1]
     1 │ * * * * * good
     2 │ 61 * * * * bad
       · ──────────────
     3 │ @daily fine
       ╰────

    error: 1 entry was left out, 2 imported
     help: what was left out is in the output, as comments
    ");
    assert!(output.stdout.contains("# line 2: 61 * * * * bad\n"));
    assert_eq!(cli.checked(&output.stdout).set.len(), 2);
}

#[test]
fn line_ends_of_windows_change_nothing() {
    for (kind, text) in [
        ("crontab", include_str!("user.crontab")),
        ("celery", include_str!("beat.json")),
        ("kubernetes", include_str!("cronjobs.yaml")),
    ] {
        let cli = Cli::new();
        let plain = cli.import_from(&[kind, "-"], text);
        let windows = cli.import_from(&[kind, "-"], text.replace('\n', "\r\n"));
        assert_eq!(plain.stdout, windows.stdout);
        assert_eq!(plain.code, windows.code);
    }
}

#[test]
fn equal_names_are_numbered() {
    let cli = Cli::new();
    let output = cli.import_from(
        &["celery", "-", "-o", "name"],
        r#"{"Ä": {"task": "a.b", "schedule": 5},
        "a b": {"task": "a.b", "schedule": 5}, "a b": {"task": "a.b", "schedule": 6}}"#,
    );
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (0, "name\na-b\na-b-2\n")
    );
}

#[test]
fn files_are_only_overwritten_when_asked_to() {
    let cli = Cli::with("tab", "* * * * * true\n");
    let args = ["crontab", "tab", "--timezone", "UTC", "--write", "out.toml"];
    let first = cli.import(&args);
    assert_eq!(
        (first.code, first.stdout.as_str(), first.stderr.as_str()),
        (0, "", "")
    );
    let written = fs::read_to_string(cli.path("out.toml")).unwrap();
    assert!(written.contains("[job.true]"));
    fs::write(cli.path("out.toml"), "mine").unwrap();
    let second = cli.import(&args);
    assert_eq!(second.code, 7);
    assert!(second.stderr.contains("--force"), "{}", second.stderr);
    assert_eq!(fs::read_to_string(cli.path("out.toml")).unwrap(), "mine");
    assert_eq!(cli.import(&[&args[..], &["--force"]].concat()).code, 0);
    assert_eq!(fs::read_to_string(cli.path("out.toml")).unwrap(), written);
}

#[test]
fn what_is_said_is_also_json() {
    let cli = Cli::with("tab", "* * * * * root true\n61 * * * * a\n");
    let output = cli.import(&["crontab", "tab", "-o", "json"]);
    assert_eq!(output.code, 1);
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(report["jobs"], serde_json::json!(["true"]));
    assert_eq!(report["left_out"], 1);
    assert_eq!(report["diagnostics"][0]["line"], 1);
    assert!(report["toml"].as_str().unwrap().contains("[job.true]"));
    let refused = cli.import(&["celery", "tab", "-o", "json"]);
    assert_eq!(refused.code, 3);
    let report: serde_json::Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!(report["diagnostics"][0]["severity"], "error");
}

#[test]
fn a_missing_file_and_a_wrong_zone_say_so() {
    let cli = Cli::new();
    let output = cli.import(&["crontab", "nothing"]);
    assert_eq!(output.code, 3);
    assert!(
        output.stderr.contains("nothing: there is no such file"),
        "{}",
        output.stderr
    );
    let output = cli.import(&["crontab", "-", "--timezone", "Europe/Berlim"]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("did you mean `Europe/Berlin`"),
        "{}",
        output.stderr
    );
    assert_eq!(cli.import(&["crontab", "."]).code, 3);
}

#[test]
fn long_lines_are_cut_where_they_are_shown() {
    let beat = format!(
        "{{\"a\": {{\"task\": \"a.b\", \"schedule\": 1.5, \"x\": \"{}\"}}}}",
        "y".repeat(100_000)
    );
    let output = Cli::new().import_from(&["celery", "-"], beat);
    assert_eq!(output.code, 0);
    assert!(output.stderr.len() < 3_000, "{}", output.stderr.len());
}
