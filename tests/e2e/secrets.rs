//! Credentials and files of variables: seen by the job, hidden from everybody else.

use std::{fs, os::unix::fs::symlink};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::{
    Installation,
    files::{self, has},
    listener::Listener,
    nats::NatsServer,
    wait_for,
};

const PASSWORD: &str = "correct horse battery staple";
const TOKEN: &str = "tok-8d7f6a5b";

const JOBS: &str = r#"
[job.shout]
credential = "site-password"
env_file = "secrets.env"
shell = '''
printf '%s|' "$CREDENTIAL_SITE_PASSWORD" "$SITE_TOKEN"
printf 'corr'; sleep 0.3; printf 'ect horse'; sleep 0.3; printf ' battery staple\n'
echo "$SITE_TOKEN" >&2
echo "{\"token\": \"$SITE_TOKEN\", \"seen\": \"$(printf '%s' "$CREDENTIAL_SITE_PASSWORD$SITE_TOKEN" | sha256sum)\"}" > $ORCHESTRATOR_RESULT
exit 3'''
[job.header]
credential = "site-password"
http = { url = "http://127.0.0.1:1/{credential.site-password}", headers = { Authorization = "Bearer {credential.site-password}" } }
[job.nowhere]
credential = "none-such"
command = ["true"]
[job.unread]
env_file = "absent.env"
command = ["true"]
"#;

#[test]
fn secrets_reach_the_job_and_nothing_else() {
    let here = Installation::new();
    std::fs::create_dir(here.path("credentials")).unwrap();
    std::fs::write(
        here.path("credentials/site-password"),
        format!("{PASSWORD}\n"),
    )
    .unwrap();
    let file = here.path("schedules/secrets.env");
    std::fs::write(file, format!("# for the site\nSITE_TOKEN='{TOKEN}'\n")).unwrap();
    here.schedule("a.toml", JOBS);
    let directory = here.path("credentials").display().to_string();
    let up = here.start("up", &["up", "--credentials-dir", &directory]);
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(3).cloned());

    let run = here.run_to_its_end("shout");
    assert_eq!(run["attempts"][0]["exit"]["code"], 3, "{run}");
    assert_eq!(run["result"]["token"], "***");
    let seen = run["result"]["seen"].as_str().unwrap();
    let both = format!("{PASSWORD}{TOKEN}");
    assert!(
        seen.starts_with(&sha256(&both)),
        "the job saw something else"
    );
    let id = run["run_id"].as_str().unwrap();
    let logs = here.run(&["logs", id]);
    assert_eq!(logs.stdout, "***|***|***\n");
    assert_eq!(logs.stderr, "***\n");

    let refused = here.run_to_its_end("header");
    assert_eq!(refused["state"], "failed", "{refused}");
    for (job, part) in [
        ("nowhere", "credentials/none-such"),
        ("unread", "absent.env"),
    ] {
        let run = here.run_to_its_end(job);
        let reason = run["reason"].as_str().unwrap();
        assert!(reason.contains(part), "{reason}");
    }

    assert!(up.stop().success());
    // The broker's files, the log of `up`, whatever else there is.
    for entry in files::below(&here.path(".")) {
        let name = entry.display().to_string();
        if name.contains("credentials/") || name.ends_with("secrets.env") {
            continue;
        }
        let bytes = std::fs::read(&entry).unwrap();
        for secret in [PASSWORD, TOKEN] {
            assert!(!has(&bytes, secret), "{name} has a secret");
        }
    }
}

fn sha256(text: &str) -> String {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let out = child.wait_with_output().unwrap();
    String::from_utf8(out.stdout).unwrap()[..64].to_owned()
}

#[test]
fn logs_keep_bytes_and_colours_unless_they_are_not_wanted() {
    let here = Installation::new();
    here.schedule(
        "a.toml",
        r"[job.paint]
shell = '''
printf '\033[31mred\033[0m \377\000\n'
printf '\033[3'; sleep 0.4; printf '2mgreen\n' '''
",
    );
    let _up = here.up(&[]);
    wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
    let run = here.run_to_its_end("paint");
    let id = run["run_id"].as_str().unwrap();
    let raw = here.bytes(&["logs", id]);
    assert_eq!(raw, b"\x1b[31mred\x1b[0m \xff\x00\n\x1b[32mgreen\n");
    let plain = here.bytes(&["--color", "never", "logs", id]);
    assert!(
        plain.starts_with(b"red ") && plain.ends_with(b"green\n"),
        "{plain:?}"
    );
}

#[test]
fn a_secret_is_nowhere_on_nats_either() {
    const CANARY: &str = "canary-5f1c9a77e0b3";
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    std::fs::create_dir(here.path("credentials")).unwrap();
    std::fs::write(here.path("credentials/site"), CANARY).unwrap();
    std::fs::write(
        here.path("schedules/site.env"),
        format!("SITE_TOKEN={CANARY}\n"),
    )
    .unwrap();
    let listener = Listener::start(|_, _| "200 OK");
    let told = format!(
        "[defaults]\nping = \"{0}/ping\"\n[notify.ops]\nurl = \"{0}/hook\"\non = [\"failed\", \"dead\"]\n",
        listener.url
    );
    here.schedule(
        "a.toml",
        &(told
            + r#"
[job.broken]
credential = "site"
http = { url = "http://[{credential.site}/" }
[job.fails]
credential = "site"
env_file = "site.env"
working_dir = ".."
retry = { attempts = 2, initial = "10ms" }
shell = '''
echo "$CREDENTIAL_SITE"; echo "$SITE_TOKEN" >&2
echo "\"$SITE_TOKEN\"" > $ORCHESTRATOR_RESULT
printf '%s' "$CREDENTIAL_SITE$SITE_TOKEN" | sha256sum > seen
echo $$ > pid
until [ -e go ]; do sleep 0.05; done
exit 1'''
[job.asks]
credential = "site"
retry = { attempts = 2, initial = "10ms" }
http = { url = "http://127.0.0.1:1/{credential.site}", headers = { Authorization = "{credential.site}" } }
"#),
    );
    let beat = here.start("beat", &["beat"]);
    let directory = here.path("credentials").display().to_string();
    let args = [
        "worker",
        "--queue",
        "default",
        "--credentials-dir",
        &directory,
        "-vv",
    ];
    let worker = here.start("worker", &args);
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(2).cloned());
    // The reason would have it: what is wrong is told with the URL.
    let reason = here.run_to_its_end("broken")["reason"].clone();
    assert!(reason.as_str().unwrap().contains("[***/"), "{reason}");
    assert_eq!(here.run(&["run", "fails"]).code, 0);
    wait_for("the job", || here.read("pid").trim().parse::<u32>().ok());
    // What `ps` shows of whoever, while it runs.
    files::assert_in_no_command_line(CANARY);
    std::fs::write(here.path("go"), "").unwrap();
    assert_eq!(here.run_to_its_end("asks")["state"], "dead");
    wait_for("both letters", || {
        here.json(&["dead", "list"]).get(1).cloned()
    });
    assert!(
        here.read("seen")
            .starts_with(&sha256(&format!("{CANARY}{CANARY}"))),
        "the job did not see it"
    );
    for job in ["fails", "asks", "broken"] {
        let id = here.runs(job)[0]["run_id"].as_str().unwrap().to_owned();
        for what in [
            &["show", &id][..],
            &["logs", &id],
            &["logs", &id, "-o", "json"],
            &["dead", "show", &id],
            &["dead", "list", "-o", "json"],
            &["explain", job],
        ] {
            let said = here.run(what);
            let all = format!("{}{}", said.stdout, said.stderr);
            assert!(!all.contains(CANARY), "{what:?}: {all}");
        }
    }
    // Whoever is told of it.
    wait_for("webhooks and pings", || {
        let heard = listener.heard();
        let of = |path: &str, job: &str| {
            let mut heard = heard.iter().filter(|heard| heard.path.starts_with(path));
            heard.any(|heard| heard.body.contains(job)).then_some(())
        };
        of("/hook", "\"fails\"").and(of("/ping", "[***/"))
    });
    for heard in listener.heard() {
        let all = format!("{heard:?}");
        assert!(!all.contains(CANARY), "{all}");
    }
    assert_eq!(here.run(&["state", "export", "whole.state"]).code, 0);
    assert!(worker.stop().success());
    assert!(beat.stop().success());
    // The server's files, the logs, beat's own copy, the export.
    let mut with_the_job = 0;
    for root in [nats.directory(), &here.path(".")] {
        for file in files::below(root) {
            let name = file.display().to_string();
            if name.contains("credentials/") || name.ends_with("site.env") {
                continue;
            }
            let bytes = std::fs::read(&file).unwrap();
            with_the_job += usize::from(has(&bytes, "CREDENTIAL_SITE"));
            assert!(!has(&bytes, CANARY), "{name} has it");
        }
    }
    // Where it would be: the schedule, the definition in the server's files, the export.
    assert!(with_the_job >= 3, "{with_the_job}");
}

/// What never ends, or never begins, is no file of variables: it must not take the worker.
#[test]
fn a_file_of_variables_is_a_file() {
    let here = Installation::new();
    let fifo = here.path("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    fs::create_dir(here.path("credentials")).unwrap();
    symlink(&fifo, here.path("credentials/never")).unwrap();
    // Longer than it says.
    symlink("/dev/zero", here.path("credentials/endless")).unwrap();
    fs::write(
        here.path("policy.toml"),
        "executables = [\"/**\"]\nenv = [\"*\"]\n",
    )
    .unwrap();
    let jobs = [
        ("fifo", format!("env_file = {fifo:?}")),
        ("never", "credential = \"never\"".to_owned()),
        ("zero", "env_file = \"/dev/zero\"".to_owned()),
        ("endless", "credential = \"endless\"".to_owned()),
        ("directory", "env_file = \"/proc\"".to_owned()),
    ];
    let job = |(name, file): &(&str, String)| {
        format!("[job.{name}]\n{file}\ntimeout = \"5s\"\ncommand = [\"true\"]\n")
    };
    let all: String = jobs.iter().map(job).collect();
    here.schedule(
        "a.toml",
        &format!("{all}[job.good]\ncommand = [\"true\"]\n"),
    );
    let directory = here.path("credentials").display().to_string();
    let policy = here.path("policy.toml").display().to_string();
    for more in [&[][..], &["--policy", &policy]] {
        let args = [&["up", "--credentials-dir", &directory], more].concat();
        let up = here.start("up", &args);
        wait_for("the jobs", || here.try_json(&["jobs"])?.get(5).cloned());
        for (name, _) in &jobs {
            let run = here.run_to_its_end(name);
            assert_eq!(run["state"], "failed", "{name}: {run}");
            let reason = run["attempts"][0]["exit"]["not_started"].to_string();
            assert!(reason.contains("not a file"), "{name}: {run}");
        }
        let good = here.run_to_its_end("good");
        assert_eq!(good["state"], "succeeded", "{good}");
        assert!(up.stop().success());
    }
}
