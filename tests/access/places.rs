//! Which place counts, and what is wrong with one; no secret is shown anywhere.

use std::fs;

use super::support::{Installation, nats::NatsServer};

#[test]
fn what_is_wrong_with_a_place_is_usage_and_names_it() {
    let installation = Installation::new();
    let refused = |args: &[&str], env: &[(&str, &str)], part: &str| {
        let mut command = installation.command(&[&["queues"], args].concat());
        let output = command.envs(env.iter().copied()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(part), "{part}: {said}");
        assert!(!said.contains("canary"), "{said}");
    };
    refused(&[], &[("NATS_CREDS", "/nowhere/canry")], "/nowhere/canry");
    refused(&["--nats-cert", "/dev/null"], &[], "go together");
    refused(&["--nats-nkey", "/dev/null"], &[], "seed of an nkey");
    refused(
        &["--nats-nkey", "/nowhere"],
        &[],
        "the nkey for NATS: /nowhere: ",
    );
    refused(
        &["--nats-token-file", "/nowhere"],
        &[],
        "or token for NATS: /nowhere: ",
    );
    refused(&["--nats-password-file", "/dev/null"], &[], "is empty");
    refused(&["--nats-context", "nobody"], &[], "there is no ");
    refused(
        &["--nats-inbox-prefix", "a..b"],
        &[],
        "not the beginning of a subject",
    );
    let two = [("NATS_TOKEN", "canary"), ("NATS_USER", "beat")];
    refused(&[], &two, "two ways");
    refused(&[], &[("NATS_PASSWORD", "canary")], "nobody names the user");
    let shown = ["--nats", "nats://beat:canary@127.0.0.1:1"];
    refused(&shown, &[], "list of processes");
}

#[test]
fn help_shows_no_secret_of_the_environment() {
    let installation = Installation::new();
    for help in ["--help", "-h"] {
        let mut command = installation.command(&["beat", help]);
        let command = command.env("ORCHESTRATOR_NATS", "nats://beat:canary@h");
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("ORCHESTRATOR_NATS"), "{said}");
        assert!(!said.contains("canary"), "{said}");
    }
}

#[test]
fn an_option_wins_over_variables_and_these_over_the_selected_context() {
    let server = NatsServer::start_with("authorization { user: beat, password: right }");
    let installation = Installation::new();
    let config = installation.path("config/nats/context");
    fs::create_dir_all(&config).unwrap();
    let dead = r#"{"url": "nats://127.0.0.1:9", "user": "beat", "password": "wrong"}"#;
    fs::write(config.join("dead.json"), dead).unwrap();
    fs::write(installation.path("config/nats/context.txt"), "dead").unwrap();
    let good = format!(
        r#"{{"url": "{}", "user": "beat", "password": "right"}}"#,
        server.url()
    );
    fs::write(config.join("good.json"), good).unwrap();
    let home = installation.path("config");
    let url = server.url();
    let base = [("XDG_CONFIG_HOME", home.to_str().unwrap())];
    let code = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = installation.command(&[&["queues"], args].concat());
        command.envs(base).envs(env.iter().copied());
        command.output().unwrap().status.code().unwrap()
    };
    assert_eq!(code(&[], &[]), 5, "the selected context");
    assert_eq!(code(&["--nats-context", "good"], &[]), 0);
    let elsewhere = [
        ("NATS_URL", "nats://127.0.0.1:9"),
        ("NATS_PASSWORD", "wrong"),
    ];
    assert_eq!(
        code(&["--nats-context", "good"], &elsewhere),
        0,
        "the option wins"
    );
    assert_eq!(code(&[], &[("NATS_CONTEXT", "good")]), 0);
    let variables = [
        ("NATS_URL", &*url),
        ("NATS_USER", "beat"),
        ("NATS_PASSWORD", "right"),
    ];
    assert_eq!(code(&[], &variables), 0);
    let both = [
        ("NATS_CONTEXT", "dead"),
        variables[0],
        variables[1],
        variables[2],
    ];
    assert_eq!(
        code(&[], &both),
        0,
        "variables win over the context that one of them names"
    );
    // The selected context's secrets go to no other server.
    assert_eq!(code(&["--nats", &url], &[]), 6);
}
