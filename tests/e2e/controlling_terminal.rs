//! A worker that somebody starts at a terminal keeps it to itself: who can open it reads what is typed there and, where the
//! kernel still lets him (TIOCSTI), types into the shell that comes after.

use std::{fs, path::Path};

use crate::{
    policy_users::{behind, is_root, open_to_all},
    support::{Installation, Service, wait_for},
};

/// Executes its arguments with a new terminal as the controlling one, both ends of which stay open.
const AT_A_TERMINAL: &str = "
import fcntl, os, sys, termios
ends = os.openpty()
os.setsid()
fcntl.ioctl(ends[1], termios.TIOCSCTTY, 0)
for end in ends: os.set_inheritable(end, True)
os.execv(sys.argv[1], sys.argv[1:])
";

/// Its session and terminal, as `ps` has them.
const LOOK: &str = "(: <> /dev/tty) > opened 2>&1 || echo refused >> opened; ps -o sid=,tty= -p $$ > seen; echo $$ > pid";

fn up_at_a_terminal(here: &Installation, args: &[&str]) -> Service {
    let front = ["python3", "-c", AT_A_TERMINAL];
    let program = Path::new(env!("CARGO_BIN_EXE_orchestrator"));
    let args = [&["up"], args].concat();
    here.spawn(behind(here, &front, program, &args), "up", &[])
}

/// The terminal of a process, by its number; 0 for none.
fn terminal(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let mut fields = stat.rsplit_once(") ").unwrap().1.split(' ');
    fields.nth(4).unwrap().parse().unwrap()
}

#[test]
fn no_job_has_the_terminal_of_its_worker() {
    let here = Installation::new();
    let mut users = vec![None];
    let mut options = Vec::new();
    if is_root() {
        users.push(Some("nobody"));
        fs::write(
            here.path("worker.toml"),
            "shell = true\nusers = [\"root\", \"nobody\"]\n",
        )
        .unwrap();
        options.extend(["--policy", "worker.toml"]);
    }
    let jobs = users.iter().map(|user| {
        let name = user.unwrap_or("own");
        open_to_all(&here.path(name));
        let run_as = user.map(|user| format!("run_as = \"{user}\"\n"));
        let run_as = run_as.unwrap_or_default();
        format!("[job.{name}]\n{run_as}working_dir = \"../{name}\"\nshell = '''{LOOK}'''\n")
    });
    here.schedule("a.toml", &jobs.collect::<String>());
    let up = up_at_a_terminal(&here, &options);
    wait_for("the jobs", || {
        here.try_json(&["jobs"])?.get(users.len() - 1).cloned()
    });
    assert_ne!(terminal(up.pid()), 0, "there is nothing to keep");
    for user in users {
        let name = user.unwrap_or("own");
        assert_eq!(here.run_to_its_end(name)["state"], "succeeded");
        let read = |file: &str| here.read(&format!("{name}/{file}"));
        let seen = read("seen");
        let seen: Vec<_> = seen.split_whitespace().collect();
        assert_eq!(
            seen,
            [read("pid").trim(), "?"],
            "{name}: session and terminal"
        );
        let opened = read("opened");
        assert!(
            opened.contains("No such device or address"),
            "{name}: {opened}"
        );
        assert!(opened.ends_with("refused\n"), "{name}: {opened}");
    }
    assert!(up.stop().success());
}
