//! Every way into a server, from every place that may name it.

use std::{fs, path::Path};

use super::{
    authority::{Authority, Validity, operator},
    support::{Installation, nats::NatsServer},
};

/// Whether a command that asks the server for something gets its answer; also with the variables of its options.
fn gets_in(installation: &Installation, args: &[&str], env: &[(&str, &str)]) {
    is_answered(installation, args, env);
    if args.is_empty() {
        return;
    }
    let mut rest = args.iter().peekable();
    let mut variables = Vec::new();
    while let Some(option) = rest.next() {
        let name = option.trim_start_matches('-').to_uppercase();
        let value = rest.next_if(|next| !next.starts_with("--"));
        variables.push((
            format!("ORCHESTRATOR_{}", name.replace('-', "_")),
            value.unwrap_or(&"true"),
        ));
    }
    let variables = variables.iter().map(|(name, value)| (&**name, **value));
    let both: Vec<_> = env.iter().copied().chain(variables).collect();
    is_answered(installation, &[], &both);
}

fn is_answered(installation: &Installation, args: &[&str], env: &[(&str, &str)]) {
    let mut command = installation.command(&[args, &["queues", "-o", "json"]].concat());
    let output = command.envs(env.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?} {env:?}: {said}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A directory as systemd makes it for `LoadCredential=`, with the files in it.
fn credentials(installation: &Installation, files: &[(&str, &str)]) -> String {
    let dir = installation.path("credentials");
    fs::create_dir_all(&dir).unwrap();
    for (name, content) in files {
        fs::write(dir.join(name), content).unwrap();
    }
    dir.to_str().unwrap().to_owned()
}

fn context(installation: &Installation, name: &str, content: &serde_json::Value) -> String {
    let config = installation.path("config");
    let dir = config.join("nats/context");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(format!("{name}.json")), content.to_string()).unwrap();
    config.to_str().unwrap().to_owned()
}

#[test]
fn user_and_password() {
    let server = NatsServer::start_with("authorization { user: beat, password: \"p@ss\" }");
    let installation = Installation::on_nats(&server.url());
    let file = installation.path("password");
    fs::write(&file, "p@ss\n").unwrap();
    let options = ["--nats-user", "beat", "--nats-password-file", text(&file)];
    gets_in(&installation, &options, &[]);
    gets_in(
        &installation,
        &[],
        &[("NATS_USER", "beat"), ("NATS_PASSWORD", "p@ss")],
    );
    let own = [
        ("ORCHESTRATOR_NATS_USER", "beat"),
        ("ORCHESTRATOR_NATS_PASSWORD_FILE", text(&file)),
    ];
    gets_in(&installation, &[], &own);
    let dir = credentials(
        &installation,
        &[("nats-user", "beat\n"), ("nats-password", "p@ss\n")],
    );
    gets_in(&installation, &[], &[("CREDENTIALS_DIRECTORY", &dir)]);
    // The user may be known to all, the password only to the unit.
    fs::remove_file(installation.path("credentials/nats-user")).unwrap();
    gets_in(
        &installation,
        &["--nats-user", "beat"],
        &[("CREDENTIALS_DIRECTORY", &dir)],
    );
    let url = server.url().replace("://", "://beat:p%40ss@");
    gets_in(&installation, &[], &[("NATS_URL", &url)]);
    gets_in(&installation, &[], &[("ORCHESTRATOR_NATS", &url)]);
    let fields = serde_json::json!({"url": server.url(), "user": "beat", "password": "p@ss"});
    let config = context(&installation, "prod", &fields);
    let at = [("XDG_CONFIG_HOME", config.as_str()), ("NATS_URL", "")];
    gets_in(&installation, &["--nats-context", "prod"], &at);
    let named = [at[0], at[1], ("NATS_CONTEXT", "prod")];
    gets_in(&installation, &[], &named);
    fs::write(installation.path("config/nats/context.txt"), "prod").unwrap();
    gets_in(&installation, &[], &at);
}

#[test]
fn token() {
    let server = NatsServer::start_with("authorization { token: \"t0ken\" }");
    let installation = Installation::on_nats(&server.url());
    let file = installation.path("token");
    fs::write(&file, "t0ken\n").unwrap();
    gets_in(&installation, &["--nats-token-file", text(&file)], &[]);
    gets_in(&installation, &[], &[("NATS_TOKEN", "t0ken")]);
    let dir = credentials(&installation, &[("nats-token", "t0ken")]);
    gets_in(&installation, &[], &[("CREDENTIALS_DIRECTORY", &dir)]);
    let url = server.url().replace("://", "://t0ken@");
    gets_in(&installation, &[], &[("NATS_URL", &url)]);
    let fields = serde_json::json!({"url": server.url(), "token": "t0ken"});
    let config = context(&installation, "prod", &fields);
    gets_in(
        &installation,
        &["--nats-context", "prod"],
        &[("XDG_CONFIG_HOME", &config)],
    );
}

#[test]
fn nkey() {
    let pair = nkeys::KeyPair::new_user();
    let seed = pair.seed().unwrap();
    let config = format!(
        "authorization {{ users: [ {{ nkey: {} }} ] }}",
        pair.public_key()
    );
    let server = NatsServer::start_with(&config);
    let installation = Installation::on_nats(&server.url());
    let file = installation.path("seed");
    fs::write(&file, format!("# of beat\n{seed}\n")).unwrap();
    gets_in(&installation, &["--nats-nkey", text(&file)], &[]);
    gets_in(&installation, &[], &[("NATS_NKEY", text(&file))]);
    gets_in(&installation, &[], &[("NATS_NKEY", &seed)]);
    let dir = credentials(&installation, &[("nats-nkey", &seed)]);
    gets_in(&installation, &[], &[("CREDENTIALS_DIRECTORY", &dir)]);
    let fields = serde_json::json!({"url": server.url(), "nkey": file});
    let config = context(&installation, "prod", &fields);
    gets_in(
        &installation,
        &["--nats-context", "prod"],
        &[("XDG_CONFIG_HOME", &config)],
    );
}

/// What is given by mistake is in the journal else, and everybody's who may read that.
#[test]
fn a_seed_or_key_in_place_of_a_file_is_not_shown() {
    let seed = nkeys::KeyPair::new_user().seed().unwrap();
    let here = Installation::new();
    assert_eq!(here.run(&["keys", "new", "a.key"]).code, 0);
    let text = fs::read_to_string(here.path("a.key")).unwrap();
    let key = text
        .lines()
        .find(|line| line.starts_with("ed25519-private:"));
    let key = key.unwrap();
    let (cut, quoted, lengthened) = (&seed[..57], format!("\"{seed}\""), format!("{seed}A"));
    let quoted_key = format!("'{key}'");
    let (beat, jobs) = (&["beat", "--check"][..], &["jobs"][..]);
    let given = [
        ("NATS_NKEY", cut, jobs),
        ("NATS_NKEY", &quoted, jobs),
        ("NATS_NKEY", &lengthened, jobs),
        ("ORCHESTRATOR_NATS_NKEY", &seed, jobs),
        ("ORCHESTRATOR_NATS_TOKEN_FILE", &seed, jobs),
        ("NATS_CREDS", &seed, jobs),
        ("NATS_CA", key, jobs),
        ("ORCHESTRATOR_SIGNING_KEY", key, beat),
        ("ORCHESTRATOR_SIGNING_KEY", &quoted_key, beat),
        ("ORCHESTRATOR_SIGNING_KEY", &seed, beat),
        ("ORCHESTRATOR_SIGNING_KEY", key, &["jobs", "--help"]),
        ("ORCHESTRATOR_NATS_NKEY", &seed, &["jobs", "--help"]),
    ];
    here.schedule("a.toml", "[job.a]\nshell = \"true\"\n");
    for (name, value, args) in given {
        let mut command = here.command(args);
        let output = command.env(name, value).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let is_help = args.contains(&"--help");
        assert_eq!(output.status.success(), is_help, "{name}: {said}");
        assert!(!said.contains(&seed[4..20]), "{name}: {said}");
        assert!(!said.contains(&key[20..36]), "{name}: {said}");
        let names_it = said.contains(" characters") && (said.contains("seed"));
        assert!(is_help || names_it, "{name}: {said}");
    }
    for args in [
        ["keys", "show", key],
        ["keys", "new", &format!("no-such/{seed}")],
        ["nkey", &format!("no-such/{seed}"), "--quiet"],
    ] {
        let ended = here.run(&args);
        assert_ne!(ended.code, 0);
        let said = ended.stderr;
        assert!(
            !said.contains(&seed[4..20]) && !said.contains(&key[20..36]),
            "{said}"
        );
    }
}

#[test]
fn credentials_of_an_operators_account() {
    let (config, creds) = operator("beat");
    let server = NatsServer::start_with(&config);
    let installation = Installation::on_nats(&server.url());
    let file = installation.path("beat.creds");
    fs::write(&file, &creds).unwrap();
    gets_in(&installation, &["--nats-creds", text(&file)], &[]);
    gets_in(&installation, &[], &[("NATS_CREDS", text(&file))]);
    let dir = credentials(&installation, &[("nats.creds", &creds)]);
    gets_in(&installation, &[], &[("CREDENTIALS_DIRECTORY", &dir)]);
    let mut lines = creds.lines();
    let jwt = lines.find(|line| line.starts_with("eyJ")).unwrap();
    let seed = installation.path("seed");
    fs::write(&seed, lines.find(|line| line.starts_with("SU")).unwrap()).unwrap();
    let fields = serde_json::json!({"url": server.url(), "user_jwt": jwt, "nkey": seed});
    let config = context(&installation, "prod", &fields);
    gets_in(
        &installation,
        &["--nats-context", "prod"],
        &[("XDG_CONFIG_HOME", &config)],
    );
}

#[test]
fn tls_with_and_without_a_certificate_of_ours() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let of_server = authority.sign("server", "127.0.0.1", Validity::Now);
    let of_client = authority.sign("client", "client", Validity::Now);
    for more in ["", "handshake_first: true"] {
        let server = NatsServer::start_with(&authority.server(&of_server, more));
        let installation = Installation::new();
        let tls = server.url().replace("nats://", "tls://");
        let first: &[&str] = if more.is_empty() {
            &[]
        } else {
            &["--nats-tls-first"]
        };
        for url in [tls, server.url()] {
            let args = [&["--nats", &url, "--nats-ca", text(&authority.ca)], first].concat();
            gets_in(&installation, &args, &[]);
        }
    }
    let server = NatsServer::start_with(&authority.server(&of_server, "verify: true"));
    let installation = Installation::on_nats(&server.url());
    let (ca, cert, key) = (
        text(&authority.ca),
        text(&of_client.cert),
        text(&of_client.key),
    );
    let args = ["--nats-ca", ca, "--nats-cert", cert, "--nats-key", key];
    gets_in(&installation, &args, &[]);
    let env = [("NATS_CA", ca), ("NATS_CERT", cert), ("NATS_KEY", key)];
    gets_in(&installation, &[], &env);
    let read = |path: &str| fs::read_to_string(path).unwrap();
    let files = [
        ("nats-ca.pem", &*read(ca)),
        ("nats-cert.pem", &*read(cert)),
        ("nats-key.pem", &*read(key)),
    ];
    let unit = credentials(&installation, &files);
    gets_in(&installation, &[], &[("CREDENTIALS_DIRECTORY", &unit)]);
    let fields = serde_json::json!({"url": server.url(), "ca": ca, "cert": cert, "key": key});
    let config = context(&installation, "prod", &fields);
    gets_in(
        &installation,
        &["--nats-context", "prod"],
        &[("XDG_CONFIG_HOME", &config)],
    );
}
