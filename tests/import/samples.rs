//! Samples as people have them, compared with the files that they become; and some of the jobs
//! executed.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use orchestrator::{
    job::{Execute, Job, JobName},
    schedules::Loaded,
};

use super::support::Cli;

/// Imports a sample from standard input and compares the result with `tests/import/NAME.toml`.
fn golden(name: &str, args: &[&str], code: i32) -> (Cli, Loaded) {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/import");
    let sample = fs::read(format!("{root}/{name}")).unwrap();
    let cli = Cli::new();
    let output = cli.import_from(&[args, &["-"]].concat(), sample);
    assert_eq!(output.code, code, "{}", output.stderr);
    let loaded = cli.checked(&output.stdout);
    let expected = fs::read_to_string(format!("{root}/{name}.toml")).unwrap_or_default();
    let got = cli.path("imported.toml");
    if expected != output.stdout {
        let copy = std::env::temp_dir().join(format!("{name}.toml"));
        fs::copy(got, &copy).unwrap();
        let diff = Command::new("diff")
            .arg("-u")
            .arg(format!("{root}/{name}.toml"))
            .arg(&copy)
            .output();
        let diff = String::from_utf8(diff.unwrap().stdout).unwrap();
        panic!(
            "{name}.toml is not what was written to {}:\n{diff}",
            copy.display()
        );
    }
    (cli, loaded)
}

fn job<'l>(loaded: &'l Loaded, name: &str) -> &'l Job {
    let name: JobName = name.parse().unwrap();
    loaded
        .set
        .get(&name)
        .unwrap_or_else(|| panic!("no job {name}"))
}

fn cron(job: &Job) -> String {
    job.trigger.canonical(job.timezone)
}

#[test]
fn the_crontab_of_a_user() {
    let (_, loaded) = golden("user.crontab", &["crontab"], 1);
    assert_eq!(loaded.set.len(), 7);
    let reports = job(&loaded, "reports-daily");
    assert_eq!(reports.description.as_deref(), Some("每日报告"));
    assert_eq!(reports.timezone.name(), "Asia/Shanghai");
    assert_eq!(job(&loaded, "crawl").timezone.name(), "UTC");
    assert_eq!(reports.spec.env["PATH"], "/usr/local/bin:/usr/bin:/bin");
}

#[test]
fn the_crontab_of_a_system() {
    golden(
        "system.crontab",
        &["crontab", "--system", "--timezone", "Europe/Berlin"],
        0,
    );
}

#[test]
fn the_schedule_of_celery_for_our_workers() {
    let (_, loaded) = golden("beat.json", &["celery"], 1);
    assert!(cron(job(&loaded, "first-monday")).contains("1#1"));
    assert!(!job(&loaded, "friday-13").enabled);
}

#[test]
fn the_schedule_of_celery_for_its_own_workers() {
    let cli = Cli::with("beat.json", include_str!("beat.json"));
    let output = cli.import(&["celery", "--app", "proj", "beat.json"]);
    let loaded = cli.checked(&output.stdout);
    let Execute::Command(command) = &job(&loaded, "add-every-30-seconds").spec.execute else {
        panic!("no command");
    };
    let written: Vec<_> = command.iter().map(ToString::to_string).collect();
    assert_eq!(
        written[..5],
        ["celery", "--app", "proj", "call", "--args=[16,16]"]
    );
    assert!(written[5].contains("\"it's {{braced}}\""), "{written:?}");
    // What TOML cannot say, JSON can.
    assert!(output.stdout.contains("--args=[null]"), "{}", output.stdout);
    assert_eq!(job(&loaded, "login").queue.as_str(), "default");
}

#[test]
fn cron_jobs_of_kubernetes() {
    let (_, loaded) = golden("cronjobs.yaml", &["kubernetes"], 1);
    let backup = job(&loaded, "nightly-backup");
    assert_eq!(backup.timezone.name(), "Europe/Berlin");
    assert_eq!(backup.spec.retry.attempts, 3);
    assert!(!job(&loaded, "poll").enabled);
}

#[test]
fn replace_is_carried_over_as_soon_as_the_loader_knows_it() {
    let yaml = "kind: CronJob\nmetadata: {name: a}\nspec:\n  schedule: '0 5 * * *'\n  concurrencyPolicy: Replace\n  \
                jobTemplate: {spec: {template: {spec: {containers: [{image: a, command: [a]}]}}}}\n";
    let cli = Cli::new();
    let output = cli.import_from(&["kubernetes", "-"], yaml);
    assert_eq!(output.code, 0, "{}", output.stderr);
    cli.checked(&output.stdout);
    let key = output.stdout.contains("\noverlap = \"replace\"\n");
    let comment = output
        .stdout
        .contains("# not carried over: concurrencyPolicy Replace")
        && output.stdout.contains("\noverlap = \"skip\"\n");
    assert!(key != comment, "{}", output.stdout);
}

#[test]
fn what_followed_a_percent_sign_is_standard_input() {
    let cli = Cli::new();
    let crontab = "* * * * * tr a-z A-Z; echo done%one%$HOME 'two'%50\\% `x`\n* * * * * cat%\n";
    let output = cli.import_from(&["crontab", "-", "--timezone", "UTC"], crontab);
    assert_eq!((output.code, output.stderr.as_str()), (0, ""));
    let loaded = cli.checked(&output.stdout);
    let run = |name: &str| {
        let Execute::Shell(script) = &job(&loaded, name).spec.execute else {
            panic!("no script");
        };
        let output = Command::new("/bin/sh")
            .args(["-c", script])
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run("tr-a-z"), "ONE\n$HOME 'TWO'\n50% `X`\ndone\n");
    assert_eq!(run("cat"), "");
}

#[test]
fn the_function_of_a_task_is_called_with_its_arguments() {
    let beat = r#"{"a": {"task": "pkg.tasks.add", "schedule": 30, "args": [1, "x y"], "kwargs": {"k": {"l": [true]}}},
                   "b": {"task": "pkg.tasks.add", "schedule": 30}}"#;
    let cli = Cli::new();
    let output = cli.import_from(&["celery", "-"], beat);
    let loaded = cli.checked(&output.stdout);
    fs::create_dir(cli.path("pkg")).unwrap();
    fs::write(
        cli.path("pkg/tasks.py"),
        "def add(*args, **kwargs): print(args, kwargs)\n",
    )
    .unwrap();
    let call = |name: &str| {
        let spec = &job(&loaded, name).spec;
        let Execute::Command(command) = &spec.execute else {
            panic!("no command");
        };
        let argv: Vec<_> = command.iter().map(ToString::to_string).collect();
        let mut child = Command::new(&argv[0])
            .args(&argv[1..])
            .current_dir(cli.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // As a worker hands them over.
        let args = serde_json::to_vec(&spec.args).unwrap();
        child.stdin.take().unwrap().write_all(&args).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    assert_eq!(call("a"), "(1, 'x y') {'k': {'l': [True]}}\n");
    assert_eq!(call("b"), "() {}\n");
}
