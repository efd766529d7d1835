//! The executor with real processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod cgroups;
mod trees;
mod users;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use orchestrator::{
    broker::LogStream,
    clock,
    exec::{
        Cgroup, Confinement, Ended, Execution, Executor, Limits, Output, Program, Stop, Streams,
    },
    job::{Kill, Seconds, SignalName},
    run::Exit,
};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Program {
    Program {
        name: "/bin/sh".to_owned(),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        variables: BTreeMap::new(),
        working_dir: None,
        run_as: None,
        stdin: b"{\"depth\":3}".to_vec(),
        streams: Streams::Captured,
        of_files: Default::default(),
        confinement: Confinement::default(),
    }
}

fn command(name: &str) -> Program {
    Program {
        name: name.to_owned(),
        arguments: Vec::new(),
        ..shell("")
    }
}

fn within(timeout_ms: u64, signal: SignalName, grace_ms: u64) -> Limits {
    Limits {
        timeout: Some(Seconds::new(Duration::from_millis(timeout_ms))),
        kill: Kill {
            signal,
            grace: Seconds::new(Duration::from_millis(grace_ms)),
        },
        ..Limits::default()
    }
}

/// Whether a time-out came before the program had said `up`, on a machine that was slower than it: then the next try
/// has twice the time.
fn too_short(limits: &mut Limits, output: &Output) -> bool {
    let timeout = limits.timeout.map_or(Duration::ZERO, Seconds::get);
    let is_up = text(output, LogStream::Stdout).contains("up\n");
    if timeout.is_zero() || is_up {
        return false;
    }
    assert!(timeout < DEADLINE, "not up within {timeout:?}");
    limits.timeout = Some(Seconds::new(timeout * 2));
    true
}

/// Executes it again as long as its time-out is too short.
async fn execute_in_time(program: Program, mut limits: Limits) -> (Execution, Output, Duration) {
    loop {
        let start = clock::monotonic();
        let (execution, output) = execute(program.clone(), limits).await;
        let took = start.elapsed();
        if !too_short(&mut limits, &output) {
            return (execution, output, took);
        }
    }
}

async fn execute(program: Program, limits: Limits) -> (Execution, Output) {
    execute_in(&Cgroup::Off, program, limits).await
}

async fn execute_in(cgroup: &Cgroup, program: Program, limits: Limits) -> (Execution, Output) {
    let executor = Executor::start(None, cgroup).unwrap();
    let output = Output::new(1);
    let stop = Stop::default();
    let execution = executor.execute(program, limits, &output, &stop).await;
    (execution, output)
}

fn text(output: &Output, stream: LogStream) -> String {
    let chunks: Vec<_> = std::iter::from_fn(|| output.pop()).collect();
    let wanted = chunks.iter().filter(|chunk| chunk.stream == stream);
    let bytes: Vec<u8> = wanted.flat_map(|chunk| chunk.bytes.clone()).collect();
    for chunk in chunks.into_iter().rev() {
        output.put_back(chunk);
    }
    String::from_utf8(bytes).unwrap()
}

/// Whether the process runs: neither gone nor a zombie that only waits for its parent.
fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
        state != Some(b'Z') && state != Some(b'X')
    })
}

fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = clock::monotonic();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "no {what} within {DEADLINE:?}");
        std::thread::yield_now();
    }
}

fn pid_in(file: &Path) -> u32 {
    wait_for("process id", || {
        let text = fs::read_to_string(file).ok()?;
        text.ends_with('\n').then(|| text.trim().parse().unwrap())
    })
}

#[tokio::test]
async fn streams_exit_and_result_come_back() {
    let script = "cat; echo problem >&2; echo '{\"pages\": 2}' > $ORCHESTRATOR_RESULT; exit 3";
    let (execution, output) = execute(shell(script), Limits::default()).await;
    assert_eq!(execution.ended, Ended::ByItself);
    assert_eq!(execution.exit, Exit::Code(3));
    assert_eq!(execution.result, Some(json!({"pages": 2})));
    assert_eq!(text(&output, LogStream::Stdout), "{\"depth\":3}");
    assert_eq!(text(&output, LogStream::Stderr), "problem\n");
    assert_eq!(output.written(), 19);
}

#[tokio::test]
async fn a_bad_result_is_a_remark() {
    let script = "echo nonsense > $ORCHESTRATOR_RESULT";
    let (execution, output) = execute(shell(script), Limits::default()).await;
    assert_eq!((execution.exit, execution.result), (Exit::Code(0), None));
    assert!(text(&output, LogStream::Worker).contains("not JSON"));
}

#[tokio::test]
async fn a_pipe_in_place_of_the_result_does_not_hang() {
    let script = "mkfifo $ORCHESTRATOR_RESULT";
    let (execution, output) = execute(shell(script), Limits::default()).await;
    assert_eq!((execution.exit, execution.result), (Exit::Code(0), None));
    assert!(text(&output, LogStream::Worker).contains("not a regular file"));
}

#[tokio::test]
async fn large_arguments_on_standard_input_do_not_hang() {
    let mut program = shell("wc -c");
    program.stdin = vec![b'x'; 1 << 20];
    let (execution, output) = execute(program, Limits::default()).await;
    assert_eq!(execution.exit, Exit::Code(0));
    assert_eq!(text(&output, LogStream::Stdout).trim(), "1048576");
    let mut unread = shell("exit 0");
    unread.stdin = vec![b'x'; 1 << 20];
    let (execution, _) = execute(unread, Limits::default()).await;
    assert_eq!(execution.exit, Exit::Code(0));
}

#[tokio::test]
async fn a_signal_is_told() {
    let (execution, _) = execute(shell("kill -SEGV $$"), Limits::default()).await;
    assert_eq!(execution.exit, Exit::Signal(11));
}

#[tokio::test]
async fn the_directory_is_entered() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path().canonicalize().unwrap();
    let mut program = shell("pwd -P; printenv PWD");
    program.working_dir = Some(here.clone());
    let (_, output) = execute(program, Limits::default()).await;
    let expected = format!("{0}\n{0}\n", here.display());
    assert_eq!(text(&output, LogStream::Stdout), expected);
}

#[tokio::test]
async fn a_name_is_looked_for_in_every_directory_of_the_path() {
    let mut program = command("sh");
    program.arguments = vec!["-c".to_owned(), "exit 7".to_owned()];
    let path = "/nowhere:/proc/version:/usr/bin:/bin".to_owned();
    program.variables.insert("PATH".to_owned(), path);
    let (execution, _) = execute(program, Limits::default()).await;
    assert_eq!(execution.exit, Exit::Code(7));
}

#[tokio::test]
async fn what_cannot_start_says_why_and_what_mends_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(path("plain"), "echo\n").unwrap();
    let script = path("script");
    fs::write(&script, "#!/nowhere/python\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, executable).unwrap();
    let mut astray = command("/bin/true");
    astray.working_dir = Some(path("missing").into());
    let mut in_a_file = command("/bin/true");
    in_a_file.working_dir = Some(path("plain").into());
    let mut with_nul = command("/bin/true");
    with_nul.arguments = vec!["a\0b".to_owned()];
    for (program, parts) in [
        (command("no-such-program"), ["no-such-program", "PATH"]),
        (command("/no/such"), ["/no/such", "does not exist"]),
        (command(&path("plain")), ["plain", "chmod +x"]),
        (command(&script), ["script", "interpreter"]),
        (command(""), ["``", "PATH"]),
        (astray, ["missing", "working directory"]),
        (in_a_file, ["plain", "not a directory"]),
        (with_nul, ["/bin/true", "nul byte"]),
    ] {
        let (execution, output) = execute(program, Limits::default()).await;
        let Exit::NotStarted(reason) = &execution.exit else {
            panic!("{execution:?}");
        };
        assert!(parts.iter().all(|part| reason.contains(part)), "{reason}");
        assert!(text(&output, LogStream::Worker).contains(reason));
    }
}

#[tokio::test]
#[allow(unsafe_code, reason = "there is no safe call that ignores a signal")]
async fn what_this_process_ignores_is_not_ignored_by_its_jobs() {
    // As in a worker that a shell has started in the background, whose jobs could not be ended by SIGINT.
    // SAFETY: nothing in this process handles or waits for this signal.
    let before = unsafe { libc::signal(libc::SIGUSR2, libc::SIG_IGN) };
    assert_ne!(before, libc::SIG_ERR);
    let script = "sed -n 's/^Sig\\(Ign\\|Blk\\):[[:space:]]*//p' /proc/self/status";
    let (_, output) = execute(shell(script), Limits::default()).await;
    let output = text(&output, LogStream::Stdout);
    // The C library keeps 32 and 33 to itself; no program can do anything with them.
    let sets = output.lines().map(|set| {
        let set = u64::from_str_radix(set, 16).unwrap();
        set & !(0b11 << 31)
    });
    assert_eq!(sets.collect::<Vec<_>>(), [0, 0], "{output}");
}

#[tokio::test]
async fn a_timeout_ends_it_politely() {
    // What a shell starts in the background ignores SIGINT, so it has the whole grace.
    let script = "trap 'echo bye; exit 7' INT; echo up; sleep 60 & wait";
    let limits = within(1_000, SignalName::Int, 4_000);
    let (execution, output, took) = execute_in_time(shell(script), limits).await;
    assert_eq!(execution.ended, Ended::TimedOut);
    assert_eq!(execution.exit, Exit::Code(7));
    assert!(took >= Duration::from_secs(1));
    assert_eq!(text(&output, LogStream::Stdout), "up\nbye\n");
    assert!(text(&output, LogStream::Worker).contains("SIGINT"));
}

#[tokio::test]
async fn a_job_immune_to_term_is_killed_after_its_grace() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!(
        "trap '' TERM; sh -c 'echo $$ > {}; echo up; while :; do sleep 60; done'",
        file.display()
    );
    let limits = within(300, SignalName::Term, 400);
    let (execution, _, took) = execute_in_time(shell(&script), limits).await;
    assert_eq!(execution.ended, Ended::TimedOut);
    assert_eq!(execution.exit, Exit::Signal(9));
    assert!(took >= Duration::from_millis(700), "{took:?}");
    let child = pid_in(&file);
    wait_for("end of the group", || (!is_alive(child)).then_some(()));
}

#[tokio::test]
async fn members_of_the_group_have_the_grace_of_their_leader() {
    let directory = tempfile::tempdir().unwrap();
    let marker = directory.path().join("cleaned");
    let script = format!(
        "sh -c 'trap \"sleep 0.5; touch {}; exit\" TERM; echo up; while :; do sleep 0.05; done' & wait",
        marker.display()
    );
    let limits = within(500, SignalName::Term, 10_000);
    let (execution, ..) = execute_in_time(shell(&script), limits).await;
    assert_eq!(execution.ended, Ended::TimedOut);
    assert!(
        marker.exists(),
        "the member was killed before it had cleaned up"
    );
}

#[tokio::test]
async fn what_stays_behind_in_the_group_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}", file.display());
    let start = clock::monotonic();
    let (execution, _) = execute(shell(&script), Limits::default()).await;
    assert_eq!(execution.exit, Exit::Code(0));
    assert!(start.elapsed() < DEADLINE, "it waited for it");
    let child = pid_in(&file);
    wait_for("end of the group", || (!is_alive(child)).then_some(()));
}

#[tokio::test]
async fn who_leaves_the_group_with_the_pipe_does_not_hold_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!(
        "setsid sh -c 'echo $$ > {0}; exec sleep 600' & while ! [ -s {0} ]; do :; done; echo done",
        file.display()
    );
    let start = clock::monotonic();
    let (execution, output) = execute(shell(&script), Limits::default()).await;
    assert_eq!(execution.exit, Exit::Code(0));
    assert!(start.elapsed() < DEADLINE, "it waited for it");
    assert_eq!(text(&output, LogStream::Stdout), "done\n");
    assert!(!is_alive(pid_in(&file)));
}

/// A member of the group that ends, but whose parent, outside of the group, never asks how.
#[tokio::test]
async fn a_zombie_in_the_group_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = directory.path().join("job.py");
    let text = format!(
        "import os, time\n\
         if os.fork() == 0:\n\
         \x20   if os.fork() == 0:\n\
         \x20       time.sleep(600)\n\
         \x20   os.setsid()\n\
         \x20   os.closerange(0, 3)\n\
         \x20   open('{}', 'w').write(str(os.getpid()) + '\\n')\n\
         \x20   time.sleep(600)\n\
         time.sleep(600)\n",
        file.display()
    );
    fs::write(&script, text).unwrap();
    let program = Program {
        arguments: vec![script.display().to_string()],
        ..command("python3")
    };
    let executor = Executor::start(None, &Cgroup::Off).unwrap();
    let (output, stop) = (Output::new(1), Stop::default());
    let limits = within(600_000, SignalName::Term, 600_000);
    let execution = executor.execute(program, limits, &output, &stop);
    let asking = async {
        let outside = tokio::task::spawn_blocking({
            let file = file.clone();
            move || pid_in(&file)
        });
        let outside = outside.await.unwrap();
        stop.ask();
        outside
    };
    let both = async { tokio::join!(execution, asking) };
    let (execution, outside) = tokio::time::timeout(DEADLINE, both).await.unwrap();
    assert_eq!(execution.exit, Exit::Signal(15));
    assert!(!is_alive(outside), "it left the group, not the job");
}

#[tokio::test]
async fn a_request_ends_it() {
    let executor = Executor::start(None, &Cgroup::Off).unwrap();
    for (script, force, expected) in [
        ("echo up; exec sleep 60", None, Exit::Signal(15)),
        ("trap '' TERM; echo up; sleep 60", Some(()), Exit::Signal(9)),
    ] {
        let (output, stop) = (Output::new(1), Stop::default());
        let execution = executor.execute(shell(script), Limits::default(), &output, &stop);
        let asking = async {
            output.arrived().await;
            match force {
                None => stop.ask(),
                Some(()) => stop.force(),
            }
        };
        let (execution, ()) = tokio::join!(execution, asking);
        assert_eq!(
            (execution.ended, execution.exit),
            (Ended::Stopped, expected)
        );
    }
}

#[tokio::test]
async fn dropping_the_execution_kills_the_group() {
    let executor = Executor::start(None, &Cgroup::Off).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}; echo up; wait", file.display());
    let (output, stop) = (Output::new(1), Stop::default());
    tokio::select! {
        _ = executor.execute(shell(&script), Limits::default(), &output, &stop) => panic!("ended"),
        () = output.arrived() => {}
    }
    let child = pid_in(&file);
    wait_for("end of the group", || (!is_alive(child)).then_some(()));
}

#[tokio::test]
async fn a_gigabyte_of_output_is_drained_and_bounded() {
    let script = "yes | head -c 1000000000; echo; echo last";
    let (execution, output) = execute(shell(script), Limits::default()).await;
    assert_eq!(execution.exit, Exit::Code(0));
    assert_eq!(output.written(), 1_000_000_006);
    let kept: Vec<_> = std::iter::from_fn(|| output.pop()).collect();
    let bytes: usize = kept.iter().map(|chunk| chunk.bytes.len()).sum();
    assert!(bytes <= 256 * 1024, "{bytes}");
    assert!(kept.last().unwrap().bytes.ends_with(b"\nlast\n"));
}

#[tokio::test]
async fn many_at_once() {
    let executor = Executor::start(None, &Cgroup::Off).unwrap();
    let limits = Limits::default();
    let runs = (0..64).map(|code| {
        let executor = executor.clone();
        async move {
            let (output, stop) = (Output::new(1), Stop::default());
            let program = shell(&format!("exit {code}"));
            let execution = executor.execute(program, limits, &output, &stop).await;
            assert_eq!(execution.exit, Exit::Code(code));
        }
    });
    futures::future::join_all(runs).await;
}

/// Not a test of its own: the process that [`a_child_dies_with_its_worker`] kills.
#[tokio::test]
#[ignore = "started by another test"]
async fn victim() {
    let Ok(file) = std::env::var("VICTIM_FILE") else {
        return;
    };
    let script = format!("echo $$ > {file}; exec sleep 600");
    execute(shell(&script), Limits::default()).await;
}

#[test]
fn a_child_dies_with_its_worker() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let mut worker = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--ignored", "--nocapture"])
        .env("VICTIM_FILE", &file)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let child = pid_in(&file);
    // Idle threads of the runtime end in the meantime in a real worker; the spawners must not.
    assert!(is_alive(child));
    worker.kill().unwrap();
    assert_eq!(worker.wait().unwrap().signal(), Some(9));
    wait_for("end of the child", || (!is_alive(child)).then_some(()));
}
