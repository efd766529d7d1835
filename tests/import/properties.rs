//! Whatever is imported, the result is read by the loader, and has the jobs that were promised.

use orchestrator::schedules::{
    Source,
    import::{self, ImportError, Imported, Input, Target, Users},
    parse,
};
use proptest::prelude::*;

fn input(text: &str) -> Input<'_> {
    Input {
        name: "input",
        text,
        timezone: None,
        now: "2026-11-23T00:00:00Z".parse().unwrap(),
    }
}

fn holds(imported: Result<Imported, ImportError>, source: &str) {
    let Ok(imported) = imported else {
        return;
    };
    let file = Source::new("out.toml", &imported.toml, "/".into());
    let loaded = match parse(&[file], input("").now) {
        Ok(loaded) => loaded,
        Err(error) => panic!("{source:?}\n{:?}\n{}", error.diagnostics, imported.toml),
    };
    assert_eq!(loaded.set.len(), imported.jobs.len());
    assert!(
        imported
            .jobs
            .iter()
            .all(|name| loaded.set.get(name).is_some())
    );
}

/// Words that mean something somewhere, and ones that are trouble.
fn word() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "*",
        "*/5",
        "0",
        "1-5",
        "mon",
        "61",
        "@daily",
        "@reboot",
        "root",
        "A=1",
        "CRON_TZ=",
        "SHELL=/bin/bash",
        "HOME=/x",
        "MAILTO=a@b",
        "ORCHESTRATOR_X=1",
        "true",
        "%",
        "\\%",
        "\\\\",
        "{arg.x}",
        "{job}",
        "{",
        "}}",
        "'''",
        "\"\"\"",
        "\"",
        "#",
        "ü",
        "\u{7f}",
        "\u{1}",
        "\u{85}",
        "\u{2028}",
        "[job.x]",
        "INPUT",
        "/usr/bin/x.py",
    ]);
    prop_oneof![8 => known.prop_map(str::to_owned), 1 => "\\PC{0,8}", 1 => any::<String>()]
}

fn lines() -> impl Strategy<Value = String> {
    let entry = ("(\\* ){5}", prop::collection::vec(word(), 0..5))
        .prop_map(|(when, words)| when + &words.join(" "));
    let any = prop::collection::vec(word(), 0..9).prop_map(|words| words.join(" "));
    prop::collection::vec(prop_oneof![entry, any], 1..8).prop_map(|lines| lines.join("\n"))
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        word().prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec((word(), inner), 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

fn beat() -> impl Strategy<Value = String> {
    let entry = (json(), json(), json(), json(), word()).prop_map(|(args, kwargs, schedule, options, task)| {
        let schedule = if args.is_null() { serde_json::json!(30) } else { schedule };
        serde_json::json!({"task": format!("a.{task}"), "schedule": schedule, "args": args, "kwargs": kwargs,
            "options": {"queue": options, "expires": task}, "description": task})
    });
    let entries = prop::collection::vec((word(), entry), 1..4);
    entries.prop_map(|entries| serde_json::Value::Object(entries.into_iter().collect()).to_string())
}

/// A CronJob in JSON, which is YAML, too.
fn cron_jobs() -> impl Strategy<Value = String> {
    let parts = (word(), word(), json(), json(), any::<i64>(), json());
    let one = parts.prop_map(|(name, text, command, env, number, other)| {
        serde_json::json!({"kind": "CronJob", "metadata": {"name": name, "annotations": {"description": text}},
            "spec": {"schedule": if number % 2 == 0 { "0 5 * * *" } else { &text }, "timeZone": other,
                "concurrencyPolicy": text, "startingDeadlineSeconds": number, "jobTemplate": {"spec": {
                    "backoffLimit": number, "activeDeadlineSeconds": number.wrapping_abs(), "template": {"spec": {
                        "terminationGracePeriodSeconds": number, "containers": [{"image": text, "command": [text, name],
                            "args": command, "env": [{"name": name, "value": text}, env], "workingDir": text}]}}}}}})
    });
    prop::collection::vec(one, 1..3)
        .prop_map(|all| serde_json::json!({"kind": "List", "items": all}).to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn crontabs(text in lines()) {
        for users in [Users::None, Users::Column] {
            holds(import::crontab(&input(&text), users), &text);
        }
    }

    #[test]
    fn schedules_of_celery(text in beat()) {
        for target in [Target::Function, Target::App("a{b".to_owned())] {
            holds(import::celery(&input(&text), &target), &text);
        }
    }

    #[test]
    fn cron_jobs_of_kubernetes(text in cron_jobs()) {
        holds(import::kubernetes(&input(&text)), &text);
    }

    #[test]
    fn any_text(text in any::<String>()) {
        holds(import::crontab(&input(&text), Users::None), &text);
        holds(import::celery(&input(&text), &Target::Function), &text);
        holds(import::kubernetes(&input(&text)), &text);
    }
}
