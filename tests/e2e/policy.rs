//! What a worker may execute, and what a job is given of it.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    process::{Command, Stdio},
};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Installation, Service, commands::behind, nats::NatsServer, wait_for};

/// What the log of a worker without a policy says.
pub const NO_POLICY: &str = "no policy is in force: ORCHESTRATOR_POLICY or --policy names one";

fn worker(here: &Installation, more: &[&str]) -> Service {
    let worker = here.start(
        "worker",
        &[&["worker", "--queue", "default"], more].concat(),
    );
    wait_for("the worker", || {
        worker.log().contains("worker starts").then_some(())
    });
    worker
}

#[test]
fn what_a_policy_does_not_allow_is_a_dead_letter_with_its_rule() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    fs::create_dir_all(here.path("work/deep")).unwrap();
    here.script("bin/good", "echo good >> \"$NOTES\"");
    here.script("other/evil", "echo evil >> \"$NOTES\"");
    symlink("../other/evil", here.path("bin/disguised")).unwrap();
    symlink("../bin/good", here.path("other/honest")).unwrap();
    symlink("../other", here.path("work/away")).unwrap();
    fs::create_dir_all(here.path("work/directory/good")).unwrap();
    // What a job may have written where it starts.
    here.script("work/bin/good", "echo evil >> \"$NOTES\"");
    let [bin, other, work] = ["bin", "other", "work"].map(|name| here.real(name));
    let notes = format!("{work}/notes");
    let job = |name: &str, what: &str, dir: &str, path: &str| {
        format!(
            "[job.{name}]\n{what}\nworking_dir = \"{dir}\"\noverlap = \"allow\"\n\
             env = {{ PATH = \"{path}:/usr/bin:/bin\", NOTES = \"{notes}\" }}\n\
             retry = {{ attempts = 3, initial = \"10ms\" }}\n"
        )
    };
    let schedule = [
        job(
            "ok-path",
            "command = [\"good\"]",
            &format!("{work}/deep"),
            &bin,
        ),
        job("ok-link", "command = [\"honest\"]", &work, &other),
        job("ok-relative", "command = [\"../bin/good\"]", &work, &bin),
        // From where the worker looks it is the good one, and from where it starts the other one.
        job(
            "ok-magic",
            "command = [\"/proc/self/cwd/bin/good\"]",
            &work,
            &bin,
        ),
        job(
            "ok-behind",
            "command = [\"good\"]",
            &work,
            &format!("{work}/directory:{bin}"),
        ),
        job(
            "ok-nowhere",
            "command = [\"good\"]",
            &format!("{work}/nowhere"),
            &bin,
        ),
        job("unlisted", "command = [\"good\"]", &work, &bin),
        job("ok-evil", "command = [\"evil\"]", &work, &other),
        job("ok-disguised", "command = [\"disguised\"]", &work, &bin),
        job("ok-anywhere", "command = [\"good\"]", &other, &bin),
        job(
            "ok-away",
            "command = [\"good\"]",
            &format!("{work}/away"),
            &bin,
        ),
        job("ok-shell", "shell = \"good\"", &work, &bin),
        "[job.ok-http]\nhttp = { url = \"http://127.0.0.1:1/\" }\n".to_owned(),
        "[job.ok-queue]\nqueue = \"other\"\ncommand = [\"good\"]\n".to_owned(),
        job("ok-absent", "command = [\"no-such-program\"]", &work, &bin),
        job(
            "ok-loaded",
            "command = [\"good\"]\nenv_file = \"loaded.env\"",
            &work,
            &bin,
        ),
        job(
            "ok-bash",
            "command = [\"good\"]\nenv_file = \"bash.env\"",
            &work,
            &bin,
        ),
        job(
            "ok-variable",
            "command = [\"good\"]\nenv_file = \"unlisted.env\"",
            &work,
            &bin,
        ),
    ];
    fs::write(here.path("schedules/bash.env"), "BASH_ENV=evil\n").unwrap();
    fs::write(here.path("schedules/unlisted.env"), "SITE_MODE=x\n").unwrap();
    fs::write(here.path("schedules/loaded.env"), "LD_PRELOAD=evil.so\n").unwrap();
    here.schedule("a.toml", &schedule.concat());
    let policy = |more: &str| {
        let text = format!(
            "jobs = [\"ok-*\"]\nqueues = [\"default\"]\nexecutables = [\"{bin}/*\"]\n\
             env = [\"PATH\", \"NOTES\", \"LD_*\", \"BASH_*\"]\n\
             working_dirs = [\"{work}\"]\n{more}"
        );
        fs::write(here.path("worker.toml"), text).unwrap();
    };
    policy("");
    let _beat = here.start("beat", &["beat"]);
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(17).cloned());
    let worker = worker(&here, &["--queue", "other", "--policy", "worker.toml"]);

    for name in ["ok-path", "ok-link", "ok-relative", "ok-magic", "ok-behind"] {
        assert_eq!(here.run_to_its_end(name)["state"], "succeeded", "{name}");
    }
    let done = ["good"; 5];
    assert_eq!(here.lines("work/notes"), done);
    for (name, rule) in [
        ("unlisted", "jobs"),
        ("ok-queue", "queues"),
        ("ok-evil", "executables"),
        ("ok-disguised", "executables"),
        ("ok-loaded", "executables"),
        ("ok-bash", "executables"),
        ("ok-variable", "env"),
        ("ok-anywhere", "working_dirs"),
        ("ok-away", "working_dirs"),
        ("ok-shell", "shell"),
        ("ok-http", "http"),
    ] {
        let record = here.run_to_its_end(name);
        assert_eq!(record["state"], "dead", "{name}: {record}");
        assert_eq!(record["attempts"], json!([]), "{name}");
        let reason = record["reason"].as_str().unwrap();
        assert!(
            reason.contains(&format!("rule `{rule}`")),
            "{name}: {reason}"
        );
        let letter = wait_for("its letter", || {
            here.json(&["dead", "list", "--job", name]).get(0).cloned()
        });
        assert_eq!(
            letter["refused"],
            json!({ "by": "policy", "rule": rule }),
            "{name}"
        );
        assert_eq!(letter["reason"], reason, "{name}");
    }
    assert_eq!(here.lines("work/notes"), done);
    // What is not there is no question of what is allowed.
    let absent = here.run_to_its_end("ok-absent");
    assert!(
        absent["reason"]
            .as_str()
            .unwrap()
            .contains("no-such-program"),
        "{absent}"
    );
    // Nor is a directory; what may come there until the start is entered by nobody.
    let nowhere = here.run_to_its_end("ok-nowhere");
    let reason = nowhere["reason"].as_str().unwrap();
    assert!(reason.contains("is not there on this worker"), "{reason}");

    // A file with mistakes changes nothing; all of them are told.
    policy("shel = true\numask = 27\n");
    worker.signal(Signal::HUP);
    wait_for("the complaint", || {
        let log = worker.log();
        (log.contains("did you mean `shell`?")
            && log.contains("`umask` takes text")
            && log.contains("stays"))
        .then_some(())
    });
    assert_eq!(here.run_to_its_end("ok-shell")["state"], "dead");
    policy("shell = true\n");
    worker.signal(Signal::HUP);
    wait_for("the new rules", || {
        (worker.log().matches("that the policy allows").count() == 2).then_some(())
    });
    assert_eq!(here.run_to_its_end("ok-shell")["state"], "succeeded");
    // What was refused can be run again once it is allowed.
    let again = here.run(&["dead", "retry", "--job", "ok-shell"]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(!worker.log().contains(NO_POLICY), "{}", worker.log());
    assert!(worker.stop().success());
    let without = self::worker(&here, &[]);
    wait_for("the word on its policy", || {
        without.log().contains(NO_POLICY).then_some(())
    });
    assert!(without.stop().success());

    policy("shel = true\n");
    let broken = here.run(&["worker", "--queue", "default", "--policy", "worker.toml"]);
    assert_eq!(broken.code, 2, "{}", broken.stderr);
    assert!(broken.stderr.contains("worker.toml:6"), "{}", broken.stderr);
    assert!(
        broken.stderr.contains("did you mean `shell`?"),
        "{}",
        broken.stderr
    );
    let absent = here.run(&["worker", "--queue", "default", "--policy", "none.toml"]);
    assert_eq!(absent.code, 2, "{}", absent.stderr);
    assert!(absent.stderr.contains("none.toml"), "{}", absent.stderr);
    assert!(absent.stderr.contains("--policy"), "{}", absent.stderr);
    assert!(!absent.stderr.contains("--schedules"), "{}", absent.stderr);
    // As a whole number the mask would be another one.
    policy("umask = 27\n");
    let number = here.run(&["worker", "--queue", "default", "--policy", "worker.toml"]);
    assert!(
        number.stderr.contains("in octal, as text"),
        "{}",
        number.stderr
    );
}

#[test]
fn a_job_is_given_three_streams_the_usual_variables_and_the_mask_of_the_policy() {
    let nats = NatsServer::start();
    let mut here = Installation::on_nats(&nats.url());
    here.set("SITE_SECRET", "hush");
    here.set("SITE_MODE", "test");
    here.set("LC_TIME", "C");
    here.schedule(
        "a.toml",
        "[job.look]\nworking_dir = \"..\"\n\
         env.FIND = '''\nimport os\nfor fd in range(1000):\n try: os.fstat(fd); print(fd)\n except OSError: pass\n'''\nshell = '''\n\
         env > variables\ntouch made\n\
         python3 -c \"$FIND\" > descriptors\n\
         \"$ORCHESTRATOR_BIN\" queues -o name > queues'''\n",
    );
    fs::write(here.path("worker.toml"), "shell = true\numask = \"027\"\n").unwrap();
    let _beat = here.start("beat", &["beat"]);
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(0).cloned());
    // Whoever started it left a descriptor open.
    let plain = here.command(&[
        "worker",
        "--queue",
        "default",
        "--policy",
        "worker.toml",
        "--pass-env",
        "SITE_M*",
    ]);
    let mut leaky = Command::new("sh");
    leaky.args(["-c", "umask 022; exec 7</etc/passwd; exec \"$0\" \"$@\""]);
    let mut leaky = behind(leaky, &plain);
    let log = fs::File::create(here.path("worker.log")).unwrap();
    let mut worker = leaky
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let record = here.run_to_its_end("look");
    assert_eq!(
        record["state"],
        "succeeded",
        "{record} {}",
        here.read("worker.log")
    );
    let open = fs::read_link(format!("/proc/{}/fd/7", worker.id())).unwrap();
    assert_eq!(
        open.to_str(),
        Some("/etc/passwd"),
        "the worker has none to close"
    );
    worker.kill().unwrap();
    worker.wait().unwrap();

    assert_eq!(here.lines("descriptors"), ["0", "1", "2"]);
    let mode = fs::metadata(here.path("made"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640);
    assert_eq!(
        here.lines("queues"),
        ["default"],
        "its own commands find the broker"
    );
    let variables = here.lines("variables");
    let names: Vec<_> = variables
        .iter()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .collect();
    for name in [
        "PATH",
        "LC_TIME",
        "SITE_MODE",
        "NATS_URL",
        "ORCHESTRATOR_RUN_ID",
        "PWD",
    ] {
        assert!(names.contains(&name), "no {name} in {names:?}");
    }
    let allowed = |name: &&str| {
        name.starts_with("ORCHESTRATOR_")
            || name.starts_with("LC_")
            || [
                "PATH",
                "HOME",
                "USER",
                "LOGNAME",
                "SHELL",
                "LANG",
                "LANGUAGE",
                "TZ",
                "TMPDIR",
                "PWD",
                "OLDPWD",
                "_",
                "SHLVL",
                "FIND",
                "SSL_CERT_FILE",
                "SSL_CERT_DIR",
                "NATS_URL",
                "TRACEPARENT",
                "SITE_MODE",
            ]
            .contains(name)
    };
    let others: Vec<_> = names.iter().filter(|name| !allowed(name)).collect();
    assert!(others.is_empty(), "{others:?}");
    assert!(!here.read("variables").contains("hush"));
    // What the worker itself was told is not for jobs.
    for name in [
        "ORCHESTRATOR_POLICY",
        "ORCHESTRATOR_SCHEDULES",
        "ORCHESTRATOR_PASS_ENV",
    ] {
        assert!(!names.contains(&name), "{name}");
    }
}

/// What a command writes to a terminal.
fn on_a_terminal(here: &Installation, args: &[&str]) -> String {
    let mut python = Command::new("python3");
    python.args([
        "-c",
        "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)",
    ]);
    let mut python = behind(python, &here.command(args));
    // Else colours are off.
    python.env_remove("NO_COLOR").env("TERM", "xterm-256color");
    let output = python.stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_jobs_write_does_nothing_to_a_terminal() {
    let here = Installation::new();
    // The clipboard, the title, the cursor, the same with an introducer of one character, a bell, colours.
    here.schedule(
        "a.toml",
        r#"
[job.loud]
description = "clears \u001b[2J the screen"
overlap = "allow"
retry = { attempts = 2, initial = "10ms" }
shell = '''
printf '\033]52;c;ZXZpbA==\007\033]0;title\033\\\033[2J\033[10A\302\2332J\033[31mred\033[0m\n'
printf '\033]0;other\007' >&2
printf '"\\u001b]0;title\\u0007\\u009b2J"' > $ORCHESTRATOR_RESULT
exit 1'''
"#,
    );
    let _up = here.up(&[]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    let run = here.run(&["run", "loud", "--arg", "a=\u{1b}[2J\u{9b}1m\u{202e}"]);
    let id = run.stdout.trim();
    wait_for("its letter", || {
        here.json(&["dead", "list"]).get(0).cloned()
    });
    let hostile = format!("loud@\u{1b}[2J{id}");
    for args in [
        &["logs", id][..],
        &["logs", "--timestamps", id],
        &["logs", "--color", "always", id],
        &["logs", "--color", "never", id],
        &["show", id],
        &["show", id, "-o", "json"],
        &["runs"],
        &["jobs"],
        &["dead", "list"],
        &["dead", "show", id],
        &["show", &hostile],
    ] {
        let seen = on_a_terminal(&here, args);
        assert!(!seen.is_empty(), "{args:?}");
        // Colours are ours, or those of a log.
        let mut rest = seen.as_str();
        while let Some((_, behind)) = rest.split_once('\u{1b}') {
            let sequence = behind
                .strip_prefix('[')
                .unwrap_or_else(|| panic!("{args:?}: {seen:?}"));
            let end = sequence.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
            assert!(end.starts_with('m'), "{args:?}: {seen:?}");
            rest = behind;
        }
        let obeyed = |c: char| {
            c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{1b}') || c == '\u{202e}'
        };
        let obeyed: Vec<_> = seen.chars().filter(|c| obeyed(*c)).collect();
        assert!(obeyed.is_empty(), "{args:?}: {obeyed:?} in {seen:?}");
    }
    assert!(on_a_terminal(&here, &["logs", id]).contains("\u{1b}[31mred"));
    // A file gets what the job wrote.
    let raw = here.bytes(&["logs", id]);
    assert!(raw.starts_with(b"\x1b]52;c;ZXZpbA==\x07"), "{raw:?}");
}

#[test]
fn the_unit_of_up_looks_at_schedules_and_rules_before_a_reload() {
    let mut here = Installation::new();
    let rules = here.path("worker.toml");
    here.set("ORCHESTRATOR_POLICY", rules.to_str().unwrap());
    let unit = include_str!("../../deploy/orchestrator-up.service");
    let look = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecReload=/usr/bin/orchestrator "))
        .unwrap();
    let look: Vec<_> = look.split(' ').collect();
    let looks = |job: &str, policy: &str| {
        here.schedule("a.toml", job);
        fs::write(&rules, policy).unwrap();
        here.run(&look)
    };
    let (good, rule) = ("[job.a]\nshell = \"true\"\n", "shell = true\n");
    assert_eq!(looks(good, rule).code, 0);
    let of_rules = looks(good, "shel = true\n");
    assert_eq!(of_rules.code, 2, "{}", of_rules.stderr);
    let stderr = &of_rules.stderr;
    assert!(stderr.contains("did you mean `shell`"), "{stderr}");
    let of_schedules = looks("[job.a]\nshel = \"true\"\n", rule);
    assert_eq!(of_schedules.code, 3, "{}", of_schedules.stderr);
    assert!(!here.path("data").exists(), "nothing is started");
    // While it runs, too.
    assert_eq!(looks(good, rule).code, 0);
    let up = here.up(&[]);
    assert_eq!(looks(good, rule).code, 0);
    assert!(up.stop().success());
}
