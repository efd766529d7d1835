//! `[blackout.NAME]` and `anchor` through the loader: what they mean, what is refused and where.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use orchestrator::{
    job::{Anchor, Job, Overlap},
    schedules::{self, LoadError, Loaded, Severity, Source},
};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn parse(files: &[(&str, &str)]) -> Result<Loaded, LoadError> {
    let sources: Vec<_> = files
        .iter()
        .map(|(name, text)| Source::new(name, text, PathBuf::from("/srv/jobs")))
        .collect();
    schedules::parse(&sources, at("2026-11-23T10:00:00Z"))
}

fn job(files: &[(&str, &str)]) -> Job {
    let loaded = parse(files).unwrap_or_else(|error| panic!("{:#?}", error.diagnostics));
    Job::clone(loaded.set.get(&"x".parse().unwrap()).unwrap())
}

const X: &str = "[job.x]\nevery = \"1h\"\nshell = \"true\"\n";

/// Every finding, as `FILE:LINE message | help`.
fn errors(files: &[(&str, &str)]) -> Vec<String> {
    let found = parse(files).unwrap_err().diagnostics;
    let told = found.iter().map(|one| {
        let place = one.location().unwrap();
        let place = place.rsplit_once(':').unwrap().0;
        format!("{place} {} | {}", one.message(), one.help().unwrap_or("-"))
    });
    told.collect()
}

#[test]
fn a_job_names_blackouts_of_any_file() {
    let a = format!("{X}blackout = [\"night\", \"fair\"]\n");
    let b = "[defaults]\ntimezone = \"Europe/Berlin\"\n\
             [blackout.night]\ncron = \"0 22 * * THU\"\nduration = \"3h\"\n\
             [blackout.fair]\nfrom = 2026-12-24\nto = \"2026-12-26\"\n";
    for files in [
        [("a.toml", a.as_str()), ("b.toml", b)],
        [("b.toml", b), ("a.toml", &a)],
    ] {
        let job = job(&files);
        let blackout = |text: &str| job.blackout_of(at(text)).map(|one| one.name.to_string());
        // 22:00 to 01:00 in Berlin, which is an hour ahead of UTC.
        assert_eq!(blackout("2026-11-26T20:59:59Z"), None);
        assert_eq!(blackout("2026-11-26T21:00:00Z").unwrap(), "night");
        assert_eq!(blackout("2026-11-26T23:59:59Z").unwrap(), "night");
        assert_eq!(blackout("2026-11-27T00:00:00Z"), None);
        // Whole days in Berlin, the last one included.
        assert_eq!(blackout("2026-12-23T22:59:59Z"), None);
        assert_eq!(blackout("2026-12-23T23:00:00Z").unwrap(), "fair");
        assert_eq!(blackout("2026-12-26T22:59:59Z").unwrap(), "fair");
        assert_eq!(blackout("2026-12-26T23:00:00Z"), None);
    }
}

#[test]
fn defaults_name_blackouts_and_a_job_can_take_that_back() {
    let file = format!(
        "[defaults]\nblackout = \"fair\"\n[blackout.fair]\nfrom = 2026-12-24T12:00:00Z\nto = 2026-12-25T12:00:00Z\n{X}"
    );
    let files = [("a.toml", file.as_str())];
    assert_eq!(job(&files).policy.blackouts.len(), 1);
    let taken_back = format!("{file}blackout = []\n");
    assert!(job(&[("a.toml", &taken_back)]).policy.blackouts.is_empty());
}

#[test]
fn a_definition_survives_the_wire() {
    let file = format!(
        "{X}anchor = \"last_success\"\noverlap = \"replace\"\nblackout = \"night\"\n\
         [blackout.night]\ncron = \"@daily\"\nduration = \"1h\"\n"
    );
    let job = job(&[("a.toml", &file)]);
    assert_eq!(job.trigger.anchor(), Anchor::LastSuccess);
    assert_eq!(job.policy.overlap, Overlap::Replace);
    let wire = serde_json::to_string(&job).unwrap();
    assert_eq!(serde_json::from_str::<Job>(&wire).unwrap(), job);
}

#[test]
fn an_anchor_of_the_defaults_holds_for_intervals_without_an_offset() {
    let anchor = |lines: &str| {
        let file =
            format!("[defaults]\nanchor = \"last_start\"\n[job.x]\nshell = \"true\"\n{lines}");
        job(&[("a.toml", &file)]).trigger.anchor()
    };
    assert_eq!(anchor("every = \"1h\"\n"), Anchor::LastStart);
    assert_eq!(anchor("every = \"1h\"\noffset = \"1m\"\n"), Anchor::Epoch);
    assert_eq!(anchor("cron = \"@daily\"\n"), Anchor::Epoch);
}

#[test]
fn an_anchor_is_part_of_the_trigger() {
    let fingerprint = |more: &str| job(&[("a.toml", &format!("{X}{more}"))]).fingerprint();
    assert_ne!(fingerprint(""), fingerprint("anchor = \"last_start\"\n"));
    assert_eq!(fingerprint(""), fingerprint("anchor = \"epoch\"\n"));
    assert_eq!(fingerprint(""), fingerprint("overlap = \"queue\"\n"));
}

#[test]
fn mistakes_are_found_with_their_places() {
    let one = |blackout: &str| {
        let text = format!("[blackout.b]\n{blackout}\n{X}blackout = \"b\"\n");
        let found = errors(&[("a.toml", &text)]);
        assert_eq!(found.len(), 1, "{found:#?}");
        found[0].clone()
    };
    for (blackout, expected) in [
        (
            "",
            "a.toml:1 a blackout has either `cron` and `duration`, or `from` and `to`",
        ),
        ("cron = \"@daily\"", "a.toml:1 a blackout has either"),
        (
            "cron = \"@daily\"\nfrom = 2026-12-24",
            "a.toml:1 a blackout has either",
        ),
        ("cron = \"@daly\"\nduration = \"1h\"", "a.toml:2 "),
        ("cron = \"0 0 30 2 *\"\nduration = \"1h\"", "a.toml:2 "),
        (
            "cron = \"@daily\"\nduration = \"0s\"",
            "a.toml:3 `duration` must be longer than nothing",
        ),
        (
            "cron = \"@daily\"\nduraton = \"1h\"",
            "a.toml:3 unknown key `duraton` in [blackout.b] | did you mean `duration`?",
        ),
        (
            "from = 2026-12-24\nto = 2026-12-23",
            "a.toml:3 `to` does not lie after `from`",
        ),
        (
            "from = 2026-12-24\nto = 17",
            "a.toml:3 `to` takes a date, not a whole number",
        ),
        (
            "from = \"soon\"\nto = 2026-12-24",
            "a.toml:2 `soon` is not a date with a time",
        ),
        (
            "from = 2026-12-24\nto = 2026-12-25\ntimezone = \"Mars\"",
            "a.toml:4 `timezone`: there is no time zone `Mars`",
        ),
    ] {
        let found = one(blackout);
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn names_are_checked_over_all_files() {
    let fair = "[blackout.fair]\nfrom = 2026-12-24\nto = 2026-12-26\n";
    let twice = errors(&[("a.toml", fair), ("b.toml", fair)]);
    assert_eq!(
        twice,
        [
            "b.toml:1 the blackout `fair` is defined twice: at a.toml:1 and at b.toml:1 | blackout names are unique over all files: rename or remove one"
        ]
    );
    let misspelt = format!("{X}blackout = [\"fiar\"]\n{fair}");
    assert_eq!(
        errors(&[("a.toml", &misspelt)]),
        ["a.toml:4 there is no blackout `fiar` | did you mean `fair`?"]
    );
    let bad = "[blackout.\"The Fair\"]\nfrom = 2026-12-24\nto = 2026-12-26\n";
    assert!(errors(&[("a.toml", bad)])[0].contains("write [blackout.the-fair]"));
    assert!(errors(&[("a.toml", "blackout = 1\n")])[0].contains("write [blackout.NAME]"));
}

#[test]
fn a_job_that_never_comes_out_of_its_blackout_is_told() {
    let file = "[blackout.night]\ncron = \"0 2 * * *\"\nduration = \"2h\"\n\
                [job.x]\ncron = \"30 2 * * *\"\nblackout = \"night\"\nshell = \"true\"\n\
                [job.y]\ncron = \"30 2,4 * * *\"\nblackout = \"night\"\nshell = \"true\"\n";
    let warnings = parse(&[("a.toml", file)]).unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert_eq!(warnings[0].line(), Some(6));
    assert!(warnings[0].message().contains("`x`"));
}

#[test]
fn one_that_is_over_is_told() {
    let file = format!("{X}[blackout.old]\nfrom = 2026-01-01\nto = 2026-01-02\n");
    let warnings = parse(&[("a.toml", &file)]).unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].severity(), Severity::Warning);
    assert_eq!(warnings[0].message(), "this blackout is over");
}
