//! Processes that left the job's process group, whatever becomes of the job.

use super::*;

/// Leaves a daemon behind: forked twice, in a session of its own, without environment or
/// descriptors, immune to polite signals; it starts a second one the same way. Their ids go to a
/// file.
const DAEMONS: &str = r#"
import os, signal, sys, time
def daemonise(depth):
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(s, signal.SIG_IGN)
    os.closerange(0, 64)
    if depth:
        daemonise(depth - 1)
    f = os.open(sys.argv[1], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(f, b"%d\n" % os.getpid())
    os.execve("/bin/sleep", ["sleep", "600"], {})
daemonise(1)
while not os.path.exists(sys.argv[1]) or open(sys.argv[1]).read().count("\n") < 2:
    time.sleep(0.01)
"#;

pub(super) struct Daemons {
    directory: tempfile::TempDir,
    script: std::path::PathBuf,
    pids: std::path::PathBuf,
}

impl Daemons {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (script, pids) = (
            directory.path().join("job.py"),
            directory.path().join("pids"),
        );
        fs::write(&script, DAEMONS).unwrap();
        Self {
            directory,
            script,
            pids,
        }
    }

    /// Those that a program of theirs has left, once it had the time for that.
    pub(super) async fn of(
        cgroup: &Cgroup,
        mut limits: Limits,
        program: impl Fn(&Self) -> Program,
    ) -> (Self, Execution, Output) {
        loop {
            let daemons = Self::new();
            let (execution, output) = execute_in(cgroup, program(&daemons), limits).await;
            if !too_short(&mut limits, &output) {
                return (daemons, execution, output);
            }
        }
    }

    /// Leaves its daemons, then goes on with `then`.
    pub(super) fn program(&self, then: &str) -> Program {
        let (script, pids) = (self.script.display(), self.pids.display());
        shell(&format!("python3 {script} {pids} && echo up && {then}"))
    }

    /// The same for another user, who has to reach what it is told to execute.
    pub(super) fn program_of(&self, user: &str, then: &str) -> Program {
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(self.directory.path(), everybody).unwrap();
        Program {
            run_as: Some(user.parse().unwrap()),
            ..self.program(then)
        }
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(&self.pids).unwrap_or_default();
        let pids: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(pids.len(), 2, "{text}");
        pids
    }

    pub(super) fn assert_gone(&self) {
        for pid in self.pids() {
            // Not even as a zombie.
            let path = format!("/proc/{pid}");
            assert!(!Path::new(&path).exists(), "{pid} is left over");
        }
    }
}

/// Without control groups, and with them if they are delegated to this process.
pub(super) const BOTH: [Cgroup; 2] = [Cgroup::Off, Cgroup::Auto];

#[tokio::test]
async fn daemons_end_with_their_job_however_it_ends() {
    for cgroup in &BOTH {
        daemons_end_in(cgroup).await;
    }
}

async fn daemons_end_in(cgroup: &Cgroup) {
    let cases = [
        ("exit 0", Limits::default(), Exit::Code(0)),
        ("exit 3", Limits::default(), Exit::Code(3)),
        ("kill -9 $$", Limits::default(), Exit::Signal(9)),
        (
            "exec sleep 60",
            within(1_000, SignalName::Term, 100),
            Exit::Signal(15),
        ),
    ];
    for (then, limits, expected) in cases {
        let (daemons, execution, _) = Daemons::of(cgroup, limits, |d| d.program(then)).await;
        assert_eq!(execution.exit, expected, "{then}, {cgroup:?}");
        daemons.assert_gone();
    }
}

#[tokio::test]
async fn daemons_end_with_a_cancelled_job() {
    for (cgroup, force) in BOTH
        .iter()
        .flat_map(|group| [(group, None), (group, Some(()))])
    {
        let executor = Executor::start(None, cgroup).unwrap();
        let daemons = Daemons::new();
        let (output, stop) = (Output::new(1), Stop::default());
        let limits = within(600_000, SignalName::Term, 100);
        let program = daemons.program("exec sleep 60");
        let execution = executor.execute(program, limits, &output, &stop);
        let asking = async {
            output.arrived().await;
            match force {
                None => stop.ask(),
                Some(()) => stop.force(),
            }
        };
        let (execution, ()) = tokio::join!(execution, asking);
        assert_eq!(execution.ended, Ended::Stopped);
        daemons.assert_gone();
    }
}

#[tokio::test]
async fn daemons_of_an_abandoned_job_end_soon() {
    for cgroup in &BOTH {
        abandoned_in(cgroup).await;
    }
}

async fn abandoned_in(cgroup: &Cgroup) {
    let executor = Executor::start(None, cgroup).unwrap();
    let daemons = Daemons::new();
    let (output, stop) = (Output::new(1), Stop::default());
    let program = daemons.program("exec sleep 60");
    tokio::select! {
        _ = executor.execute(program, Limits::default(), &output, &stop) => panic!("ended"),
        () = output.arrived() => {}
    }
    let pids = daemons.pids();
    let gone = tokio::task::spawn_blocking(move || {
        wait_for("end of the daemons", || {
            (!pids.iter().any(|pid| is_alive(*pid))).then_some(())
        });
    });
    tokio::select! {
        () = executor.tend() => {}
        gone = gone => gone.unwrap(),
    }
}

#[tokio::test]
async fn daemons_of_other_jobs_are_spared() {
    let executor = Executor::start(None, &Cgroup::Off).unwrap();
    let daemons = Daemons::new();
    let (output, stop) = (Output::new(1), Stop::default());
    let limits = within(600_000, SignalName::Term, 100);
    let execution = executor.execute(daemons.program("exec sleep 60"), limits, &output, &stop);
    let others = async {
        output.arrived().await;
        for _ in 0..20 {
            let (other, _) = execute(shell("true"), Limits::default()).await;
            assert_eq!(other.exit, Exit::Code(0));
        }
        for pid in daemons.pids() {
            assert!(is_alive(pid), "{pid} was another job's");
        }
        stop.ask();
    };
    tokio::join!(execution, others);
    daemons.assert_gone();
}

/// Not a test of its own: the process that [`a_guardian_ends_what_a_killed_worker_leaves`] kills.
#[tokio::test]
#[ignore = "started by another test"]
async fn guarded_victim() {
    let Ok(command) = std::env::var("VICTIM_COMMAND") else {
        return;
    };
    let guardian = Path::new(env!("CARGO_BIN_EXE_orchestrator"));
    let cgroup = std::env::var("VICTIM_CGROUP").unwrap().parse().unwrap();
    let executor = Executor::start(Some(guardian), &cgroup).unwrap();
    let (output, stop) = (Output::new(1), Stop::default());
    executor
        .execute(shell(&command), Limits::default(), &output, &stop)
        .await;
}

#[test]
fn a_guardian_ends_what_a_killed_worker_leaves() {
    for cgroup in ["off", "auto"] {
        guarded_in(cgroup);
    }
}

fn guarded_in(cgroup: &str) {
    let daemons = Daemons::new();
    let mut worker = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "trees::guarded_victim", "--ignored"])
        .env(
            "VICTIM_COMMAND",
            &daemons.program("exec sleep 60").arguments[1],
        )
        .env("VICTIM_CGROUP", cgroup)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("both daemons", || {
        let text = fs::read_to_string(&daemons.pids).ok()?;
        (text.lines().count() == 2).then_some(())
    });
    let pids = daemons.pids();
    worker.kill().unwrap();
    worker.wait().unwrap();
    wait_for("end of the daemons", || {
        (!pids.iter().any(|pid| is_alive(*pid))).then_some(())
    });
}
