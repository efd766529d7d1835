//! Control groups. These need version 2 with all its controllers delegated to this process, which is rare where
//! tests run: `tests/uml` runs them on a kernel of its own.

use std::os::unix::process::ExitStatusExt;

use orchestrator::job::{Cpus, ResourceLimits};

use super::*;

const MEGABYTE: u64 = 1 << 20;

fn limited(resources: ResourceLimits) -> Limits {
    Limits {
        resources: Some(resources),
        ..Limits::default()
    }
}

/// The groups that workers have made and that nobody removed.
fn left_over() -> Vec<String> {
    let groups = ["/sys/fs/cgroup", "/sys/fs/cgroup/unit.service"];
    let entries = groups.iter().filter_map(|group| fs::read_dir(group).ok());
    let names = entries
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let own = names.filter(|name| name.starts_with("orchestrator-4f"));
    own.collect()
}

#[tokio::test]
#[ignore = "needs control groups: tests/uml"]
async fn a_job_has_a_group_of_its_own_which_goes_with_it() {
    let (execution, output) = execute_in(
        &Cgroup::Auto,
        shell("cat /proc/self/cgroup"),
        Limits::default(),
    )
    .await;
    assert_eq!(execution.exit, Exit::Code(0));
    let group = text(&output, LogStream::Stdout);
    let path = group.trim().strip_prefix("0::").unwrap();
    assert!(path.contains("/orchestrator-4f"), "{path}");
    assert!(!Path::new(&format!("/sys/fs/cgroup{path}")).exists());
    assert_eq!(left_over(), [""; 0]);
}

#[tokio::test]
#[ignore = "needs control groups: tests/uml"]
async fn who_needs_too_much_memory_is_ended_as_a_whole_and_told_so() {
    let limits = limited(ResourceLimits {
        memory: Some(48 * MEGABYTE),
        ..ResourceLimits::default()
    });
    let hungry = "python3 -c 'x = b\"x\" * 200_000_000'";
    for script in [
        format!("exec {hungry}"),
        format!("{hungry}; echo survived; exit 0"),
        format!("setsid {hungry} & wait; echo survived; exit 1"),
    ] {
        let (execution, output) = execute_in(&Cgroup::Auto, shell(&script), limits).await;
        assert_eq!(
            execution.exit,
            Exit::OutOfMemory(Some(48 * MEGABYTE)),
            "{script}"
        );
        assert_eq!(text(&output, LogStream::Stdout), "", "{script}");
        assert_eq!(
            execution.exit.summary(),
            "out of memory: it needed more than 48 MiB"
        );
    }
    let frugal = "python3 -c 'x = b\"x\" * 2_000_000'";
    let (execution, _) = execute_in(&Cgroup::Auto, shell(frugal), limits).await;
    assert_eq!(execution.exit, Exit::Code(0));
    assert_eq!(left_over(), [""; 0]);
}

#[tokio::test]
#[ignore = "needs control groups: tests/uml"]
async fn processors_are_shared_out() {
    let limits = limited(ResourceLimits {
        cpu: Some(Cpus::try_from(0.2).unwrap()),
        ..ResourceLimits::default()
    });
    let script = "cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); cat cpu.max; \
         until grep -q 'nr_throttled [1-9]' cpu.stat; do :; done; echo throttled";
    let (execution, output) = execute_in(&Cgroup::Auto, shell(script), limits).await;
    assert_eq!(execution.exit, Exit::Code(0));
    assert_eq!(
        text(&output, LogStream::Stdout),
        "20000 100000\nthrottled\n"
    );
}

#[tokio::test]
#[ignore = "needs control groups: tests/uml"]
async fn there_are_no_more_processes_than_allowed() {
    let limits = limited(ResourceLimits {
        pids: Some(4),
        ..ResourceLimits::default()
    });
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 600 & done";
    let (execution, output) = execute_in(&Cgroup::Auto, shell(script), limits).await;
    assert_ne!(execution.exit, Exit::Code(0));
    let said = text(&output, LogStream::Worker);
    let remark = "it wanted more than the 4 processes of its `limits`";
    assert!(said.contains(remark), "{said}");
    assert_eq!(left_over(), [""; 0]);
}

#[tokio::test]
#[ignore = "needs control groups: tests/uml"]
async fn who_has_taken_off_every_mark_is_found_in_the_group() {
    // Its own user, and another one who works at it.
    for user in [None, Some("nobody")] {
        let daemons = trees::Daemons::new();
        let mut program = match user {
            None => daemons.program("exit 0"),
            Some(user) => daemons.program_of(user, "exit 0"),
        };
        let script = format!(
            "prlimit --locks=unlimited --pid $$; {}",
            program.arguments[1]
        );
        program.arguments[1] = script;
        let (execution, output) = execute_in(&Cgroup::Auto, program, Limits::default()).await;
        let told = text(&output, LogStream::Stderr);
        assert_eq!(execution.exit, Exit::Code(0), "{user:?}: {told}");
        daemons.assert_gone();
        assert_eq!(left_over(), [""; 0], "{user:?}");
    }
}

#[tokio::test]
async fn without_control_groups_a_job_with_limits_is_not_started() {
    let limits = limited(ResourceLimits {
        memory: Some(48 * MEGABYTE),
        ..ResourceLimits::default()
    });
    let (execution, _) = execute_in(&Cgroup::Off, shell("true"), limits).await;
    let Exit::NotStarted(reason) = execution.exit else {
        panic!("{execution:?}");
    };
    for part in ["`limits`", "switched off", "--cgroup"] {
        assert!(reason.contains(part), "{reason}");
    }
}

#[test]
fn a_group_that_cannot_be_used_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let place = Cgroup::At(directory.path().to_owned());
    let error = Executor::start(None, &place).unwrap_err().to_string();
    assert!(
        error.contains("is not a control group of version 2"),
        "{error}"
    );
}

#[test]
#[ignore = "needs control groups: tests/uml"]
fn what_a_dead_worker_left_behind_is_ended_by_the_next_one() {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.trim().strip_prefix("0::/").unwrap();
    let own = own.trim_end_matches("orchestrator-workers");
    let worker = Path::new("/sys/fs/cgroup")
        .join(own)
        .join("orchestrator-4f01020300000000.1");
    let run = worker.join("4f01020300000001/inner");
    fs::create_dir_all(&run).unwrap();
    let mut left = Command::new("sleep").arg("600").spawn().unwrap();
    fs::write(run.join("cgroup.procs"), left.id().to_string()).unwrap();
    // As long as somebody holds its directory, the worker lives.
    let lock = fs::File::open(&worker).unwrap();
    lock.lock().unwrap();
    drop(Executor::start(None, &Cgroup::Auto).unwrap());
    assert!(left.try_wait().unwrap().is_none());
    drop(lock);
    drop(Executor::start(None, &Cgroup::Auto).unwrap());
    assert_eq!(left.wait().unwrap().signal(), Some(9));
    assert!(!worker.exists());
}
