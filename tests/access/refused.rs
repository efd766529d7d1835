//! Who does not get in is told at once why, and what to change.

use std::{fs, time::Duration};

use super::{
    authority::{Authority, Validity, operator},
    support::{Installation, nats::NatsServer, wait_for},
};

/// Below the time-out of a call.
const AT_ONCE: Duration = Duration::from_secs(4);
/// A machine may be slow for a moment; who waits for a time-out is slow every time.
const TRIES: usize = 3;

fn refused(args: &[&str], env: &[(&str, &str)], code: i32, parts: &[&str]) {
    let installation = Installation::new();
    let ask = || {
        let start = orchestrator::clock::monotonic();
        let mut command = installation.command(&[&["queues"], args].concat());
        let output = command.envs(env.iter().copied()).output().unwrap();
        (output, start.elapsed())
    };
    let mut tries = (0..TRIES).map(|_| ask());
    let is_at_once = |(_, took): &(_, Duration)| *took < AT_ONCE;
    let (output, took) = tries.find(is_at_once).unwrap_or_else(ask);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("canary"), "{said}");
    assert!(took < AT_ONCE, "{took:?}: {said}");
}

#[test]
fn wrong_credentials() {
    let server = NatsServer::start_with("authorization { user: beat, password: right }");
    let url = server.url();
    let wrong = [
        ("NATS_URL", &*url),
        ("NATS_USER", "beat"),
        ("NATS_PASSWORD", "canary"),
    ];
    refused(
        &[],
        &wrong,
        6,
        &["does not let the user beat in", "--nats-creds"],
    );
    refused(&["--nats", &url], &[], 6, &["a user without credentials"]);
    let stranger = nkeys::KeyPair::new_user();
    let seed = stranger.seed().unwrap();
    let env = [("NATS_URL", &*url), ("NATS_NKEY", &*seed)];
    refused(&[], &env, 6, &[&stranger.public_key()]);
    let dir = tempfile::tempdir().unwrap();
    let (_, creds) = operator("eve");
    let (config, _) = operator("beat");
    let file = dir.path().join("eve.creds");
    fs::write(&file, creds).unwrap();
    let server = NatsServer::start_with(&config);
    let args = [
        "--nats",
        &server.url(),
        "--nats-creds",
        file.to_str().unwrap(),
    ];
    refused(&args, &[], 6, &["does not let the user eve in"]);
}

#[test]
fn servers_that_are_not_what_they_should_be() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let other = Authority::new(dir.path(), "other");
    let (ca, foreign) = (authority.ca.to_str().unwrap(), other.ca.to_str().unwrap());
    let good = authority.sign("good", "127.0.0.1", Validity::Now);
    let server = NatsServer::start_with(&authority.server(&good, ""));
    refused(
        &["--nats", &server.url(), "--nats-ca", foreign],
        &[],
        5,
        &["is not trusted", "--nats-ca"],
    );
    // It demands TLS, and nobody has named its authority.
    refused(
        &["--nats", &server.url()],
        &[],
        5,
        &["is not trusted", "--nats-ca"],
    );
    let expired = authority.sign("expired", "127.0.0.1", Validity::Expired);
    let server = NatsServer::start_with(&authority.server(&expired, ""));
    refused(
        &["--nats", &server.url(), "--nats-ca", ca],
        &[],
        5,
        &["has expired"],
    );
    let elsewhere = authority.sign("elsewhere", "nats.example", Validity::Now);
    let server = NatsServer::start_with(&authority.server(&elsewhere, ""));
    refused(
        &["--nats", &server.url(), "--nats-ca", ca],
        &[],
        5,
        &["for another name", "nats.example"],
    );
    let plain = NatsServer::start();
    let tls = plain.url().replace("nats://", "tls://");
    refused(
        &["--nats", &tls, "--nats-ca", ca],
        &[],
        5,
        &["does not speak TLS", "nats://"],
    );
}

#[test]
fn servers_that_want_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let other = Authority::new(dir.path(), "other");
    let good = authority.sign("good", "127.0.0.1", Validity::Now);
    let server = NatsServer::start_with(&authority.server(&good, "verify: true"));
    let url = server.url();
    let base = ["--nats", &*url, "--nats-ca", authority.ca.to_str().unwrap()];
    refused(&base, &[], 6, &["--nats-cert"]);
    for files in [
        authority.sign("late", "client", Validity::Expired),
        other.sign("foreign", "client", Validity::Now),
    ] {
        let (cert, key) = (files.cert.to_str().unwrap(), files.key.to_str().unwrap());
        let args = [&base[..], &["--nats-cert", cert, "--nats-key", key]].concat();
        refused(&args, &[], 6, &["--nats-cert"]);
    }
}

#[test]
fn files_that_are_not_what_they_should_be() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let one = authority.sign("one", "client", Validity::Now);
    let other = authority.sign("other", "client", Validity::Now);
    let server = NatsServer::start_with(&authority.server(&one, "verify: true"));
    let (cert, key) = (one.cert.to_str().unwrap(), one.key.to_str().unwrap());
    let foreign = other.key.to_str().unwrap();
    let ca = authority.ca.to_str().unwrap();
    for (files, parts) in [
        (
            [ca, cert, foreign],
            &["do not belong together", cert, foreign][..],
        ),
        (
            [key, cert, key],
            &["the authority of NATS", "no certificate in it", key],
        ),
        (
            [ca, key, key],
            &["our certificate for NATS", "no certificate in it", key],
        ),
        (
            [ca, cert, cert],
            &["the key of our certificate for NATS", cert],
        ),
    ] {
        let [ca, cert, key] = files;
        let args = [
            "--nats",
            &server.url(),
            "--nats-ca",
            ca,
            "--nats-cert",
            cert,
            "--nats-key",
            key,
        ];
        refused(&args, &[], 2, parts);
    }
}

/// Whatever is wrong with a file that is to let somebody in is wrong usage, named with the file, without a server.
#[test]
fn files_of_users_that_are_not_what_they_should_be() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (_, creds) = operator("canary");
    let seed = creds.lines().find(|line| line.starts_with("SU")).unwrap();
    let (half, _) = creds.split_once(seed).unwrap();
    let wrong_seed = creds.replace(seed, "SUCANARYcanary");
    let missing = dir.path().join("missing").to_str().unwrap().to_owned();
    let directory = dir.path().to_str().unwrap().to_owned();
    let wrong = [
        file("empty", b""),
        file("noise", b"canary\n"),
        file("binary", &[0xff, 0xfe, 0]),
        file("half", half.as_bytes()),
        file("seed", wrong_seed.as_bytes()),
        missing,
        directory,
    ];
    let variables = [
        ("--nats-creds", "NATS_CREDS"),
        ("--nats-nkey", "NATS_NKEY"),
        ("--nats-password-file", ""),
        ("--nats-token-file", ""),
    ];
    for (option, variable) in variables {
        for path in &wrong {
            let is_secret = option.ends_with("-file");
            // Any text is a password.
            if is_secret
                && ["noise", "half", "seed"]
                    .iter()
                    .any(|name| path.ends_with(name))
            {
                continue;
            }
            let mut args = vec!["--nats", "nats://127.0.0.1:1", option, path.as_str()];
            if option == "--nats-password-file" {
                args.extend(["--nats-user", "beat"]);
            }
            refused(&args, &[], 2, &[path]);
            if !variable.is_empty() {
                refused(&args[..2], &[(variable, path)], 2, &[path]);
            }
        }
    }
}

#[test]
fn a_service_whose_key_was_taken_away_says_so_once() {
    let users = |password: &str| format!("authorization {{ user: beat, password: {password} }}");
    let server = NatsServer::start_with(&users("right"));
    let mut installation = Installation::on_nats(&server.url());
    installation.set("NATS_USER", "beat");
    installation.set("NATS_PASSWORD", "right");
    let worker = installation.start("worker", &["worker", "--queue", "default"]);
    wait_for("the worker", || {
        worker.log().contains("paused queues").then_some(())
    });
    server.reconfigure(&users("other"));
    let told = "does not let the user beat in any more";
    wait_for("what is wrong", || {
        worker.log().contains(told).then_some(())
    });
    wait_for("some tries", || {
        (server.log().matches("authentication error").count() >= 4).then_some(())
    });
    let log = worker.log();
    assert_eq!(log.matches(told).count(), 1, "{log}");
    assert!(!log.contains("async_nats"), "{log}");
    server.reconfigure(&users("right"));
    wait_for("its return", || {
        (worker.log().matches("connected to NATS").count() > 1).then_some(())
    });
}
