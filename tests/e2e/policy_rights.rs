//! Workers that may not do everything that jobs of other users take.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    policy_users::{behind, is_root, open_to_all, refused},
    support::{Installation, wait_for},
};

const CANARY: &str = "canary-environ-5c20e8";

#[test]
fn a_worker_without_the_right_has_its_own_user_alone() {
    if !is_root() {
        return;
    }
    let here = Installation::new();
    // Where the tests' own program lies may be closed to others.
    let program = here.path("orchestrator");
    fs::copy(env!("CARGO_BIN_EXE_orchestrator"), &program).unwrap();
    open_to_all(&here.path("."));
    open_to_all(&here.path("work"));
    here.schedule(
        "a.toml",
        "[defaults]\nworking_dir = \"../work\"\n\
         [job.own]\nrun_as = \"nobody\"\nshell = \"id -un > own; echo 5 > $ORCHESTRATOR_RESULT; printf %s \\\"$HOME\\\" > home\"\n\
         [job.nameless]\ncommand = [\"touch\", \"nameless\"]\n\
         [job.other]\nrun_as = \"daemon\"\ncommand = [\"touch\", \"other\"]\n\
         [job.spy]\nshell = \"tr '\\\\0' ' ' < /proc/$PPID/cmdline > parent; tr '\\\\0' ' ' > spied < /proc/$PPID/environ; true\"\n",
    );
    fs::write(
        here.path("worker.toml"),
        "shell = true\nusers = [\"nobody\", \"daemon\"]\n",
    )
    .unwrap();
    let front = [
        "setpriv",
        "--reuid=nobody",
        "--regid=nogroup",
        "--clear-groups",
    ];
    let up = behind(&here, &front, &program, &["up", "--policy", "worker.toml"]);
    let up = here.spawn(up, "up", &[("NATS_PASSWORD", CANARY)]);
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(3).cloned());
    let environment = fs::read(format!("/proc/{}/environ", up.pid())).unwrap();
    assert!(String::from_utf8_lossy(&environment).contains(CANARY));
    assert_eq!(here.run_to_its_end("spy")["state"], "succeeded");
    assert!(
        here.read("work/parent").contains("worker.toml"),
        "its worker"
    );
    assert_eq!(
        here.read("work/spied"),
        "",
        "a job reads what its worker was told"
    );
    let own = here.run_to_its_end("own");
    assert_eq!(
        (&own["state"], &own["result"]),
        (&json!("succeeded"), &json!(5)),
        "{own}"
    );
    assert_eq!(here.lines("work/own"), ["nobody"]);
    assert_eq!(here.read("work/home"), "/nonexistent");
    assert_eq!(here.run_to_its_end("nameless")["state"], "succeeded");
    let (letter, reason) = refused(&here, "other");
    assert_eq!(letter["refused"], Value::Null, "{letter}");
    for part in [
        "daemon",
        "nobody",
        "CAP_SETUID",
        "CAP_KILL",
        "run it as root",
    ] {
        assert!(reason.contains(part), "{reason}");
    }
    assert!(!here.path("work/other").exists());
    assert!(up.stop().success());
}

#[test]
fn who_cannot_be_watched_is_not_started() {
    if !is_root() {
        return;
    }
    let here = Installation::new();
    open_to_all(&here.path("work"));
    here.schedule(
        "a.toml",
        "[job.unseen]\nrun_as = \"nobody\"\nworking_dir = \"../work\"\ntimeout = \"20s\"\ncommand = [\"sleep\", \"600\"]\n",
    );
    fs::write(here.path("worker.toml"), "users = [\"nobody\"]\n").unwrap();
    // Root sees what is hidden by its group, or by CAP_SYS_PTRACE.
    let hidden = "mount -t proc -o hidepid=2 proc /proc && exec setpriv --regid=nogroup --clear-groups --bounding-set=-sys_ptrace \"$0\" \"$@\"";
    let front = [
        "unshare",
        "--mount",
        "--propagation=private",
        "sh",
        "-c",
        hidden,
    ];
    let program = Path::new(env!("CARGO_BIN_EXE_orchestrator"));
    let args = ["up", "--policy", "worker.toml", "--cgroup", "off"];
    let up = here.spawn(behind(&here, &front, program, &args), "up", &[]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    let unseen = here.run_to_its_end("unseen");
    let reason = unseen["reason"].as_str().unwrap();
    for part in ["nobody", "/proc", "ProtectProc"] {
        assert!(reason.contains(part), "{reason}");
    }
    assert!(up.stop().success());
}

#[test]
fn a_program_that_the_worker_cannot_see_is_not_known_to_be_allowed() {
    if !is_root() {
        return;
    }
    let here = Installation::new();
    open_to_all(&here.path("work"));
    for (name, text) in [("seen", "echo seen > ran"), ("own", "echo unseen > ran")] {
        here.script(&format!("{name}/tool"), text);
    }
    let [work, seen, hidden] = ["work", "seen", "own"].map(|name| here.real(name));
    // Closed to all but the user, and to a root who may not do everything.
    let id = |arguments: &[&str]| {
        let said = Command::new("id").args(arguments).output().unwrap();
        String::from_utf8(said.stdout)
            .unwrap()
            .trim()
            .parse::<u32>()
            .unwrap()
    };
    let own = here.path("own");
    fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&own, Some(id(&["-u", "nobody"])), None).unwrap();
    here.schedule(
        "a.toml",
        &format!(
            "[defaults]\nrun_as = \"nobody\"\nworking_dir = \"../work\"\n\
             [job.both]\ncommand = [\"tool\"]\nenv = {{ PATH = \"{hidden}:{seen}:/usr/bin:/bin\" }}\n\
             [job.whole]\ncommand = [\"{seen}/tool\"]\n\
             [job.inside]\ncommand = [\"{seen}/tool\"]\nworking_dir = \"../own\"\n",
        ),
    );
    let policy = format!(
        "users = [\"nobody\"]\nexecutables = [\"{seen}/*\"]\nenv = [\"PATH\"]\nworking_dirs = [\"{work}\"]\n",
    );
    fs::write(here.path("worker.toml"), policy).unwrap();
    let bounds = "--bounding-set=-dac_override,-dac_read_search";
    let program = Path::new(env!("CARGO_BIN_EXE_orchestrator"));
    let args = ["up", "--policy", "worker.toml"];
    let up = behind(&here, &["setpriv", bounds], program, &args);
    let up = here.spawn(up, "up", &[]);
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(2).cloned());
    for (job, rule, path) in [
        ("both", "executables", format!("{hidden}/tool")),
        ("inside", "working_dirs", hidden.clone()),
    ] {
        let (letter, reason) = refused(&here, job);
        assert_eq!(letter["refused"]["rule"], rule, "{job}: {reason}");
        assert!(reason.contains(&path), "{job}: {reason}");
    }
    assert!(!here.path("work/ran").exists());
    assert_eq!(here.run_to_its_end("whole")["state"], "succeeded");
    assert_eq!(here.lines("work/ran"), ["seen"]);
    assert!(up.stop().success());
}
