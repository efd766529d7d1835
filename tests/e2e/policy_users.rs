//! Jobs of other users, as the policy of a worker allows them. Most of it takes root; where it is missing a test says so and
//! stops.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Installation, Service,
    commands::surround,
    files::{self, has},
    is_alive,
    nats::NatsServer,
    wait_for,
};

const CANARY: &str = "canary-run-as-91b3d7";

pub fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root can execute jobs of other users");
    }
    is_root
}

/// The command of a service, after one that changes what it is started with.
pub fn behind(here: &Installation, front: &[&str], program: &Path, args: &[&str]) -> Command {
    let plain = here.command(args);
    let (first, rest) = front.split_first().unwrap();
    let mut command = Command::new(first);
    command.args(rest).arg(program).args(plain.get_args());
    surround(&mut command, &plain);
    command
}

/// The letter of a run that was not even tried, and its reason.
pub fn refused(here: &Installation, job: &str) -> (Value, String) {
    let record = here.run_to_its_end(job);
    assert_eq!(record["state"], "dead", "{job}: {record}");
    assert_eq!(record["attempts"], json!([]), "{job}: {record}");
    let letter = wait_for("its letter", || {
        let letters = here.json(&["dead", "list", "--job", job]);
        let mut letters = letters.as_array().unwrap().clone();
        letters.retain(|letter| letter["run_id"] == record["run_id"]);
        letters.pop()
    });
    assert_eq!(letter["reason"], record["reason"], "{job}");
    let reason = record["reason"].as_str().unwrap().to_owned();
    (letter, reason)
}

fn by_the_users(letter: &Value) {
    let rule = json!({ "by": "policy", "rule": "users" });
    assert_eq!(letter["refused"], rule, "{letter}");
}

pub fn open_to_all(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
}

const JOBS: &str = r#"
[defaults]
overlap = "allow"
working_dir = "../work"
retry = { attempts = 3, initial = "10ms" }
[job.who]
run_as = "nobody"
credential = "site"
env_file = "site.env"
shell = '''
echo $$ > pid
printf '%s' "$CREDENTIAL_SITE$SITE_TOKEN" | sha256sum > seen
id -un > user; id -G > groups
cat ../credentials/site > stolen 2>&1
until [ -e go ]; do sleep 0.05; done
echo "\"$CREDENTIAL_SITE\"" > $ORCHESTRATOR_RESULT'''
[job.unlisted]
run_as = "daemon"
command = ["true"]
[job.nameless]
command = ["true"]
[job.absent]
run_as = "no-such-user"
command = ["true"]
[job.astray]
run_as = "nobody"
working_dir = "../credentials"
retry = { attempts = 1 }
command = ["true"]
[job.elsewhere]
run_as = "nobody"
command = ["twice"]
env = { PATH = "PATHS" }
"#;

fn worker(here: &Installation, front: &[&str], more: &[&str]) -> Service {
    let args = [&["worker", "--queue", "default"], more].concat();
    let program = Path::new(env!("CARGO_BIN_EXE_orchestrator"));
    let worker = here.spawn(behind(here, front, program, &args), "worker", &[]);
    wait_for("the worker", || {
        worker.log().contains("worker starts").then_some(())
    });
    worker
}

#[test]
fn a_job_is_the_users_that_it_names_if_the_policy_lists_it() {
    if !is_root() {
        return;
    }
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    open_to_all(&here.path("work"));
    for (name, mode) in [("first", 0o700), ("second", 0o755)] {
        here.script(&format!("{name}/twice"), "echo second > twice");
        fs::set_permissions(here.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(here.path("credentials")).unwrap();
    fs::set_permissions(here.path("credentials"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(here.path("credentials/site"), CANARY).unwrap();
    let file = here.path("schedules/site.env");
    fs::write(&file, format!("SITE_TOKEN={CANARY}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let [first, second, directory] = ["first", "second", "credentials"].map(|name| here.real(name));
    let paths = format!("{first}:{second}:/usr/bin:/bin");
    here.schedule("a.toml", &JOBS.replace("PATHS", &paths));
    let policy = |text: &str| fs::write(here.path("worker.toml"), text).unwrap();
    policy("shell = true\nusers = [\"nobody\", \"no-such-user\"]\n");
    let _beat = here.start("beat", &["beat"]);
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(5).cloned());
    // Of the worker's own groups nothing is left.
    let groups = ["setpriv", "--groups", "4,7"];
    let options = ["--policy", "worker.toml", "--credentials-dir", &directory];
    let worker_of_root = worker(&here, &groups, &options);

    is_its_users(&here);
    let astray = here.run_to_its_end("astray");
    let reason = astray["reason"].as_str().unwrap();
    for part in ["nobody", "credentials", "working_dir"] {
        assert!(reason.contains(part), "{reason}");
    }
    let (letter, reason) = refused(&here, "unlisted");
    by_the_users(&letter);
    assert!(reason.contains("daemon"), "{reason}");
    // Who leaves the user out is not root by that.
    let (letter, reason) = refused(&here, "nameless");
    by_the_users(&letter);
    assert!(reason.contains("root"), "{reason}");
    // No rule was broken: there is no such user.
    let (letter, reason) = refused(&here, "absent");
    assert_eq!(letter["refused"], Value::Null, "{letter}");
    for part in ["no-such-user", "useradd", "run_as"] {
        assert!(reason.contains(part), "{reason}");
    }

    // The first program of that name is closed to the user: it would come to the second one.
    assert_eq!(here.run_to_its_end("elsewhere")["state"], "succeeded");
    assert_eq!(here.lines("work/twice"), ["second"]);
    let users = "users = [\"nobody\"]\nshell = true\n";
    policy(&format!(
        "executables = [\"{first}/*\"]\nenv = [\"PATH\"]\n{users}"
    ));
    reloaded(&worker_of_root, 2);
    let (letter, reason) = refused(&here, "elsewhere");
    assert_eq!(letter["refused"]["rule"], "executables", "{reason}");
    assert!(reason.contains(&second), "{reason}");

    // Without the list nobody may be named.
    policy("shell = true\n");
    reloaded(&worker_of_root, 3);
    by_the_users(&refused(&here, "who").0);
    assert_eq!(here.run_to_its_end("nameless")["state"], "succeeded");
    assert!(worker_of_root.stop().success());
    // Nor without a policy.
    let without = worker(&here, &["env"], &[]);
    let (letter, reason) = refused(&here, "who");
    by_the_users(&letter);
    assert!(reason.contains("--policy"), "{reason}");
    assert!(without.stop().success());

    // What the job was told is with the job alone.
    for root in [nats.directory(), &here.path(".")] {
        for file in files::below(root) {
            let name = file.display().to_string();
            let own = name.contains("credentials/") || name.ends_with("site.env");
            assert!(
                own || !has(&fs::read(&file).unwrap(), CANARY),
                "{name} has it"
            );
        }
    }
}

/// The job `who`, watched from outside while it runs.
fn is_its_users(here: &Installation) {
    assert_eq!(here.run(&["run", "who"]).code, 0);
    let pid = wait_for("the job", || {
        let told = here.read("work/groups");
        told.ends_with('\n').then_some(())?;
        here.read("work/pid").trim().parse::<u32>().ok()
    });
    let process = Path::new("/proc").join(pid.to_string());
    let status = fs::read_to_string(process.join("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let says = |arguments: &[&str]| {
        let said = Command::new("id").args(arguments).output().unwrap();
        String::from_utf8(said.stdout).unwrap().trim().to_owned()
    };
    let (uid, gid) = (says(&["-u", "nobody"]), says(&["-g", "nobody"]));
    assert_eq!(field("Uid:"), [uid.as_str(); 4].join(" "));
    assert_eq!(field("Gid:"), [gid.as_str(); 4].join(" "));
    assert_eq!(field("Groups:"), says(&["-G", "nobody"]));
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set).trim_matches('0'), "", "{set}");
    }
    files::assert_in_no_command_line(CANARY);
    // Its environment has it, which is its own.
    let environ = process.join("environ");
    assert!(has(&fs::read(&environ).unwrap(), CANARY));
    let others = ["--reuid=daemon", "--clear-groups", "cat"];
    let by_another = Command::new("setpriv").args(others).arg(environ).output();
    let by_another = by_another.unwrap();
    assert!(!by_another.status.success() && !has(&by_another.stdout, CANARY));

    fs::write(here.path("work/go"), "").unwrap();
    let record = wait_for("its end", || {
        let run = here.runs("who").into_iter().next()?;
        (run["state"] == "succeeded").then_some(run)
    });
    assert_eq!(here.lines("work/user"), ["nobody"]);
    assert!(here.read("work/stolen").contains("Permission denied"));
    let sum = Command::new("sh")
        .args(["-c", "printf '%s' \"$0$0\" | sha256sum", CANARY])
        .output();
    let sum = String::from_utf8(sum.unwrap().stdout).unwrap();
    assert_eq!(here.read("work/seen"), sum, "the job did not see it");
    let id = record["run_id"].as_str().unwrap();
    assert_eq!(here.json(&["show", id])["result"], "***");
}

pub fn reloaded(worker: &Service, times: usize) {
    worker.signal(Signal::HUP);
    wait_for("the new rules", || {
        let told = worker.log().matches("that the policy allows").count();
        (told == times).then_some(())
    });
}

#[test]
fn nothing_of_another_users_job_outlives_its_worker() {
    if !is_root() {
        return;
    }
    let here = Installation::new();
    open_to_all(&here.path("work"));
    here.schedule(
        "a.toml",
        "[job.long]\nrun_as = \"nobody\"\nworking_dir = \"../work\"\nshell = '''\n\
         setsid sh -c 'trap \"\" TERM INT HUP; echo $$ >> pids; while :; do sleep 0.2; done' &\n\
         echo $$ >> pids; trap '' TERM; while :; do sleep 0.2; done'''\n",
    );
    fs::write(
        here.path("worker.toml"),
        "shell = true\nusers = [\"nobody\"]\n",
    )
    .unwrap();
    let up = here.up(&["--policy", "worker.toml"]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    assert_eq!(here.run(&["run", "long"]).code, 0);
    let pids: Vec<u32> = wait_for("both processes", || {
        let lines = here.lines("work/pids");
        (lines.len() == 2).then(|| lines.iter().map(|line| line.parse().unwrap()).collect())
    });
    for pid in &pids {
        let whose = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
        assert_ne!(whose, 0);
    }
    up.kill9();
    wait_for("the end of both", || {
        pids.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
}
