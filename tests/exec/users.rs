//! Programs of other users. Most of it takes root; where it is missing a test says so and stops.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::{
    trees::{BOTH, Daemons},
    *,
};

/// Everybody has this one.
const USER: &str = "nobody";

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root can execute programs of other users");
    }
    is_root
}

fn shell_of(user: &str, script: &str) -> Program {
    Program {
        run_as: Some(user.parse().unwrap()),
        working_dir: Some("/".into()),
        ..shell(script)
    }
}

/// What a command of this machine says.
fn says(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).output().unwrap();
    assert!(output.status.success(), "{command} {arguments:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn entry(user: &str) -> Vec<String> {
    let entry = says("getent", &["passwd", user]);
    entry.split(':').map(str::to_owned).collect()
}

fn reason(execution: &Execution) -> &str {
    match &execution.exit {
        Exit::NotStarted(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_program_is_its_users_and_nobody_elses() {
    if !is_root() {
        return;
    }
    let entry = entry(USER);
    let [uid, gid, home, login] = [2, 3, 5, 6].map(|field| &entry[field]);
    let groups = says("id", &["-G", USER]);
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    fs::write(&secret, "for root alone").unwrap();
    let open = PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory.path(), open).unwrap();
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    let script = format!(
        "grep -E '^(Uid|Gid|Groups|CapInh|CapPrm|CapEff|CapAmb|SigBlk):' /proc/self/status | tr -s '\\t ' ' '
         id -G
         printf '%s\n' \"$HOME\" \"$USER\" \"$LOGNAME\" \"$SHELL\" \"${{TMPDIR-none}}\"
         cat {} 2>&1
         cat /dev/stdin; echo
         ls -1 /proc/self/fd | tr '\\n' ' '; echo
         echo again > /dev/stdout
         echo '{{\"pages\": 4}}' > $ORCHESTRATOR_RESULT && stat -c '%U %a' $ORCHESTRATOR_RESULT",
        secret.display()
    );
    let (execution, output) = execute(shell_of(USER, &script), Limits::default()).await;
    assert_eq!(
        execution.exit,
        Exit::Code(0),
        "{}",
        text(&output, LogStream::Stderr)
    );
    assert_eq!(execution.result, Some(json!({ "pages": 4 })));
    let none = "0000000000000000";
    let expected = [
        format!("Uid: {uid} {uid} {uid} {uid}"),
        format!("Gid: {gid} {gid} {gid} {gid}"),
        format!("Groups: {groups} "),
        format!("SigBlk: {none}"),
        format!("CapInh: {none}"),
        format!("CapPrm: {none}"),
        format!("CapEff: {none}"),
        format!("CapAmb: {none}"),
        groups,
        home.clone(),
        USER.to_owned(),
        USER.to_owned(),
        login.clone(),
        "none".to_owned(),
        format!("cat: {}: Permission denied", secret.display()),
        "{\"depth\":3}".to_owned(),
        // One of them is of the directory that `ls` reads.
        "0 1 2 3 ".to_owned(),
        "again".to_owned(),
        format!("{USER} 600"),
    ];
    let found = text(&output, LogStream::Stdout);
    let found: Vec<_> = found.lines().collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn what_the_job_asks_for_wins_over_what_the_user_has() {
    if !is_root() {
        return;
    }
    let mut program = shell_of(USER, "printf '%s %s %s' \"$HOME\" \"$USER\" \"$PWD\"");
    let home = ("HOME".to_owned(), "/srv/crawler".to_owned());
    program.variables.extend([home]);
    let (_, output) = execute(program, Limits::default()).await;
    let expected = format!("/srv/crawler {USER} /");
    assert_eq!(text(&output, LogStream::Stdout), expected);
}

#[tokio::test]
async fn a_result_is_read_from_the_file_that_was_made_for_it() {
    if !is_root() {
        return;
    }
    // Neither put in its place nor made beside it: the directory is not the user's.
    let script = "ln -s /etc/hostname $ORCHESTRATOR_RESULT.x && exit 9
        mv $ORCHESTRATOR_RESULT /tmp/x && exit 9
        rm -f $ORCHESTRATOR_RESULT && exit 9
        ls $(dirname $ORCHESTRATOR_RESULT) && exit 9
        echo 7 > $ORCHESTRATOR_RESULT; dirname $ORCHESTRATOR_RESULT";
    let executor = Executor::start(None, &Cgroup::Off).unwrap();
    let (output, stop) = (Output::new(1), Stop::default());
    let program = shell_of(USER, script);
    let execution = executor.execute(program, Limits::default(), &output, &stop);
    let execution = execution.await;
    assert_eq!(
        (execution.exit, execution.result),
        (Exit::Code(0), Some(json!(7)))
    );
    let directory = text(&output, LogStream::Stdout);
    let directory = Path::new(directory.trim());
    let found = fs::metadata(directory).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o711));
    let entries = fs::read_dir(directory).unwrap();
    let left: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"], "the result is removed");
    let lock = fs::metadata(directory.join("lock")).unwrap();
    assert_eq!((lock.uid(), lock.mode() & 0o777), (0, 0o600));
    drop(executor);
    assert!(!directory.exists());
}

#[tokio::test]
async fn the_daemons_of_another_user_end_with_their_job() {
    if !is_root() {
        return;
    }
    for cgroup in &BOTH {
        let cases = [
            ("exit 0", Limits::default(), Exit::Code(0)),
            (
                "exec sleep 60",
                within(1_000, SignalName::Term, 100),
                Exit::Signal(15),
            ),
            (
                "trap '' TERM; sleep 60; sleep 60",
                within(1_000, SignalName::Term, 100),
                Exit::Signal(9),
            ),
        ];
        for (then, limits, expected) in cases {
            let program = |daemons: &Daemons| daemons.program_of(USER, then);
            let (daemons, execution, output) = Daemons::of(cgroup, limits, program).await;
            let told = text(&output, LogStream::Stderr);
            assert_eq!(execution.exit, expected, "{then}, {cgroup:?}: {told}");
            daemons.assert_gone();
        }
    }
}

#[tokio::test]
async fn a_program_of_another_user_ends_when_it_is_stopped_or_abandoned() {
    if !is_root() {
        return;
    }
    for force in [false, true] {
        let executor = Executor::start(None, &Cgroup::Off).unwrap();
        let daemons = Daemons::new();
        let (output, stop) = (Output::new(1), Stop::default());
        let program = daemons.program_of(USER, "exec sleep 60");
        let limits = within(600_000, SignalName::Term, 100);
        let execution = executor.execute(program, limits, &output, &stop);
        let asking = async {
            output.arrived().await;
            let whose = fs::metadata(format!("/proc/{}", daemons.pids()[0])).unwrap();
            assert_ne!(whose.uid(), 0);
            match force {
                false => stop.ask(),
                true => stop.force(),
            }
        };
        let (execution, ()) = tokio::join!(execution, asking);
        assert_eq!(execution.ended, Ended::Stopped);
        daemons.assert_gone();
    }
}

#[tokio::test]
async fn what_a_user_may_not_names_user_place_and_mend() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let closed = directory.path().canonicalize().unwrap();
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    let inside = closed.join("tool");
    fs::write(&inside, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&inside, PermissionsExt::from_mode(0o755)).unwrap();
    let closed = closed.display().to_string();
    let mut astray = shell_of(USER, "true");
    astray.working_dir = Some(closed.clone().into());
    let tool = Program {
        name: inside.display().to_string(),
        ..shell_of(USER, "true")
    };
    for (program, parts) in [
        (astray, [closed.as_str(), USER, "working_dir"]),
        (tool, ["tool", USER, "chmod +x"]),
        (
            shell_of("no-such-user", "true"),
            ["no-such-user", "does not exist", "useradd"],
        ),
        (
            Program {
                name: "no-such-program".to_owned(),
                ..shell_of(USER, "true")
            },
            ["no-such-program", "PATH", "install"],
        ),
    ] {
        let (execution, _) = execute(program, Limits::default()).await;
        let reason = reason(&execution);
        assert!(parts.iter().all(|part| reason.contains(part)), "{reason}");
    }
}

/// It is signalled by its group, whose leader it has to be as soon as it was started, however many are.
#[tokio::test]
async fn each_leads_a_session_and_a_group_of_its_own() {
    let own = says("id", &["-un"]);
    let mut users = vec![None, Some(own.as_str())];
    if is_root() {
        users.push(Some(USER));
    }
    let executor = Executor::start(None, &Cgroup::Off).unwrap();
    let script = "set -- $(ps -o sid=,pgid=,tty= -p $$); echo $(($1 - $$)) $(($2 - $$)) $3";
    let runs = (0..16).flat_map(|_| &users).map(|user| {
        let mut program = shell(script);
        program.run_as = user.map(|user| user.parse().unwrap());
        program.working_dir = Some("/".into());
        let executor = executor.clone();
        async move {
            let (output, stop) = (Output::new(1), Stop::default());
            let execution = executor.execute(program, Limits::default(), &output, &stop);
            assert_eq!(execution.await.exit, Exit::Code(0));
            assert_eq!(text(&output, LogStream::Stdout), "0 0 ?\n", "{user:?}");
        }
    });
    futures::future::join_all(runs).await;
}

#[tokio::test]
async fn its_own_user_needs_no_privilege() {
    let own = says("id", &["-un"]);
    let (execution, output) = execute(shell_of(&own, "id -un"), Limits::default()).await;
    assert_eq!(
        execution.exit,
        Exit::Code(0),
        "{}",
        text(&output, LogStream::Worker)
    );
    assert_eq!(text(&output, LogStream::Stdout).trim(), own);
}
