//! Definitions that somebody else wrote where beat shares them.

use std::fs;

use rustix::process::Signal;

use crate::{
    signed::{Hostile, JOBS, letters, new_key, ready, worker},
    support::{Installation, nats::NatsServer, wait_for},
};

/// Who may write where definitions are would have whoever runs a job by hand sign what he wrote.
#[test]
fn a_definition_that_nobody_vouches_for_is_not_signed_with_a_run() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    let fail = "[job.fail]\ncommand = [\"sh\", \"-c\", \"echo $1 >> said; exit 1\", \"-\", \"{arg.who}\"]\n\
                working_dir = \"..\"\nargs = { who = \"me\" }\nretry = { attempts = 2, initial = \"10ms\" }\n";
    let program = env!("CARGO_BIN_EXE_orchestrator");
    let fan = format!(
        "[job.fan]\ncommand = [\"{program}\", \"run\", \"note\", \"--signing-key\", \"operator.key\"]\n\
         working_dir = \"..\"\n"
    );
    here.schedule("a.toml", &format!("{JOBS}{fail}{fan}"));
    let (key, public) = new_key(&here, "beat.key");
    let (operator, operator_public) = new_key(&here, "operator.key");
    fs::write(here.path("trusted"), public + &operator_public).unwrap();
    let trusted = here.path("trusted").display().to_string();
    let beat = here.start("beat", &["beat", "--signing-key", &key]);
    ready(&here);
    let _worker = worker(&here, "default");
    let hostile = Hostile::new(&nats.url());
    let first = here.run(&["run", "note", "--signing-key", &key, "--wait"]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    let failed = here.run(&["run", "fail", "--signing-key", &key, "--wait"]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    let letter = wait_for("its letter", || letters(&here).first().cloned());

    // Somebody whose key is not known here, though it be beat's.
    let stranger = here.run(&["run", "note", "--signing-key", &operator]);
    assert_eq!(stranger.code, 6, "{}", stranger.stderr);
    assert!(
        stranger.stderr.contains("not trusted here"),
        "{}",
        stranger.stderr
    );
    let genuine = hostile.definition("note");
    let evil = format!("echo hostile >> {};", here.path("hostile").display());
    let altered = genuine.replace("echo ", &format!("{evil} echo "));
    assert_ne!(altered, genuine);
    let (unsigned, _) = altered.rsplit_once(",\"signature\"").unwrap();
    let number = letter["sequence"].to_string();
    // It would write anew what is no definition of the job.
    beat.signal(Signal::STOP);
    let run = here.runs("note")[0]["run_id"].as_str().unwrap().to_owned();
    for (value, why) in [
        (altered.clone(), "altered"),
        (format!("{unsigned}}}"), "bears no signature"),
        (
            format!("{unsigned},\"signature\":\"v1 hello\"}}"),
            "not understood",
        ),
        (hostile.definition("tick"), "another place"),
    ] {
        for job in ["note", "fail"] {
            hostile.write(&format!("$KV.ORCH_STATE.def.{job}"), &value);
        }
        for (asked, code) in [
            (["run", "note"].as_slice(), 6),
            (&["retry", &run], 6),
            (&["dead", "retry", &number], 7),
        ] {
            let asked = here.run(&[asked, &["--signing-key", &key]].concat());
            assert_eq!(asked.code, code, "{}{}", asked.stdout, asked.stderr);
            assert!(asked.stderr.contains(why), "{why}: {}", asked.stderr);
        }
    }
    // The last one was that of another job.
    let told = || here.run(&["doctor"]).stdout;
    assert!(told().contains("`note` is that of `tick`"), "{}", told());
    for (value, what) in [
        (format!("{unsigned}}}"), "`note` is not signed"),
        ("{}".to_owned(), "`note` is not understood"),
    ] {
        hostile.write("$KV.ORCH_STATE.def.note", &value);
        assert!(told().contains(what), "{}", told());
    }

    // Beat says again what its files say; who trusts its key can run that. And what a record says was given to a run
    // is not taken for what was signed.
    beat.signal(Signal::CONT);
    beat.signal(Signal::HUP);
    wait_for("the definitions of beat", || {
        (hostile.definition("note") == genuine).then_some(())
    });
    assert!(!told().contains("shared definition"), "{}", told());
    let run = letter["run_id"].as_str().unwrap().replace('@', ".");
    let record = format!("$KV.ORCH_RUNS.{run}");
    let value = hostile.value("KV_ORCH_RUNS", &record);
    let altered = value.replace("\"who\":\"me\"", "\"who\":\"hostile\"");
    assert_ne!(altered, value);
    hostile.write(&record, &altered);
    let again = here.run(&["dead", "retry", "--all", "--signing-key", &key]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    wait_for("the retry", || {
        (here.lines("said").len() == 4).then_some(())
    });
    assert_eq!(here.lines("said"), ["me"; 4]);
    let keys = ["--signing-key", &operator, "--trusted-keys", &trusted];
    let asked = here.run(&[["run", "note", "--wait"].as_slice(), &keys].concat());
    assert_eq!(asked.code, 0, "{}", asked.stderr);
    // A job that makes others run is told whom its worker trusts.
    let notes = here.lines("notes").len();
    let asked = here.run(&[["run", "fan", "--wait"].as_slice(), &keys].concat());
    assert_eq!(asked.code, 0, "{}", asked.stderr);
    wait_for("what the job asked for", || {
        (here.lines("notes").len() == notes + 1).then_some(())
    });
    assert!(!here.path("hostile").exists());
}
