use super::*;
use crate::job::{HttpRequest, RunSpec};

fn message(execute: Execute) -> RunMessage {
    let run_id = "crawl-full@20261123T023000Z".parse().unwrap();
    let at = "2026-11-23T02:30:00Z".parse().unwrap();
    RunMessage::new(run_id, "high".parse().unwrap(), at, RunSpec::new(execute))
}

fn globs(texts: &[&str]) -> Option<Vec<Glob>> {
    Some(texts.iter().map(|text| text.parse().unwrap()).collect())
}

#[test]
fn every_rule_has_its_name() {
    let command = || message(Execute::Command(vec!["crawl".parse().unwrap()]));
    let shell = message(Execute::Shell("crawl".to_owned()));
    let executables = ["/opt/crawler/bin/crawl".into()];
    let found = Found {
        executables: &executables,
        working_dir: Some(Path::new("/srv/crawler/data")),
        own_user: "orchestrator",
        ..Found::default()
    };
    let rule = |policy: WorkerPolicy, message: &RunMessage| {
        policy
            .check(message, &message.queue, found)
            .err()
            .map(|broken| broken.rule)
    };
    let policy = WorkerPolicy::default;
    assert_eq!(rule(policy(), &command()), None);
    assert_eq!(rule(policy(), &shell), Some("shell"));
    assert_eq!(
        rule(
            WorkerPolicy {
                shell: true,
                ..policy()
            },
            &shell
        ),
        None
    );
    let cases = [
        (
            &["crawl-*"][..],
            &["default", "high"][..],
            &["/opt/crawler/bin/*"][..],
            &["/srv/crawler"][..],
            None,
        ),
        (&["crawl"], &["high"], &["**"], &["/"], Some("jobs")),
        (&["*"], &["default"], &["**"], &["/"], Some("queues")),
        (
            &["*"],
            &["*"],
            &["/opt/*", "crawl"],
            &["/"],
            Some("executables"),
        ),
        (
            &["*"],
            &["*"],
            &["/opt/**"],
            &["/srv/crawl", "/srv/crawler/data/x"],
            Some("working_dirs"),
        ),
        (&[], &[], &[], &[], Some("jobs")),
    ];
    for (jobs, queues, executables, working_dirs, expected) in cases {
        let policy = WorkerPolicy {
            jobs: globs(jobs),
            queues: globs(queues),
            executables: globs(executables),
            working_dirs: globs(working_dirs),
            ..policy()
        };
        assert_eq!(rule(policy, &command()), expected);
    }
    let mut preloaded = command();
    preloaded
        .spec
        .env
        .insert("LD_PRELOAD".to_owned(), "/tmp/x.so".to_owned());
    let listed = WorkerPolicy {
        executables: globs(&["**"]),
        ..policy()
    };
    assert_eq!(rule(listed, &preloaded), Some("executables"));
    assert_eq!(rule(policy(), &preloaded), None);
}

#[test]
fn a_user_is_named_and_listed_or_the_workers_own() {
    let users = |names: &[&str]| WorkerPolicy {
        users: Some(names.iter().map(|name| name.parse().unwrap()).collect()),
        shell: true,
        http: true,
        ..WorkerPolicy::default()
    };
    let without = WorkerPolicy {
        users: None,
        ..users(&[])
    };
    let shell = |user: Option<&str>| {
        let mut message = message(Execute::Shell("crawl".to_owned()));
        message.spec.run_as = user.map(|user| user.parse().unwrap());
        message
    };
    let found = Found {
        own_user: "root",
        ..Found::default()
    };
    for (policy, user, allowed) in [
        (&without, None, true),
        (&without, Some("crawler"), false),
        (&without, Some("root"), false),
        (&users(&["crawler"]), Some("crawler"), true),
        (&users(&["crawler"]), Some("crawl"), false),
        (&users(&["crawler"]), Some("root"), false),
        // Who leaves it out must not be root by that.
        (&users(&["crawler"]), None, false),
        (&users(&["crawler", "root"]), None, true),
        (&users(&[]), Some("crawler"), false),
        (&users(&[]), None, false),
    ] {
        let message = shell(user);
        let checked = policy.check(&message, &message.queue, found);
        let rule = checked.as_ref().err().map(|broken| broken.rule);
        let expected = (!allowed).then_some("users");
        assert_eq!(rule, expected, "{:?} {user:?}", policy.users);
    }
    assert_eq!(WorkerPolicy::check_without(&shell(None)), Ok(()));
    let refused = WorkerPolicy::check_without(&shell(Some("crawler"))).unwrap_err();
    let told = refused.to_string();
    for part in ["`run_as = \"crawler\"`", "rule `users`", "--policy"] {
        assert!(told.contains(part), "{told}");
    }
    let request = HttpRequest::get("http://127.0.0.1:1/".parse().unwrap());
    let mut http = message(Execute::Http(Box::new(request)));
    let checked = |message: &RunMessage| users(&["crawler"]).check(message, &message.queue, found);
    assert_eq!(checked(&http), Ok(()), "no program is started");
    http.spec.run_as = Some("crawler".parse().unwrap());
    assert_eq!(checked(&http).unwrap_err().rule, "users");
}

#[test]
fn every_program_that_another_user_may_find_is_looked_at() {
    let mut command = message(Execute::Command(vec!["crawl".parse().unwrap()]));
    command.spec.run_as = Some("crawler".parse().unwrap());
    let policy = WorkerPolicy {
        executables: globs(&["/opt/*"]),
        working_dirs: globs(&["/srv"]),
        users: Some(vec!["crawler".parse().unwrap()]),
        ..WorkerPolicy::default()
    };
    let rule = |found: Found<'_>| {
        let checked = policy.check(&command, &command.queue, found);
        checked.err().map(|broken| broken.rule)
    };
    let good = ["/opt/crawl".into()];
    let both = ["/opt/crawl".into(), "/usr/bin/crawl".into()];
    let found = Found {
        executables: &good,
        working_dir: Some(Path::new("/srv")),
        ..Found::default()
    };
    let (executable, working_dir) = (Some(Path::new("/x/y")), Some(Path::new("/x")));
    assert_eq!(rule(found), None);
    let executables = &both;
    assert_eq!(
        rule(Found {
            executables,
            ..found
        }),
        Some("executables")
    );
    let hidden = Hidden {
        executable,
        ..Hidden::default()
    };
    assert_eq!(rule(Found { hidden, ..found }), Some("executables"));
    let hidden = Hidden {
        working_dir,
        ..Hidden::default()
    };
    assert_eq!(rule(Found { hidden, ..found }), Some("working_dirs"));
}

#[test]
fn variables_do_not_make_other_programs_of_those_that_are_listed() {
    let executables = ["/opt/hello".into()];
    let rule = |policy: &WorkerPolicy, name: &str| {
        let plain = message(Execute::Command(vec!["/opt/hello".parse().unwrap()]));
        let mut set = plain.clone();
        set.spec.env.insert(name.to_owned(), "x".to_owned());
        let of_files = BTreeSet::from([name.to_owned()]);
        let found = Found {
            executables: &executables,
            ..Found::default()
        };
        let by_file = Found {
            variables: Some(&of_files),
            ..found
        };
        let checked = [(&set, found), (&plain, by_file)].map(|(message, found)| {
            let checked = policy.check(message, &message.queue, found);
            checked.err().map(|broken| broken.rule)
        });
        assert_eq!(checked[0], checked[1], "{name}");
        checked[0]
    };
    let listed = WorkerPolicy {
        executables: globs(&["/opt/*"]),
        ..WorkerPolicy::default()
    };
    for name in [
        "LD_PRELOAD",
        "BASH_ENV",
        "BASH_ENV=/x",
        "ENV",
        "BASH_FUNC_id%%",
        "SHELLOPTS",
        "PATH",
        "PS4",
        "IFS",
        "HOME",
        "PYTHONPATH",
        "PERL5OPT",
        "RUBYOPT",
        "NODE_OPTIONS",
        "JAVA_TOOL_OPTIONS",
        "_JAVA_OPTIONS",
        "GIT_SSH_COMMAND",
        "GCONV_PATH",
        "GLIBC_TUNABLES",
        "PAGER",
    ] {
        assert_eq!(rule(&listed, name), Some("executables"), "{name}");
        assert_eq!(rule(&WorkerPolicy::default(), name), None, "{name}");
    }
    for name in ["SITE_MODE", "ENVIRONMENT", "LEVEL", "TZ", "LANG"] {
        assert_eq!(rule(&listed, name), None, "{name}");
    }
    let env = |names: &[&str]| WorkerPolicy {
        env: globs(names),
        ..listed.clone()
    };
    let site = env(&["SITE_*", "HOME"]);
    assert_eq!(rule(&site, "SITE_MODE"), None);
    assert_eq!(rule(&site, "LEVEL"), Some("env"));
    assert_eq!(rule(&site, "BASH_ENV"), Some("env"));
    assert_eq!(rule(&site, "HOME"), None, "it is written out");
    assert_eq!(rule(&env(&["*"]), "BASH_ENV"), Some("executables"));
    assert_eq!(rule(&env(&[]), "SITE_MODE"), Some("env"));
    // Without a list of programs, and for a shell as well.
    let alone = WorkerPolicy {
        executables: None,
        shell: true,
        ..site
    };
    assert_eq!(rule(&alone, "LEVEL"), Some("env"));
    let mut shell = message(Execute::Shell("true".to_owned()));
    shell.spec.env.insert("LEVEL".to_owned(), "x".to_owned());
    let refused = alone.check(&shell, &shell.queue, Found::default());
    assert_eq!(refused.unwrap_err().rule, "env");
}

#[test]
fn pings_are_requests() {
    let mut pinged = message(Execute::Command(vec!["crawl".parse().unwrap()]));
    pinged.spec.ping = Some("http://127.0.0.1:1/".into());
    let rule = |http| {
        let policy = WorkerPolicy {
            http,
            ..WorkerPolicy::default()
        };
        let checked = policy.check(&pinged, &pinged.queue, Found::default());
        checked.err().map(|broken| broken.rule)
    };
    assert_eq!(rule(false), Some("http"));
    assert_eq!(rule(true), None);
}
